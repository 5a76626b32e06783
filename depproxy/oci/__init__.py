"""The values of a registry: names, digests, manifests, challenges, ranges, errors. No I/O, no Twisted."""

"""Bytes on disk: content-addressed blobs, and the files that are being filled."""

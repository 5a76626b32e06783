"""The policy: what is asked upstream, what is shared, what is fresh."""

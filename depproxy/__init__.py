"""A pull-through cache for container images on Twisted."""

__version__ = "0.1.0"

"""The cache index: what is known about the bytes (tags, links, sizes, last use), kept in Redis."""

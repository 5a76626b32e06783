"""Backups: one tar archive that holds what cannot be fetched again, and on request the blobs.

``archive``
    The archive: what is in it, in which order, and how a damaged or foreign one is known.
``records``
    The cache index in it: JSON lines that say nothing of Redis' own formats.
``configuration``
    The configuration file and those beside it that it names.
``restore``
    From an archive back to a store, an index and keys.
"""

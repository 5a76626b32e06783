"""How the values lie in Redis: the keys, and the texts of a tag and of a link.

Every key begins with ``depproxy:1:``, where 1 is the version of this layout:

========================  ======  ===========================================================
``depproxy:schema``       string  the version of the layout, 1
``depproxy:1:tags:HOME``  hash    tag -> ``<digest> <size> <checked> <media type>``
``depproxy:1:links:HOME`` hash    digest -> ``<size> <media type>``
``depproxy:1:sizes``      hash    digest of a stored blob -> size
``depproxy:1:used``       zset    digest of a stored blob, scored by its last use (Unix seconds)
``depproxy:1:bytes``      string  the sum of all sizes
``depproxy:1:bucket:KEY`` hash    what a token bucket holds, and as of when; goes by itself once it is full
``depproxy:1:settings``   hash    ``<group> <key>`` -> what the group's owners have set
``depproxy:1:settings-version``
                          string  another one after each change of the settings
========================  ======  ===========================================================

A media type comes from outside, even out of JSON, and may hold any character: it stands last, and is encoded
so that every Python string survives.
"""

from collections.abc import Iterable

from depproxy.index.interface import Home, Link, TagRecord
from depproxy.oci.digest import Digest

SCHEMA = 1
SCHEMA_KEY = "depproxy:schema"
PREFIX = f"depproxy:{SCHEMA}:"
SIZES = PREFIX + "sizes"
USED = PREFIX + "used"
BYTES = PREFIX + "bytes"
SETTINGS = PREFIX + "settings"
SETTINGS_VERSION = PREFIX + "settings-version"


def tags_key(home: Home) -> str:
    return f"{PREFIX}tags:{home}"


def links_key(home: Home) -> str:
    return f"{PREFIX}links:{home}"


def bucket_key(key: str) -> str:
    return f"{PREFIX}bucket:{key}"


def encode_tag(record: TagRecord) -> bytes:
    text = f"{record.digest} {record.size} {record.checked!r} {record.media_type}"
    return text.encode("utf-8", "surrogatepass")


def decode_tag(value: bytes) -> TagRecord | None:
    """The record, or None for what `encode_tag` cannot have written."""
    try:
        digest, size, checked, media_type = value.decode("utf-8", "surrogatepass").split(" ", 3)
        return TagRecord(Digest(digest), media_type, int(size), float(checked))
    except ValueError:
        return None


def encode_link(link: Link) -> bytes:
    return f"{link.size} {link.media_type}".encode("utf-8", "surrogatepass")


def decode_link(value: bytes) -> Link | None:
    """The link, or None for what `encode_link` cannot have written."""
    try:
        size, media_type = value.decode("utf-8", "surrogatepass").split(" ", 1)
        return Link(media_type, int(size))
    except ValueError:
        return None


def settings_field(group: str, key: str) -> str:
    """Neither has a space in it."""
    return f"{group} {key}"


def decode_settings(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, dict[str, bytes]]:
    """Values by group and key. What `settings_field` cannot have written is left out."""
    found: dict[str, dict[str, bytes]] = {}
    for name, value in fields:
        group, space, key = name.decode("utf-8", "replace").partition(" ")
        if space:
            found.setdefault(group, {})[key] = value
    return found

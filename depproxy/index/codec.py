"""How the values lie in Redis: the keys, and the texts of a tag and of a link.

Every key begins with ``depproxy:2:``, where 2 is the version of this layout. A HOME is a GROUP, an upstream and a
repository; a PLACE is a home without its group. A DIGEST is the bytes of a digest, without the name of its algorithm,
which the length tells: that halves what a blob costs.

==========================  ======  ===========================================================
``depproxy:schema``         string  the version of the layout, 2; ``restoring`` until a backup is restored
``depproxy:2:tags:HOME``    hash    tag -> ``<digest> <size> <checked> <media type>``
``depproxy:2:links:HOME``   hash    DIGEST -> ``<size> <day> <media type>``
``depproxy:2:homes:GROUP``  zset    PLACE, scored by its last read (Unix seconds)
``depproxy:2:held:GROUP``   zset    DIGEST of a stored blob that the group holds, scored by the group's last read
``depproxy:2:groups``       hash    group -> the sum of the sizes of what it holds
``depproxy:2:blobs``        hash    DIGEST of a stored blob -> ``<size>``, then `` <group>`` for each that holds it
``depproxy:2:used``         zset    DIGEST of a stored blob, scored by its last use
``depproxy:2:bytes``        string  the sum of all sizes
``depproxy:2:pins``         set     ``<HOME> <reference>`` of each image that is kept
``depproxy:2:bucket:KEY``   hash    what a token bucket holds, and as of when; goes by itself once it is full
``depproxy:2:settings``     hash    ``<group> <key>`` -> what the group's owners have set
``depproxy:2:settings-version``
                            string  another one after each change of the settings
==========================  ======  ===========================================================

A media type comes from outside, even out of JSON, and may hold any character: it stands last, and is encoded
so that every Python string survives. The usual ones are long, and there is one with each link: they have short names.
"""

from collections.abc import Iterable
from urllib.parse import unquote

from depproxy.index.interface import Home, Link, TagRecord
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Reference, parse_reference

SCHEMA = 2
SCHEMA_KEY = "depproxy:schema"
# A pattern that all keys match, of whatever version.
ALL = "depproxy:*"
# What is there in place of a version while a backup is restored.
RESTORING = "restoring"
PREFIX = f"depproxy:{SCHEMA}:"
BLOBS = PREFIX + "blobs"
USED = PREFIX + "used"
BYTES = PREFIX + "bytes"
GROUPS = PREFIX + "groups"
PINS = PREFIX + "pins"
DAY = 24 * 60 * 60
_ALGORITHMS = {32: "sha256", 64: "sha512"}
# Layers, configs and manifests of images. Never change the name of one, nor use it for another.
_SHORT = {
    "application/vnd.oci.image.layer.v1.tar+gzip": "~l",
    "application/vnd.oci.image.layer.v1.tar+zstd": "~z",
    "application/vnd.oci.image.config.v1+json": "~c",
    "application/vnd.oci.image.manifest.v1+json": "~m",
    "application/vnd.oci.image.index.v1+json": "~i",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "~L",
    "application/vnd.docker.container.image.v1+json": "~C",
    "application/vnd.docker.distribution.manifest.v2+json": "~M",
    "application/vnd.docker.distribution.manifest.list.v2+json": "~I",
}
_LONG = {short: media_type for media_type, short in _SHORT.items()}
SETTINGS = PREFIX + "settings"
SETTINGS_VERSION = PREFIX + "settings-version"


def tags_key(home: Home) -> str:
    return f"{PREFIX}tags:{home}"


def links_key(home: Home) -> str:
    return f"{PREFIX}links:{home}"


def homes_key(group: str) -> str:
    return f"{PREFIX}homes:{group}"


def held_key(group: str) -> str:
    return f"{PREFIX}held:{group}"


def bucket_key(key: str) -> str:
    return f"{PREFIX}bucket:{key}"


def encode_tag(record: TagRecord) -> bytes:
    text = f"{record.digest} {record.size} {record.checked!r} {_short(record.media_type)}"
    return text.encode("utf-8", "surrogatepass")


def decode_tag(value: bytes) -> TagRecord | None:
    """The record, or None for what `encode_tag` cannot have written."""
    try:
        digest, size, checked, media_type = value.decode("utf-8", "surrogatepass").split(" ", 3)
        return TagRecord(Digest(digest), _long(media_type), int(size), float(checked))
    except ValueError:
        return None


def encode_link(link: Link, now: float) -> bytes:
    return f"{link.size} {int(now // DAY)} {_short(link.media_type)}".encode("utf-8", "surrogatepass")


def decode_link(value: bytes) -> Link | None:
    """The link, or None for what `encode_link` cannot have written."""
    try:
        size, day, media_type = value.decode("utf-8", "surrogatepass").split(" ", 2)
        return Link(_long(media_type), int(size), int(day) * DAY)
    except ValueError:
        return None


def _short(media_type: str) -> str:
    # What looks like a short name without being one gets a sign before it.
    return _SHORT.get(media_type) or (f"={media_type}" if media_type.startswith(("~", "=")) else media_type)


def _long(text: str) -> str:
    return _LONG.get(text) or text.removeprefix("=")


def encode_digest(digest: Digest) -> bytes:
    return bytes.fromhex(digest.encoded)


def decode_digest(value: bytes) -> Digest:
    """Raises InvalidDigest for what `encode_digest` cannot have written."""
    return Digest(f"{_ALGORITHMS.get(len(value), 'unknown')}:{value.hex()}")


def encode_place(home: Home) -> str:
    return str(home).partition("|")[2]


def decode_place(group: str, place: bytes) -> Home | None:
    """The group's home, or None for what `encode_place` cannot have written."""
    try:
        upstream, repository = place.decode().split("|")
        return Home(group, unquote(upstream), Name(unquote(repository)))
    except ValueError:
        return None


def encode_pin(home: Home, reference: Reference) -> str:
    return f"{home} {reference}"


def decode_pin(value: bytes) -> tuple[Home, Reference] | None:
    """The pin, or None for what `encode_pin` cannot have written."""
    try:
        where, reference = value.decode().split(" ")
        group, _, place = where.partition("|")
        home = decode_place(unquote(group), place.encode())
        return None if home is None else (home, parse_reference(reference))
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

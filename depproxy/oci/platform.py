"""Platforms: what an image is built for (OCI image-spec, image-index.md, `platform`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

__all__ = ["ALL", "UNKNOWN", "InvalidPlatform", "Platform", "parse_platforms"]

ALL = "all"
MAX_PLATFORMS = 100

_match_part = re.compile(r"[A-Za-z0-9_.-]{1,64}").fullmatch
# Other names of architectures, among them those of uname(2), and the variant that is meant.
_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
}
# An index names these or leaves them out, and means the same.
_IMPLIED = {"arm64": "v8", "amd64": "v1"}
# What no variant means where that is one of several.
_DEFAULTS = {"arm": "v7"}


class InvalidPlatform(ValueError):
    """The text is no platform."""


@frozen
class Platform:
    """A platform in the one form that all its spellings have: `linux/arm64/v8` is `linux/arm64`, `linux/arm` is v7."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def of(cls, os: str, architecture: str, variant: str = "") -> Platform:
        """Raises InvalidPlatform for parts that have other characters than names of platforms have, or too many."""
        parts = (os, architecture, variant) if variant else (os, architecture)
        if not all(map(_match_part, parts)):
            raise InvalidPlatform(f"{'/'.join(parts)[:80]!r} is no platform such as linux/amd64 or linux/arm/v7")
        architecture, implied = _ALIASES.get(architecture.lower(), (architecture.lower(), ""))
        variant = variant.lower() or implied
        if variant.isdecimal():
            variant = f"v{variant}"
        if variant == _IMPLIED.get(architecture):
            variant = ""
        return cls(os.lower(), architecture, variant or _DEFAULTS.get(architecture, ""))

    @classmethod
    def parse(cls, text: str) -> Platform:
        """The platform that `os/architecture` or `os/architecture/variant` names. Raises InvalidPlatform."""
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or "" in parts:
            raise InvalidPlatform(f"{text[:80]!r} is no platform such as linux/amd64 or linux/arm/v7")
        return cls.of(*parts)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


# What attestations have in an index, and here whatever has a platform that is none.
UNKNOWN = Platform("unknown", "unknown")


def parse_platforms(texts: Sequence[str]) -> frozenset[Platform] | None:
    """The platforms that these texts name; None, which stands for all there are, if one of them is `all`.

    Raises InvalidPlatform.
    """
    if len(texts) > MAX_PLATFORMS:
        raise InvalidPlatform(f"{len(texts)} platforms are asked for, more than {MAX_PLATFORMS}")
    platforms = frozenset(Platform.parse(text) for text in texts if text != ALL)
    return None if ALL in texts else platforms

"""Images as users write them: which repository at which upstream a name means, and which reference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from depproxy.oci.digest import Digest
from depproxy.oci.errors import Code, OCIError
from depproxy.oci.reference import InvalidName, Name, Reference, Tag, library

__all__ = ["DOCKER_HUB", "LATEST", "GroupInName", "ImageNames", "parse_image", "refuse_address", "split_image"]

DOCKER_HUB = "docker.io"
# The names under which clients know Docker Hub.
DOCKER_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
LATEST = Tag("latest")
# As far as it is safe to show.
_is_host = re.compile(r"(?=[^/]*\.)[A-Za-z0-9._:-]{1,255}").fullmatch


# What a CI has in its variables: a host, if there is one, then group and image.
_is_address = re.compile(
    r"(?:(?:[^/]*[.:][^/]*|localhost)/)?(?P<group>[A-Za-z0-9._-][A-Za-z0-9._/-]{0,254})/dependency_proxy/containers/"
    r"(?P<image>[A-Za-z0-9._/:@-]{1,512})"
).fullmatch


class GroupInName(InvalidName):
    """What was given is the address of an `image` for a `group`, as clients pull it, and not an image's name."""

    def __init__(self, group: str, image: str) -> None:
        super().__init__(
            f"{image} for group {group} is meant, it seems: write --group {group} {image}, and leave out the host"
        )
        self.group = group
        self.image = image


def parse_image(text: str) -> tuple[str, Reference]:
    """Name and reference of an image as `docker pull` takes it: `name[:tag][@digest]`.

    Where there are both, the digest counts; where there is neither, the tag is `latest`. Of the name nothing is looked
    at but that it is not the address of a group's image: `ImageNames` says what it means. Raises InvalidTag,
    InvalidDigest or GroupInName.
    """
    refuse_address(text)
    name, reference = split_image(text)
    return name, LATEST if reference is None else reference


def refuse_address(text: str) -> None:
    """Raises GroupInName."""
    if (found := _is_address(text)) is not None:
        raise GroupInName(found["group"], found["image"])


def split_image(text: str) -> tuple[str, Reference | None]:
    """The same, but for addresses; None where there is neither tag nor digest: then all of the repository is meant."""
    name, at, digest = text.partition("@")
    tag = None
    colon = name.rfind(":")
    # One before the last slash parts a host from its port.
    if colon > name.rfind("/"):
        name, tag = name[:colon], Tag(name[colon + 1 :])
    return name, Digest(digest) if at else tag


class ImageNames:
    """Resolves names by `upstreams`, each with its prefixes; `default` is the upstream of names that name none."""

    def __init__(self, default: str, upstreams: Mapping[str, Sequence[str]]) -> None:
        self._default = default
        self._upstreams = upstreams
        self._prefixes = dict.fromkeys(DOCKER_HUB_HOSTS, DOCKER_HUB) if DOCKER_HUB in upstreams else {}
        self._prefixes.update((name, name) for name in upstreams)
        for name, prefixes in upstreams.items():
            self._prefixes.update((prefix, name) for prefix in prefixes)

    def find(self, image: str, prefix: str = "", namespace: str = "") -> tuple[str, Name]:
        """
        The upstream and the repository there that the name `image` means. Its first segment may name an upstream;
        `prefix` and `namespace` are further ways in which a client may have named one.

        Raises OCIError: NAME_INVALID, NAME_UNKNOWN.
        """
        upstream, rest = self._upstream(image, prefix, namespace)
        try:
            name = Name(rest)
            return upstream, library(name) if upstream == DOCKER_HUB else name
        except InvalidName as error:
            raise OCIError(Code.NAME_INVALID, str(error)) from None

    def by_prefix(self, prefix: str) -> str:
        """The upstream that a prefix, or the name of an upstream, means. Raises OCIError (NAME_UNKNOWN)."""
        if prefix not in self._prefixes:
            raise OCIError(Code.NAME_UNKNOWN, f"{prefix} is no configured prefix or upstream")
        return self._prefixes[prefix]

    def _upstream(self, image: str, prefix: str, namespace: str) -> tuple[str, str]:
        """The upstream's name, and the image without the segment that named it."""
        named = self._by_namespace(namespace) if namespace else None
        if prefix:
            by_prefix: str | None = self.by_prefix(prefix)
        else:
            first, slash, rest = image.partition("/")
            by_prefix = self._prefixes.get(first) if slash else None
            if by_prefix is not None:
                image = rest
            elif slash and _is_host(first) and named is None and self._default == DOCKER_HUB:
                # Docker Hub's namespaces have no dot: this is the host of another registry, and none of Hub's business.
                raise OCIError(
                    Code.NAME_UNKNOWN,
                    f'{first} is no configured upstream: add [upstreams."{first}"], or start with --upstream'
                    f" {first}=https://{first}",
                )
        if by_prefix is not None and named is not None and by_prefix != named:
            raise OCIError(
                Code.NAME_UNKNOWN,
                f"the address means {by_prefix}, but ns={namespace} means {named}: mend the client's mirror settings",
            )
        return by_prefix or named or self._default, image

    def _by_namespace(self, namespace: str) -> str:
        host = namespace.lower()
        if host in DOCKER_HUB_HOSTS:
            host = DOCKER_HUB
        if host not in self._upstreams:
            raise OCIError(
                Code.NAME_UNKNOWN,
                f"ns={namespace} is no configured upstream",
                detail={"upstreams": list(self._upstreams)},
            )
        return host

"""From a path to a home: which group, which upstream, which repository a request means.

Three layouts, and each with an image whose first segment may name an upstream::

    /v2/<group path>/dependency_proxy/containers/<image>/...   GitLab's
    /v2/<image>/...                                            a mirror's
    /v2/<prefix>/<image>/...   and   /<prefix>/v2/<image>/...  a mirror's with a prefix, written both ways

``?ns=<host>`` (containerd, BuildKit, regclient) names the registry that the client thinks of.
"""

import re
from collections.abc import Mapping

from depproxy.config import MirrorSettings, UpstreamSettings
from depproxy.index.interface import Home
from depproxy.oci.errors import Code, OCIError
from depproxy.oci.reference import InvalidName, Name, library

# As far as it is safe to show: the configuration holds the grammar.
_is_group = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*").fullmatch
MARK = "/dependency_proxy/containers/"
DOCKER_HUB = "docker.io"
# The names under which clients know Docker Hub.
DOCKER_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
# Paths seen lately; each costs some string work that a cached request can do without.
REMEMBERED = 8192


class Addresses:
    """Resolves paths by the configured mirror, upstreams and prefixes."""

    def __init__(
        self,
        mirror: MirrorSettings,
        upstreams: Mapping[str, UpstreamSettings],
    ) -> None:
        self._mirror = mirror
        self._upstreams = upstreams
        self._prefixes = dict.fromkeys(DOCKER_HUB_HOSTS, DOCKER_HUB) if DOCKER_HUB in upstreams else {}
        self._prefixes.update((name, name) for name in upstreams)
        for name, settings in upstreams.items():
            self._prefixes.update((prefix, name) for prefix in settings.prefixes)
        self._recent: dict[tuple[str, str, str], Home] = {}

    def home(self, path: str, prefix: str = "", namespace: str = "") -> Home:
        """
        The home that a request means: `path` is what stands between `/v2/` and `/manifests/` (or the like),
        `prefix` what stands before `/v2/`, `namespace` the value of `ns`.

        Raises OCIError: NAME_INVALID, NAME_UNKNOWN. Whether there is such a group, and who may pull from it, is not
        asked here.
        """
        key = (path, prefix, namespace)
        home = self._recent.get(key)
        if home is None:
            if len(self._recent) >= REMEMBERED:
                self._recent.clear()
            home = self._recent[key] = self._resolve(path, prefix, namespace)
        return home

    def group(self, path: str) -> str:
        """
        The group that a request for this path means; nothing else of the path is looked at. Raises OCIError
        (NAME_INVALID) for what can be no group.
        """
        group, mark, _ = path.partition(MARK)
        if not mark:
            return self._mirror.group
        if not _is_group(group):
            raise OCIError(Code.NAME_INVALID, f"{group[:100]!r} is no path of a group")
        # Docker refuses upper case in an image name, so group paths are kept, and compared, in lower case.
        return group.lower()

    def check_prefix(self, prefix: str) -> None:
        """Raise OCIError (NAME_UNKNOWN) for a text before `/v2/` that is no prefix and no upstream."""
        if prefix and prefix not in self._prefixes:
            raise OCIError(Code.NAME_UNKNOWN, f"{prefix} is no configured prefix or upstream")

    def _resolve(self, path: str, prefix: str, namespace: str) -> Home:
        before, mark, image = path.partition(MARK)
        if not mark:
            image = path
        elif prefix:
            raise OCIError(Code.NAME_UNKNOWN, f"no prefix may stand before /v2/{before}{MARK}")
        group = self.group(path)
        upstream, image = self._upstream(image, prefix, namespace)
        try:
            name = Name(image)
            return Home(group, upstream, library(name) if upstream == DOCKER_HUB else name)
        except InvalidName as error:
            raise OCIError(Code.NAME_INVALID, str(error)) from None

    def _upstream(self, image: str, prefix: str, namespace: str) -> tuple[str, str]:
        """The upstream's name, and the image without the segment that named it."""
        named = self._by_namespace(namespace) if namespace else None
        if prefix:
            self.check_prefix(prefix)
            by_prefix: str | None = self._prefixes[prefix]
        else:
            first, slash, rest = image.partition("/")
            by_prefix = self._prefixes.get(first) if slash else None
            if by_prefix is not None:
                image = rest
            elif slash and "." in first and named is None and self._mirror.upstream == DOCKER_HUB:
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
        return by_prefix or named or self._mirror.upstream, image

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

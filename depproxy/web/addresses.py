"""From a path to a home: which group, which upstream, which repository a request means.

Three layouts, and each with an image whose first segment may name an upstream::

    /v2/<group path>/dependency_proxy/containers/<image>/...   GitLab's
    /v2/<image>/...                                            a mirror's
    /v2/<prefix>/<image>/...   and   /<prefix>/v2/<image>/...  a mirror's with a prefix, written both ways

``?ns=<host>`` (containerd, BuildKit, regclient) names the registry that the client thinks of.
"""

from collections.abc import Mapping

from depproxy.config import GroupSettings, MirrorSettings, UpstreamSettings
from depproxy.index.interface import Home
from depproxy.oci.errors import Code, OCIError
from depproxy.oci.reference import InvalidName, Name, library

MARK = "/dependency_proxy/containers/"
DOCKER_HUB = "docker.io"
# The names under which clients know Docker Hub.
DOCKER_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
# Paths seen lately; each costs some string work that a cached request can do without.
REMEMBERED = 8192


class Addresses:
    """Resolves paths by the configured groups, upstreams and prefixes."""

    def __init__(
        self,
        groups: Mapping[str, GroupSettings],
        mirror: MirrorSettings,
        upstreams: Mapping[str, UpstreamSettings],
    ) -> None:
        self._groups = groups
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

        Raises OCIError: NAME_INVALID, NAME_UNKNOWN, or DENIED for a group that is not there or turned off.
        """
        key = (path, prefix, namespace)
        home = self._recent.get(key)
        if home is None:
            if len(self._recent) >= REMEMBERED:
                self._recent.clear()
            home = self._recent[key] = self._resolve(path, prefix, namespace)
        return home

    def check_prefix(self, prefix: str) -> None:
        """Raise OCIError (NAME_UNKNOWN) for a text before `/v2/` that is no prefix and no upstream."""
        if prefix and prefix not in self._prefixes:
            raise OCIError(Code.NAME_UNKNOWN, f"{prefix} is no configured prefix or upstream")

    def _resolve(self, path: str, prefix: str, namespace: str) -> Home:
        group, mark, image = path.partition(MARK)
        if mark:
            if prefix:
                raise OCIError(Code.NAME_UNKNOWN, f"no prefix may stand before /v2/{group}{MARK}")
            group = self._group(group)
        else:
            group, image = self._mirror.group, path
            self._enabled(group)
        upstream, image = self._upstream(image, prefix, namespace)
        try:
            name = Name(image)
            return Home(group, upstream, library(name) if upstream == DOCKER_HUB else name)
        except InvalidName as error:
            raise OCIError(Code.NAME_INVALID, str(error)) from None

    def _group(self, path: str) -> str:
        # Docker refuses upper case in an image name, so group paths are kept, and compared, in lower case.
        group = path.lower()
        if group not in self._groups:
            raise OCIError(Code.DENIED, f"group {path}: you have no access to it, or there is no such group")
        self._enabled(group)
        return group

    def _enabled(self, group: str) -> None:
        settings = self._groups.get(group)
        if settings is not None and not settings.enabled:
            raise OCIError(Code.DENIED, f"group {group}: its dependency proxy is turned off")

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

"""From a path to a home: which group, which upstream, which repository a request means.

Three layouts, and each with an image whose first segment may name an upstream::

    /v2/<group path>/dependency_proxy/containers/<image>/...   GitLab's
    /v2/<image>/...                                            a mirror's
    /v2/<prefix>/<image>/...   and   /<prefix>/v2/<image>/...  a mirror's with a prefix, written both ways

``?ns=<host>`` (containerd, BuildKit, regclient) names the registry that the client thinks of.
"""

import re
from collections.abc import Mapping

from depproxy.config import MirrorSettings, UpstreamSettings, image_names
from depproxy.index.interface import Home
from depproxy.oci.errors import Code, OCIError

# As far as it is safe to show: the configuration holds the grammar.
_is_group = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*").fullmatch
MARK = "/dependency_proxy/containers/"
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
        self._names = image_names(mirror, upstreams)
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

    def image(self, group: str, name: str) -> Home:
        """The home of the group that an image's name means. Raises OCIError: NAME_INVALID, NAME_UNKNOWN."""
        return Home(group, *self._names.find(name))

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
        if prefix:
            self._names.by_prefix(prefix)

    def _resolve(self, path: str, prefix: str, namespace: str) -> Home:
        before, mark, image = path.partition(MARK)
        if not mark:
            image = path
        elif prefix:
            raise OCIError(Code.NAME_UNKNOWN, f"no prefix may stand before /v2/{before}{MARK}")
        return Home(self.group(path), *self._names.find(image, prefix, namespace))

"""The house rules that can be read off the imports, held over every module of depproxy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).parent.parent
MAX_LINES = 350

# Who may import whom: web -> cache, access, backup -> upstream, storage, index -> oci.
LEVELS = {"oci": 0, "upstream": 1, "storage": 1, "index": 1, "cache": 2, "access": 2, "backup": 2, "web": 3}
# These stand beside the levels. Anyone but oci may import them; of the project they import oci alone.
SHARED = {"coalesce", "config", "metrics", "plural"}
# These see all, and nobody sees them, but for whom is named here.
TOPS = {
    "house": {"service"},
    "sources": {"house"},
    "keeping": {"house"},
    "service": {"tap"},
    "tap": {"plugin"},
    "cli": set[str](),
    "sdnotify": {"service"},
}
# Of these packages others see only the interfaces and errors: the objects come through constructors.
BEHIND_INTERFACES = {"upstream", "storage", "index"}
PUBLIC_MODULES = {"interface", "errors"}
# A class gets its own settings: the whole of them, and what reads them, is for those who build the objects.
WHOLE_CONFIGURATION = {"", "*", "load", "Settings", "settings", "settings.Settings", "settings.*"}
# Where a library may be imported.
HOMES = {
    "klein": {"web"},
    "treq": {"upstream"},
    "twisted.web.client": {"upstream"},
    "txredisapi": {"index"},
    "jwt": {"access"},
    "twisted.internet.reactor": {"service", "tap"},
}


@frozen
class Import:
    """One imported thing, by its full dotted name, and where it is imported."""

    place: str
    importer: str  # the package or top module of depproxy, or "plugin"
    target: str

    def is_of(self, name: str) -> bool:
        return self.target == name or self.target.startswith(name + ".")


def unit_of(module: tuple[str, ...]) -> str:
    """The package or top module that a module belongs to; "" for depproxy itself."""
    return module[1] if len(module) > 1 else ""


def imports_of(path: Path, package: tuple[str, ...], importer: str, root: Path) -> Iterator[Import]:
    """Everything that a file imports, anywhere in it: within functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*base, node.module) if node.module else base)
            targets = [f"{source}.{alias.name}" for alias in node.names]
        for target in targets:
            yield Import(f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}", importer, target)


def walk(root: Path) -> Iterator[Import]:
    """The imports of all modules of depproxy and of its plugins."""
    for path in sorted(root.glob("depproxy/**/*.py")):
        package = path.relative_to(root).parent.parts
        yield from imports_of(path, package, unit_of((*package, path.stem)), root)
    for path in sorted(root.glob("twisted/plugins/*.py")):
        yield from imports_of(path, ("twisted", "plugins"), "plugin", root)


def complaints(found: Import) -> Iterator[str]:
    """The rules that an import breaks, the plainest first."""
    for library, homes in HOMES.items():
        if found.is_of(library) and found.importer not in homes:
            yield f"{library} belongs to {' and '.join(sorted(homes))} only"
    if found.importer == "oci" and found.is_of("twisted"):
        yield "oci holds values and imports no Twisted"
    package, *inner = found.target.split(".")
    if package == "depproxy" and inner[:1] not in ([], ["__version__"], [found.importer]):
        yield from inner_complaints(found.importer, inner[0], ".".join(inner[1:]))


def inner_complaints(importer: str, unit: str, rest: str) -> Iterator[str]:
    """The rules that are broken by a module of `importer` that imports `depproxy.<unit>.<rest>`."""
    if unit in TOPS and importer not in TOPS[unit]:
        yield f"nobody imports {unit} but {', '.join(sorted(TOPS[unit])) or 'its command'}"
    if importer == "plugin" and unit != "tap":
        yield "the plugin names depproxy.tap and nothing else"
    if importer in TOPS or unit in TOPS or importer == "plugin":
        return
    if unit not in LEVELS and unit not in SHARED:
        yield f"depproxy.{unit} has no level: name it in LEVELS of {Path(__file__).name}"
    if importer in SHARED and unit != "oci":
        yield f"{importer} may import oci alone"
    if unit in SHARED and importer == "oci":
        yield "oci imports nothing of the project"
    if unit == "config" and (rest in WHOLE_CONFIGURATION or rest.startswith("load.")):
        yield "a class gets its own settings object, never the whole configuration"
    if unit in LEVELS and LEVELS[unit] >= LEVELS.get(importer, len(LEVELS)):
        yield f"{importer} may not import {unit}: web -> cache, access -> upstream, storage, index -> oci"
    if unit in BEHIND_INTERFACES and rest.partition(".")[0] not in PUBLIC_MODULES:
        yield f"of {unit} others may import {' and '.join(sorted(PUBLIC_MODULES))} only"


def violations(root: Path) -> list[str]:
    """What breaks a rule in the tree under `root`, one line each: where, what, which rule."""
    lines = []
    for found in walk(root):
        if rule := next(complaints(found), None):
            lines.append(f"{found.place}: imports {found.target}: {rule}")
    for path in sorted(root.glob("depproxy/**/*.py")):
        unit = unit_of((*path.relative_to(root).parent.parts, path.stem))
        if unit not in {"", "__init__", *LEVELS, *SHARED, *TOPS}:
            lines.append(f"{path.relative_to(root)}: depproxy.{unit} has no level: name it in LEVELS")
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > MAX_LINES:
            lines.append(f"{path.relative_to(root)}: {length} lines, more than {MAX_LINES}")
    for folder in ("twisted", "twisted/plugins"):
        if (root / folder / "__init__.py").exists():
            lines.append(f"{folder}/__init__.py: must not exist, it would hide Twisted's own package")
    return lines


def test_the_house_keeps_its_rules() -> None:
    found = violations(ROOT)
    assert not found, "\n" + "\n".join(found)


def test_the_walk_sees_the_house() -> None:
    assert Import("depproxy/oci/reference.py:8", "oci", "depproxy.oci.digest.Digest") in set(walk(ROOT))
    assert {found.importer for found in walk(ROOT)} >= {"oci"}


GOOD = {
    "depproxy/__init__.py": '__version__ = "1"',
    "depproxy/config.py": "from depproxy.oci.reference import Name",
    "depproxy/metrics.py": "import prometheus_client",
    "depproxy/oci/digest.py": "import hashlib\nfrom attrs import frozen",
    "depproxy/oci/reference.py": "from depproxy.oci.digest import Digest\nfrom . import digest",
    "depproxy/index/redis.py": "import txredisapi\nfrom depproxy.config import IndexSettings",
    "depproxy/index/server.py": "from .interface import Home\nfrom depproxy.oci import digest",
    "depproxy/upstream/agent.py": "from twisted.web.client import Agent\nfrom twisted.web import client",
    "depproxy/upstream/client.py": "import treq\nimport depproxy.metrics\nfrom .agent import RegistryAgent",
    "depproxy/access/tokens.py": "import jwt\nfrom depproxy.index.interface import ICacheIndex",
    "depproxy/cache/fill.py": "from ..upstream import errors\nfrom depproxy.storage.interface import IBlob",
    "depproxy/web/registry.py": "import klein\nfrom depproxy.cache.blobs import Blobs",
    "depproxy/web/status.py": "from depproxy import __version__\nimport depproxy.upstream.errors",
    "depproxy/service.py": "from twisted.internet import reactor\nfrom depproxy import config, web",
    "depproxy/tap.py": "from depproxy import config, service",
    "depproxy/cli.py": "from depproxy.config import load",
    "twisted/plugins/depproxy_plugin.py": "from depproxy import tap",
}


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


def test_a_good_tree_has_no_violation(tmp_path: Path) -> None:
    plant(tmp_path, GOOD)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("depproxy/oci/a.py", "from twisted.python import log", "imports no Twisted"),
        ("depproxy/oci/a.py", "import twisted", "imports no Twisted"),
        ("depproxy/oci/a.py", "from depproxy.metrics import Metrics", "oci imports nothing"),
        (
            "depproxy/oci/a.py",
            "from depproxy.storage.interface import IBlobStore",
            "oci may not import storage",
        ),
        (
            "depproxy/index/a.py",
            "from depproxy.upstream.interface import IUpstream",
            "index may not import upstream",
        ),
        (
            "depproxy/upstream/a.py",
            "from depproxy.cache.interface import Outcome",
            "upstream may not import cache",
        ),
        ("depproxy/cache/a.py", "from depproxy.access import groups", "cache may not import access"),
        ("depproxy/cache/a.py", "from ..web import body", "cache may not import web"),
        ("depproxy/cache/a.py", "from .. import web", "cache may not import web"),
        ("depproxy/cache/a/b.py", "from ...web.body import Sender", "cache may not import web"),
        ("depproxy/cache/a.py", "import depproxy.web.body", "cache may not import web"),
        (
            "depproxy/cache/a.py",
            "def f():\n    from depproxy.web import body",
            "a.py:2: imports depproxy.web.body",
        ),
        (
            "depproxy/cache/a.py",
            "if TYPE_CHECKING:\n    import depproxy.web",
            "a.py:2: imports depproxy.web:",
        ),
        ("depproxy/cache/a.py", "from depproxy.upstream.client import Client", "interface only"),
        ("depproxy/cache/a.py", "from depproxy.storage import files", "interface only"),
        ("depproxy/cache/a.py", "import depproxy.index", "interface only"),
        ("depproxy/cache/a.py", "from depproxy.index import *", "interface only"),
        ("depproxy/cache/a.py", "from depproxy.config import Settings", "never the whole"),
        ("depproxy/cache/a.py", "from depproxy.config.settings import Settings", "never the whole"),
        ("depproxy/cache/a.py", "from depproxy.config.load import load", "never the whole"),
        ("depproxy/cache/a.py", "from depproxy import config", "never the whole"),
        ("depproxy/web/a.py", "from depproxy.service import build", "nobody imports service but tap"),
        ("depproxy/web/a.py", "from depproxy import tap", "nobody imports tap but plugin"),
        ("depproxy/tap.py", "import depproxy.cli", "nobody imports cli"),
        ("depproxy/cli.py", "from depproxy import service", "nobody imports service but tap"),
        ("depproxy/metrics.py", "from depproxy.config import Settings", "metrics may import oci alone"),
        ("depproxy/config/a.py", "from depproxy.index.interface import Home", "config may import oci alone"),
        ("depproxy/cache/a.py", "from depproxy.attic import x", "depproxy.attic has no level"),
        ("depproxy/attic.py", "x = 1", "depproxy.attic has no level"),
        ("depproxy/cache/a.py", "import klein.app", "klein belongs to web only"),
        ("depproxy/service.py", "from klein import Klein", "klein belongs to web only"),
        ("depproxy/web/a.py", "import treq", "treq belongs to upstream only"),
        (
            "depproxy/web/a.py",
            "from twisted.web import client",
            "twisted.web.client belongs to upstream only",
        ),
        (
            "depproxy/web/a.py",
            "from twisted.web.client import Agent",
            "twisted.web.client belongs to upstream",
        ),
        ("depproxy/cache/a.py", "import txredisapi", "txredisapi belongs to index only"),
        ("depproxy/web/a.py", "import jwt", "jwt belongs to access only"),
        (
            "depproxy/cache/a.py",
            "from twisted.internet import defer, reactor",
            "belongs to service and tap only",
        ),
        ("depproxy/cli.py", "import twisted.internet.reactor as r", "belongs to service and tap only"),
        ("twisted/plugins/a.py", "from depproxy import service", "nobody imports service but tap"),
        ("twisted/plugins/a.py", "from depproxy.web import registry", "names depproxy.tap and nothing else"),
        ("twisted/__init__.py", "", "twisted/__init__.py: must not exist"),
        ("twisted/plugins/__init__.py", "", "twisted/plugins/__init__.py: must not exist"),
        ("depproxy/cache/a.py", "x = 1\n" * MAX_LINES, "a.py: 351 lines, more than 350"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, name: str, text: str, expected: str) -> None:
    plant(tmp_path, GOOD | {name: text})
    (line,) = violations(tmp_path)
    assert line.startswith(name)
    assert expected in line

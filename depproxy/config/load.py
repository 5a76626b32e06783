"""From a TOML file, the command line's overrides and the environment to `Settings`, or one `ConfigError`."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from attrs import evolve

from depproxy.config import names, values
from depproxy.config.document import Source, parse, read, suggestion
from depproxy.config.endpoints import parse_listener
from depproxy.config.errors import Wrong, dotted, refusal
from depproxy.config.settings import (
    CacheSettings,
    GroupSettings,
    IndexSettings,
    MirrorSettings,
    ServerSettings,
    Settings,
    StorageSettings,
    UpstreamSettings,
)

_COMMAND_LINE: Final = "command line"
_TABLES: Final = ("server", "storage", "index", "cache", "upstreams", "mirror", "groups")
# Hub's tokens come from another host than its manifests; without it Hub's password would be of no use.
_HUB_TOKEN_HOSTS: Final = ("auth.docker.io",)


def load(
    path: Path | None,
    *,
    listen: Sequence[str] = (),
    data: Path | None = None,
    upstreams: Mapping[str, str] = MappingProxyType({}),
    environ: Mapping[str, str],
) -> Settings:
    """The settings of the file at ``path`` (None: no file) with the command line's overrides on top.

    ``listen`` replaces server.listen, ``data`` storage.path; ``upstreams`` (name: URL) replaces the URLs of
    upstreams that are configured, and adds the others. Where nothing else says where the data goes,
    STATE_DIRECTORY, XDG_STATE_HOME and HOME in ``environ`` do. Raises ConfigError.
    """
    source, document = Source("no file", Path("/")), {}
    if path is not None:
        source = Source(os.fspath(path), Path(os.path.abspath(path)).parent)
        document = parse(source.name, read(path))
    source.refuse_unknown(document, _TABLES)
    configured = _upstreams(source, document, upstreams)
    mirror = MirrorSettings(**source.table(MirrorSettings, document, "mirror"))
    if mirror.upstream not in configured:
        expected = "must be a configured upstream" + suggestion(mirror.upstream, tuple(configured))
        raise source.refusal(("mirror", "upstream"), Wrong(expected), mirror.upstream)
    return Settings(
        server=_server(source, document, listen),
        storage=_storage(source, document, data, environ),
        index=IndexSettings(**source.table(IndexSettings, document, "index")),
        cache=CacheSettings(**source.table(CacheSettings, document, "cache")),
        upstreams=MappingProxyType(configured),
        mirror=mirror,
        groups=MappingProxyType(_groups(source, document, mirror)),
    )


def upstream_option(text: str) -> tuple[str, str]:
    """Name and URL of a ``--upstream NAME=URL`` option. Raises ConfigError."""
    name, equals, url = text.partition("=")
    try:
        if not equals:
            raise Wrong("must be NAME=URL, such as docker.io=https://registry-1.docker.io")
        return names.upstream_name(name), names.upstream_url(url)
    except Wrong as wrong:
        raise refusal(_COMMAND_LINE, "--upstream", wrong, text) from None


def _override(option: str, reader: values.Reader[Any], value: str) -> Any:
    try:
        return reader(value, Path("/"))
    except Wrong as wrong:
        raise refusal(_COMMAND_LINE, option, wrong, value) from None


def _server(source: Source, document: Mapping[str, Any], listen: Sequence[str]) -> ServerSettings:
    table = source.table(ServerSettings, document, "server")
    if listen:
        for text in listen:
            _override("--listen", values.text(parse_listener), text)
        table["listen"] = tuple(dict.fromkeys(listen))
    server = ServerSettings(**table)
    return server if "public_url" in table else evolve(server, public_url=_reached_at(server.listen))


def _reached_at(listen: Sequence[str]) -> str:
    """The URL of the first listener with a port; this host's name stands for all interfaces."""
    listener = next((found for found in map(parse_listener, listen) if found.port is not None), None)
    if listener is None:
        return "http://localhost"
    host = listener.interface
    if host is None:
        try:
            host = names.host_name(socket.gethostname())
        except Wrong:
            host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    port = f":{listener.port}" if listener.port else ""
    return f"{'https' if listener.kind == 'ssl' else 'http'}://{host}{port}"


def _storage(
    source: Source, document: Mapping[str, Any], data: Path | None, environ: Mapping[str, str]
) -> StorageSettings:
    table = source.table(StorageSettings, document, "storage")
    if data is not None:
        table["path"] = _override("--data", values.directory, os.path.abspath(data))
    elif "path" not in table:
        table["path"] = _state_directory(environ)
    return StorageSettings(**table)


def _state_directory(environ: Mapping[str, str]) -> Path:
    """systemd's StateDirectory= (systemd.exec(5)), else as the XDG Base Directory spec says."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        if not os.path.isabs(given):
            raise refusal("environment", "STATE_DIRECTORY", Wrong("must be an absolute path"), given)
        return Path(given)
    state = environ.get("XDG_STATE_HOME", "")
    # "If an implementation encounters a relative path ... it should consider the path invalid and ignore it."
    if os.path.isabs(state):
        return Path(state) / "depproxy"
    home = environ.get("HOME", "")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            home = ""
    if not os.path.isabs(home):
        raise refusal("environment", "HOME", Wrong("must be an absolute path, or storage.path be set"), home)
    return Path(home) / ".local" / "state" / "depproxy"


def _upstreams(
    source: Source, document: Mapping[str, Any], overrides: Mapping[str, str]
) -> dict[str, UpstreamSettings]:
    parent = source.subtable(document, "upstreams")
    tables: dict[str, dict[str, Any]] = {}
    for name in parent:
        at = ("upstreams", name)
        try:
            names.upstream_name(name)
        except Wrong as wrong:
            raise source.refusal(at, wrong) from None
        tables[name] = source.table(UpstreamSettings, parent, *at)
    tables.setdefault(names.HUB, {})
    for name, url in overrides.items():
        _override("--upstream", values.text(names.upstream_name), name)
        table = tables.setdefault(name, {})
        table["url"] = _override(f"--upstream {name}", values.text(names.upstream_url), url)
    found = {name: _upstream(source, name, table) for name, table in tables.items()}
    _refuse_collisions(source, found)
    return found


def _upstream(source: Source, name: str, table: Mapping[str, Any]) -> UpstreamSettings:
    """An upstream from its table; without a URL it is where its name says."""
    at = ("upstreams", name)
    for present, missing in (("username", "password_file"), ("password_file", "username")):
        if present in table and missing not in table:
            raise source.refusal((*at, present), Wrong(f"needs {missing} beside it"), str(table[present]))
    defaults: dict[str, Any] = {"url": names.HUB_URL if name == names.HUB else f"https://{name}"}
    if name == names.HUB and table.get("url", names.HUB_URL) == names.HUB_URL:
        defaults["token_hosts"] = _HUB_TOKEN_HOSTS
    return UpstreamSettings(name, **{**defaults, **table})


def _refuse_collisions(source: Source, upstreams: Mapping[str, UpstreamSettings]) -> None:
    """Raise if a prefix means two upstreams, or is an upstream's name."""
    owners = dict.fromkeys(names.HUB_ALIASES, names.HUB) | {name: name for name in upstreams}
    for upstream in upstreams.values():
        for index, prefix in enumerate(upstream.prefixes):
            if prefix in owners:
                wrong = Wrong(f'must be free, but means upstream "{owners[prefix]}"', prefix, f"[{index}]")
                raise source.refusal(("upstreams", upstream.name, "prefixes"), wrong)
            owners[prefix] = upstream.name


def _groups(source: Source, document: Mapping[str, Any], mirror: MirrorSettings) -> dict[str, GroupSettings]:
    tables = source.subtable(document, "groups")
    found: dict[str, GroupSettings] = {}
    for name in tables:
        at = ("groups", name)
        try:
            path = names.group_path(name)
            if path in found:
                raise Wrong("is there twice; upper and lower case are the same")
            table = source.subtable(tables, *at)
            nested = next((key for key, value in table.items() if isinstance(value, dict)), None)
            if nested is not None:
                raise Wrong(f"has no tables; a nested group is written [{dotted('groups', f'{name}/{nested}')}]")
        except Wrong as wrong:
            raise source.refusal(at, wrong) from None
        found[path] = GroupSettings(path, **source.table(GroupSettings, tables, *at))
    found.setdefault(mirror.group, GroupSettings(mirror.group))
    return found

"""From a TOML file, the command line's overrides and the environment to `Settings`, or one `ConfigError`."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from attrs import evolve

from depproxy.config import names, values
from depproxy.config.accounts import (
    AccessSettings,
    DeployTokenSettings,
    GroupSettings,
    TokenSettings,
    UserSettings,
    user_name,
)
from depproxy.config.certificates import refuse_shared_certificates
from depproxy.config.document import Source, parse, read
from depproxy.config.endpoints import parse_listener
from depproxy.config.errors import Wrong, dotted, refusal
from depproxy.config.keys import readers, suggestion, tables
from depproxy.config.place import default_socket, state_directory
from depproxy.config.settings import (
    CacheSettings,
    IndexSettings,
    MirrorSettings,
    ServerSettings,
    Settings,
    StorageSettings,
    UpstreamSettings,
    image_names,
)
from depproxy.config.units import UNLIMITED
from depproxy.config.warm import WarmSettings, warm
from depproxy.oci.errors import OCIError
from depproxy.oci.image import parse_image

_COMMAND_LINE: Final = "command line"
_TABLES: Final = ("server", "storage", "index", "cache", "upstreams", "mirror", "groups", "access", "users", "warm")
# Hub's tokens come from another host than its manifests; without it Hub's password would be of no use.
_HUB_TOKEN_HOSTS: Final = ("auth.docker.io",)


def load(
    path: Path | None,
    *,
    listen: Sequence[str] = (),
    data: Path | None = None,
    upstreams: Mapping[str, str] = MappingProxyType({}),
    environ: Mapping[str, str],
    stands_for: Path | None = None,
) -> Settings:
    """The settings of the file at ``path`` (None: no file) with the command line's overrides on top.

    ``listen`` replaces server.listen, ``data`` storage.path; ``upstreams`` (name: URL) replaces the URLs of
    upstreams that are configured, and adds the others. Where nothing else says where the data goes,
    STATE_DIRECTORY, XDG_STATE_HOME and HOME in ``environ`` do. A file that ``stands_for`` another is read as if it were
    that one: messages name it, and relative paths start beside it. Raises ConfigError.
    """
    source, document = Source("no file", Path("/")), {}
    if path is not None:
        meant = stands_for or path
        source = Source(os.fspath(meant), Path(os.path.abspath(meant)).parent)
        document = parse(source.name, read(path))
    source.refuse_unknown(document, _TABLES)
    configured = _upstreams(source, document, upstreams)
    mirror = MirrorSettings(**source.table(MirrorSettings, document, "mirror"))
    if mirror.upstream not in configured:
        expected = "must be a configured upstream" + suggestion(mirror.upstream, tuple(configured))
        raise source.refusal(("mirror", "upstream"), Wrong(expected), mirror.upstream)
    storage = _storage(source, document, data, environ)
    settings = Settings(
        server=_server(source, document, listen, storage),
        storage=storage,
        index=IndexSettings(**source.table(IndexSettings, document, "index")),
        cache=CacheSettings(**source.table(CacheSettings, document, "cache")),
        upstreams=MappingProxyType(configured),
        mirror=mirror,
        groups=MappingProxyType(_groups(source, document, mirror)),
        access=AccessSettings(**source.table(AccessSettings, document, "access")),
        users=_users(source, document),
        warm=_warm(source, document, mirror, configured),
    )
    _refuse_strangers(source, settings)
    _refuse_parts_of_anything(source, settings)
    return settings


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


def _server(
    source: Source, document: Mapping[str, Any], listen: Sequence[str], storage: StorageSettings
) -> ServerSettings:
    table = source.table(ServerSettings, document, "server")
    if listen:
        for text in listen:
            _override("--listen", values.text(parse_listener), text)
        table["listen"] = tuple(dict.fromkeys(listen))
    if "admin_socket" not in table:
        table["admin_socket"] = default_socket(source, storage.path)
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
        table["path"] = state_directory(environ)
    return StorageSettings(**table)


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
    parent = source.subtable(document, "groups")
    for name, table in parent.items():
        for key, value in table.items() if isinstance(table, dict) else ():
            known = tuple(readers(GroupSettings))
            if isinstance(value, dict) and not get_close_matches(key.lower(), known, n=1):
                wrong = Wrong(f"has no such table; a nested group is written [{dotted('groups', f'{name}/{key}')}]")
                raise source.refusal(("groups", name, key), wrong)
    found = dict(source.read(("groups",), tables(GroupSettings, names.group_path), parent))
    found.setdefault(mirror.group, GroupSettings(mirror.group))
    return found


def _refuse_parts_of_anything(source: Source, settings: Settings) -> None:
    """Raise for a quota in percent of a cache that has no limit."""
    for group in settings.groups.values():
        if group.quota is not None and group.quota.part is not None and settings.storage.max_size == UNLIMITED:
            wrong = Wrong('must be a size such as "20 GiB", because storage.max_size is unlimited')
            raise source.refusal(("groups", group.path, "quota"), wrong)


def _users(source: Source, document: Mapping[str, Any]) -> Mapping[str, UserSettings]:
    return source.read(("users",), tables(UserSettings, user_name), document.get("users", {}))


def _warm(
    source: Source, document: Mapping[str, Any], mirror: MirrorSettings, upstreams: Mapping[str, UpstreamSettings]
) -> tuple[WarmSettings, ...]:
    if "warm" not in document:
        return ()
    known = image_names(mirror, upstreams)
    found = source.read(("warm",), warm, document["warm"])
    for number, settings in enumerate(found):
        for index, image in enumerate(settings.images):
            try:
                known.find(parse_image(image)[0])
            except OCIError as error:
                raise source.refusal(("warm",), Wrong(str(error), image, f"[{number}].images[{index}]")) from None
    return tuple(evolve(settings, group=settings.group or mirror.group) for settings in found)


def _refuse_strangers(source: Source, settings: Settings) -> None:
    """Raise for a member who is no user, unless users are kept elsewhere, too; and for a name or token given twice."""
    for group in settings.groups.values():
        for name in () if settings.access.htpasswd else group.members:
            if name not in settings.users:
                wrong = Wrong("must be a user of [users]" + _near(name, settings))
                raise source.refusal(("groups", group.path, "members", name), wrong)
    refuse_shared_certificates(source, settings.users)
    _refuse_twins(source, settings)


def _near(name: str, settings: Settings) -> str:
    users = tuple(settings.users)
    return suggestion(name, users) if users else f"; `depproxy user add {name}` makes one"


def _refuse_twins(source: Source, settings: Settings) -> None:
    hashes: dict[str, tuple[str, ...]] = {}
    logins: dict[str, tuple[str, ...]] = {name: ("users", name) for name in settings.users}
    for at, token in _tokens(settings):
        first = hashes.setdefault(token.hash, at)
        if first != at:
            raise source.refusal((*at, "hash"), Wrong(f"must be its own, but is that of {dotted(*first)}"))
        if isinstance(token, DeployTokenSettings):
            first = logins.setdefault(token.username, at)
            if first != at:
                wrong = Wrong(f"must be its own, but is taken by {dotted(*first)}")
                raise source.refusal((*at, "username"), wrong, token.username)


def _tokens(settings: Settings) -> Iterator[tuple[tuple[str, ...], TokenSettings]]:
    for user in settings.users.values():
        for token in user.tokens.values():
            yield ("users", user.name, "tokens", token.name), token
    for group in settings.groups.values():
        for kind, found in (("deploy_tokens", group.deploy_tokens), ("access_tokens", group.access_tokens)):
            for token in found.values():
                yield ("groups", group.path, kind, token.name), token

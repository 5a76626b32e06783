"""What each mistake in the configuration says: one line, with file, key, value and what would be right."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from depproxy.config import (
    ConfigError,
    load,
    mask,
    upstream_option,
)
from tests import configurations
from tests.configurations import HOME, load_text, to_toml


def mistake(toml: str, **overrides: Any) -> str:
    """The error that a file with this content causes: one line, here without the file's directory."""
    with pytest.raises(ConfigError) as caught:
        load_text(toml, **overrides)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return re.sub(r"^\S*/(?=depproxy\.toml)", "", message)


def complaint(content: bytes) -> str:
    """What is wrong with a file of ``content``, without its name; empty if nothing is."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "depproxy.toml")
        path.write_bytes(content)
        try:
            load(path, environ=HOME)
        except ConfigError as error:
            message = str(error)
        else:
            return ""
    assert message.isprintable()
    assert message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


@given(configurations.documents())
def test_any_document_loads_or_says_in_one_line_what_is_wrong(document: dict[str, Any]) -> None:
    assert "u:p" not in complaint(to_toml(document).encode())


@given(st.binary(max_size=200) | st.text("[]{}=\"'#.\n\r\\a0-", max_size=60).map(str.encode))
def test_any_bytes_load_or_say_in_one_line_what_is_wrong(content: bytes) -> None:
    complaint(content)


HASH = f'hash = "sha256:{64 * "a"}"\n'
OTHER = f'hash = "sha256:{64 * "b"}"\n'
TOKEN = "[users.alice.tokens.laptop]\n" + HASH
DEPLOY = '[groups.acme.deploy_tokens.ci]\nusername = "ci"\n' + HASH
SCHEDULE = '[[warm]]\nschedule = "0 4 * * *"\n'
ROLES = 'must be "guest", "reporter", "developer", "maintainer", "owner"'
SCOPES = 'must be "api" or "read_registry" or "write_registry" or "read_virtual_registry" or "write_virtual_registry"'

ACCOUNT_MISTAKES = [
    ("users = 1", "users: must be a table of tables"),
    ("users.alice = true", "users.alice: must be a table"),
    ('[users."a b"]', 'users."a b": must be a user name of 1 to 255 letters, digits and _ . @ -'),
    ("[users.gitlab-ci-token]", "users.gitlab-ci-token: is the user name of CI job tokens; choose another"),
    ('users.alice.password = "abc"', "users.alice.password: must be a hash, as `depproxy hash-password` prints it"),
    ("users.alice.password = 1234", "users.alice.password: must be a string in quotes"),
    ("users.alice.password_login = 0", "users.alice.password_login = 0: must be true or false"),
    ("users.alice.admins = true", 'users.alice.admins: unknown key; did you mean "admin"?'),
    ("users.alice.certificates = 'a'", 'users.alice.certificates = "a": must be an array in square brackets'),
    ("[users.a]\ncertificates=['x']\n[users.b]\ncertificates=['x']", "must mean one user, but means users.a, too"),
    ('users.alice.tokens = "x"', "users.alice.tokens: must be a table of tables"),
    ("users.alice.tokens.x = 1", "users.alice.tokens.x: must be a table"),
    ("[users.alice.tokens.x]", "users.alice.tokens.x: needs the key hash"),
    ('[users.alice.tokens."a/b"]', 'users.alice.tokens."a/b": must be a name of 1 to 100 letters, digits and _ . -'),
    ("[users.alice.tokens.x]\nhash = 'abc'", "users.alice.tokens.x.hash: must be sha256: and 64 hexadecimal digits"),
    ("[users.alice.tokens.x]\nhash = 1", "users.alice.tokens.x.hash: must be a string in quotes"),
    (TOKEN + 'scopes = ["read"]', f'users.alice.tokens.laptop.scopes[0] = "read": {SCOPES}'),
    (TOKEN + 'scopes = ["api", "api"]', 'users.alice.tokens.laptop.scopes[1] = "api": stands there twice'),
    (TOKEN + "scopes = []", "users.alice.tokens.laptop.scopes = []: must have from 1 to 1000 items, not 0"),
    (TOKEN + 'scopes = "api"', 'users.alice.tokens.laptop.scopes = "api": must be an array in square brackets'),
    (
        TOKEN + 'expires = "2027-01-31"',
        'users.alice.tokens.laptop.expires = "2027-01-31": must be a date such as 2027-01-31, or 2027-01-31T12:00:00Z, '
        "without quotes",
    ),
    (TOKEN + "expires = 12:00:00", "users.alice.tokens.laptop.expires = 12:00:00: must be a date such as"),
    (TOKEN + "expire = 2027-01-31", 'users.alice.tokens.laptop.expire: unknown key; did you mean "expires"?'),
    (TOKEN + 'role = "guest"', "users.alice.tokens.laptop.role: unknown key; known here: hash, scopes, expires"),
    (
        TOKEN + "[users.bob.tokens.x]\n" + HASH,
        "users.bob.tokens.x.hash: must be its own, but is that of users.alice.tok",
    ),
    (TOKEN + DEPLOY, "groups.acme.deploy_tokens.ci.hash: must be its own, but is that of users.alice.tokens.laptop"),
    ("[groups.acme.deploy_tokens.ci]\n" + HASH, "groups.acme.deploy_tokens.ci: needs the key username"),
    (DEPLOY + "[users.ci]", 'groups.acme.deploy_tokens.ci.username = "ci": must be its own, but is taken by users.ci'),
    (
        DEPLOY + '[groups.b.deploy_tokens.ci]\nusername = "ci"\n' + OTHER,
        'groups.b.deploy_tokens.ci.username = "ci": must be its own, but is taken by groups.acme.deploy_tokens.ci',
    ),
    (DEPLOY.replace('"ci"', '"c:i"'), "groups.acme.deploy_tokens.ci.username: must be a user name of 1 to 255 letters"),
    (
        "[groups.acme.access_tokens.x]\nrole = 'admin'\n" + HASH,
        f'groups.acme.access_tokens.x.role = "admin": {ROLES}',
    ),
    (
        "[groups.acme.access_tokens.x]\nusername = 'x'\n" + HASH,
        "groups.acme.access_tokens.x.username: unknown key; known here: hash, scopes, expires, role",
    ),
    ("groups.acme = true", "groups.acme: must be a table"),
    (
        'groups.acme.owner = "alice"',
        "groups.acme.owner: unknown key; known here: enabled, ttl, quota, anonymous, ",
    ),
    (
        'groups.acme.members = { alise = "guest" }\n[users.alice]',
        'groups.acme.members.alise: must be a user of [users]; did you mean "alice"?',
    ),
    (
        'groups.acme.members = { alise = "guest" }\n[users.bob]',
        "members.alise: must be a user of [users]; known here: bob",
    ),
    ('groups.acme.members = { alice = "Guest" }\nusers.alice = {}', f'groups.acme.members.alice = "Guest": {ROLES}'),
    ("groups.acme.members = { alice = 10 }\nusers.alice = {}", f"groups.acme.members.alice = 10: {ROLES}"),
    ('groups.acme.members = ["alice"]', 'groups.acme.members = [...]: must be a table such as { alice = "guest" }'),
    ("groups.acme.members = { 'a b' = 'guest' }", 'groups.acme.members."a b": must be a user name of 1 to 255 letters'),
    ('groups.acme.anonymous = ["10.0.0.1/8"]', 'groups.acme.anonymous[0] = "10.0.0.1/8": has bits set beyond'),
    (
        'groups.acme.quota = "0%"',
        'groups.acme.quota = "0%": must be a size of at least "100 MiB", such as "20 GiB", or a',
    ),
    ('groups.acme.quota = "101%"', 'groups.acme.quota = "101%": must be a size of at least "100 MiB"'),
    ('groups.acme.quota = "1 MiB"', 'groups.acme.quota = "1 MiB": must be a size of at least "100 MiB"'),
    ("groups.acme.quota = 50", "groups.acme.quota = 50: must be a size of at least"),
    (
        'groups.acme.quota = "50%"\nstorage.max_size = "unlimited"',
        'groups.acme.quota: must be a size such as "20 GiB", because storage.max_size is unlimited',
    ),
    ('groups.acme.ttl = "36h"', 'groups.acme.ttl = "36h": must be whole days, such as "90d"'),
    ('groups.acme.ttl = "12h"', 'groups.acme.ttl = "12h": must be a duration from "1d" to "36500d"'),
    ('groups.acme.ttl = "36501d"', 'groups.acme.ttl = "36501d": must be a duration from "1d" to "36500d"'),
    ('groups.acme.ttl = "forever"', 'groups.acme.ttl = "forever": must be a duration from "1d" to "36500d"'),
    ("groups.acme.ttl = 30", 'groups.acme.ttl = 30: needs a unit: "30d" for 30 days'),
    ("access.token_lifetime = 900", 'access.token_lifetime = 900: needs a unit: "15m" for 900 seconds'),
    ('access.token_lifetime = "2d"', 'access.token_lifetime = "2d": must be a duration from "1m" to "1d"'),
    ('access.algorithm = "none"', 'access.algorithm = "none": must be "HS256" or "ES256" or "EdDSA"'),
    ('access.htpasswd = "no"', 'access.htpasswd = "no": must be a readable file (No such file or directory)'),
    ("access.guesses_per_account = 0", "access.guesses_per_account = 0: must be a whole number from 1 to 1000000"),
    ("access.require_write = true", 'access.require_write: unknown key; did you mean "require_write_registry"?'),
    ('server.trusted_proxies = "10.0.0.1"', 'server.trusted_proxies = "10.0.0.1": must be an array in square brackets'),
    ("server.admin_socket = 7", "server.admin_socket = 7: must be a path in quotes"),
    (
        f'server.admin_socket = "/{"x" * 107}"',
        "must be a path of at most 107 bytes, as Unix sockets have, not 108",
    ),
    (f'storage.path = "/{"x" * 97}"', 'x...": must be a path of at most 107 bytes, as Unix sockets have, not 109'),
    ('server.client_ca = "/etc/passwd"', 'server.client_ca = "/etc/passwd": must hold certificates in PEM form'),
]

MISTAKES = [
    ("a = ", "depproxy.toml:1: is not TOML: Invalid value; text must stand in quotes"),
    ("[index]\n\nurl = embedded\n", "depproxy.toml:3: is not TOML: Invalid value; text must stand in quotes"),
    ("[index]\n[index]\n", "depproxy.toml:2: is not TOML: Cannot declare ('index',) twice"),
    (
        "a = " + "[" * 5000,
        "depproxy.toml: is not TOML that can be read: arrays or tables are nested too deep",
    ),
    ("a = " + "1" * 5000, "depproxy.toml: is not TOML that can be read: a number has too many digits"),
    ("serve = 1", 'depproxy.toml: serve: unknown key; did you mean "server"?'),
    ("server = 1", "depproxy.toml: server = 1: must be a table, written [server]"),
    ("[server]\nworkers = 4", "depproxy.toml: server.workers: unknown key; known here: listen, public_url, "),
    (
        '[upstreams."ghcr.io"]\nmax_conections = 1',
        'upstreams."ghcr.io".max_conections: unknown key; did you mean ',
    ),
    (
        '[upstreams."ghcr.io"]\nmax_connections = 0',
        'upstreams."ghcr.io".max_connections = 0: must be a whole number',
    ),
    (
        'upstreams."ghcr.io".retries = 0x' + "f" * 5000,
        "retries = (a number of 20000 bits): must be a whole number",
    ),
    ('upstreams."ghcr.io".retries = true', "retries = true: must be a whole number from 0 to 10"),
    ('upstreams."ghcr.io".on_404 = "drop"', 'on_404 = "drop": must be "follow" or "keep"'),
    (
        "[upstreams.ghcr.io]",
        'upstreams.ghcr: must be a host with a dot or a port, in quotes, such as [upstreams."ghcr',
    ),
    ('[upstreams."GHCR.io"]', 'upstreams."GHCR.io": must be in lower case: "ghcr.io"'),
    (
        '[upstreams."index.docker.io"]',
        'upstreams."index.docker.io": is Docker Hub, whose name here is "docker.io"',
    ),
    ('[upstreams."a.io/b"]', 'upstreams."a.io/b": must be named by the host of its image references'),
    (
        'upstreams."a.io".url = "a.io"',
        'url = "a.io": must be an http or https URL such as https://registry.example',
    ),
    (
        'upstreams."a.io".url = "https://a.io/?a=b"',
        'url = "https://a.io/?***": must be a URL without ? and #',
    ),
    ('upstreams."a.io".url = "https://a.io/v2/"', "must be the registry's URL without /v2 at its end"),
    ('upstreams."a.io".url = "https://a.io/a b"', "must have a plain path or none"),
    ('upstreams."a.io".url = "https://a.io/../b"', "must have a plain path or none"),
    ('upstreams."a.io".url = "https://a.io:0"', "must have a port from 1 to 65535"),
    ('upstreams."a.io".url = "https://256.1.1.1"', "must be a host or host:port"),
    ('upstreams."a.io".url = "https://[::1%eth0]"', "must be a host or host:port"),
    ('upstreams."a.io".proxy = "http://p"', "must be the URL of a forward proxy, http://host:port"),
    ('upstreams."a.io".proxy = "https://p:1"', "must be the URL of a forward proxy, http://host:port"),
    ('upstreams."a.io".prefixes = "hub"', 'prefixes = "hub": must be an array in square brackets'),
    ('upstreams."a.io".prefixes = ["a/b"]', 'prefixes[0] = "a/b": must be one path segment'),
    ('upstreams."a.io".prefixes = ["v2"]', 'prefixes[0] = "v2": is an address of depproxy itself'),
    ('upstreams."a.io".prefixes = ["a", "a"]', 'prefixes[1] = "a": stands there twice'),
    (
        'upstreams."a.io".prefixes = ["docker.io"]',
        'prefixes[0] = "docker.io": must be free, but means upstream',
    ),
    (
        'upstreams."a.io".prefixes = ["x"]\nupstreams."b.io".prefixes = ["y", "x"]',
        'upstreams."b.io".prefixes[1] = "x": must be free, but means upstream "a.io"',
    ),
    ('upstreams."a.io".username = "ci"', 'username = "ci": needs password_file beside it'),
    ('upstreams."a.io".username = "c:i"', "must be a user name of 1 to 255 characters without a colon"),
    (
        'upstreams."a.io".password_file = "/etc/passwd"',
        'password_file = "/etc/passwd": needs username beside it',
    ),
    (
        'upstreams."a.io".password_file = "no"',
        'password_file = "no": must be a readable file (No such file or dir',
    ),
    ('upstreams."a.io".password_file = "/etc"', 'password_file = "/etc": must be a regular file'),
    ('upstreams."a.io".password_file = "a\\u0000"', 'password_file = "a\\u0000": must be a path'),
    ('upstreams."a.io".password_file = "~/x"', "must be written in full; ~ is not expanded"),
    ('upstreams."a.io".ca_file = "/etc/passwd"', "must hold certificates in PEM form"),
    (
        'upstreams."a.io".freshness = { "v*" = "1 week" }',
        'freshness."v*" = "1 week": must be a duration from "0s"',
    ),
    (
        'upstreams."a.io".freshness = { "v/1" = "1s" }',
        'freshness."v/1" = "1s": the pattern may have the characters',
    ),
    (
        'upstreams."a.io".freshness = "30s"',
        'freshness = "30s": must be a table of tag patterns and durations',
    ),
    ("cache.serve_stale = 7", 'cache.serve_stale = 7: needs a unit: "7s" for 7 seconds'),
    ("cache.serve_stale = false", "cache.serve_stale = false: must be a duration from"),
    (
        'cache.negative_ttl = "2d"',
        'cache.negative_ttl = "2d": must be a duration from "0s" to "1d", such as "30s"',
    ),
    ("cache.revalidate_timeout = 0", 'cache.revalidate_timeout = 0: must be a duration from "100ms" to "1m"'),
    ("server.listen = []", "server.listen = []: must have from 1 to 32 items, not 0"),
    (
        'server.listen = ["udp:1"]',
        'listen[0] = "udp:1": must be a Twisted endpoint string of kind tcp, ssl, unix, ',
    ),
    ('server.listen = [""]', 'listen[0] = "": must be a Twisted endpoint string'),
    ('server.listen = ["tcp:70000"]', 'listen[0] = "tcp:70000": must have a port from 1 to 65535'),
    (
        'server.listen = ["tcp:1:interface=::1"]',
        "must be written like tcp:5000:interface=127.0.0.1, every option",
    ),
    ('server.listen = ["tcp:1:interface=eth0"]', "must have an IP address as interface"),
    ('server.listen = ["tcp:1:mode=1"]', "mode is no option of tcp; known are interface, backlog"),
    ('server.listen = ["ssl:1"]', "must name its key and certificate: ssl:5443:privateKey="),
    (
        'server.listen = ["ssl:1:privateKey=/no"]',
        "privateKey must be a readable file (No such file or directory)",
    ),
    ('server.listen = ["unix:/x:mode=9"]', "must have an octal number as mode"),
    ('server.listen = ["systemd:name=web"]', "must have domain=INET, INET6 or UNIX"),
    ('server.listen = ["systemd:domain=INET"]', "must have either name"),
    ("server.listen = ['tcp:1\\']", "must not end in a backslash"),
    ('server.public_url = "http://h/path"', "must have no path, because clients ask at /v2"),
    (
        'storage.path = "/etc/passwd"',
        'storage.path = "/etc/passwd": must be a directory; there is a file of that name',
    ),
    (
        'storage.max_size = "99 MiB"',
        'storage.max_size = "99 MiB": must be a size of at least "100 MiB", such as "500 MiB"',
    ),
    (
        'storage.max_size = "50 GB"',
        'storage.max_size = "50 GB": must be a size of at least "100 MiB", such as "500 MiB"',
    ),
    ("storage.max_size = 53687091200", 'storage.max_size = 53687091200: must be a size of at least "100 MiB"'),
    ("storage.path = 1979-05-27", "storage.path = 1979-05-27: must be a path in quotes"),
    ('index.url = "http://h"', 'index.url = "http://h": must be "embedded", redis://host:port/0'),
    ('index.url = "redis://u@h"', 'index.url = "redis://***@h": must be "embedded"'),
    ('index.url = "redis://h:x"', "the host of the Redis must be a host or host:port"),
    (
        'mirror.anonymous = ["10.1.2.3/8"]',
        'has bits set beyond its prefix length; that network is "10.0.0.0/8"',
    ),
    ('mirror.anonymous = ["all"]', 'mirror.anonymous[0] = "all": must be a network in CIDR notation'),
    ("mirror.anonymous = [[]]", "mirror.anonymous[0] = []: must be a string in quotes"),
    ('mirror.upstream = "gcr.io"', 'mirror.upstream = "gcr.io": must be a configured upstream; '),
    ('mirror.unix_sockets = "yes"', 'mirror.unix_sockets = "yes": must be true or false'),
    ('mirror.group = "a//b"', 'mirror.group = "a//b": must be a group path such as "acme"'),
    (
        "[groups.acme.tools]\nenabled = true",
        'groups.acme.tools: has no such table; a nested group is written [groups."acme/tools"]',
    ),
    ("[groups.acme.tools.members]", 'groups.acme.tools: has no such table; a nested group is written [groups."acme/'),
    ("[groups.acme]\n[groups.Acme]", "groups.Acme: is there twice; upper and lower case are the same"),
    ('[groups."-a"]', "groups.-a: must be a group path"),
    ('[groups."a/dependency_proxy"]', "may have no segment dependency_proxy"),
    ("groups.acme.enabled = 1", "groups.acme.enabled = 1: must be true or false"),
    ("warm = 1", "warm: must be an array of tables, each written [[warm]]"),
    ("[warm]\nimages = []", "warm: must be an array of tables, each written [[warm]]"),
    ("[[warm]]\nimages = ['a']", "warm[0]: needs the key schedule"),
    (f"{SCHEDULE}", "warm[0]: needs the key images"),
    (f"{SCHEDULE}images = []", "warm[0].images = []: must have from 1 to 1000 items, not 0"),
    (f"{SCHEDULE}images = ['a', 'a']", 'warm[0].images[1] = "a": stands there twice; write it once'),
    (
        f"{SCHEDULE}images = ['a:-']",
        """images[0] = "a:-": must be an image such as "alpine:3.20" or "ghcr.io/org/app"; """,
    ),
    (
        f"{SCHEDULE}images = ['c.example:5000/acme/dependency_proxy/containers/a:3']",
        'must be an image without host and group: "a:3", and group = "acme"',
    ),
    (f"{SCHEDULE}images = ['A']", """warm[0].images[0] = "A": repository name 'A' is not lower-case letters"""),
    (
        f"{SCHEDULE}images = ['a', 'quay.io/a']",
        'warm[0].images[1] = "quay.io/a": quay.io is no configured upstream: add [upstreams."quay.io"]',
    ),
    (f"{SCHEDULE}images = ['a']\ngroup = '-'", 'warm[0].group = "-": must be a group path'),
    (f"{SCHEDULE}images = ['a']\nplatform = 'x'", 'warm[0].platform: unknown key; did you mean "platforms"?'),
    (f"{SCHEDULE}images = ['a']\nplatforms = ['x']", 'platforms[0] = "x": must be a platform such as "linux/amd64"'),
    (
        f"{SCHEDULE}images = ['a']\nplatforms = ['linux/arm64', 'linux/aarch64']",
        'warm[0].platforms[1] = "linux/aarch64": stands there twice',
    ),
    (
        '[[warm]]\nimages = ["a"]\nschedule = "daily"',
        'schedule = "daily": must be minute, hour, day of the month, month and day of the week as cron has them',
    ),
]


@pytest.mark.parametrize(("toml", "expected"), MISTAKES + ACCOUNT_MISTAKES)
def test_mistake(toml: str, expected: str) -> None:
    message = mistake(toml)
    assert message.startswith("depproxy.toml:")
    assert expected in message


@pytest.mark.parametrize(
    "toml",
    [
        'upstreams."a.io".url = "https://ci:hunter2@a.io"',
        'upstreams."a.io".url = "https://ci:hunter2/@a.io"',
        'upstreams."a.io".url = "ci:hunter2@a.io"',
        'upstreams."a.io".url = "https://a.io?password=hunter2"',
        'upstreams."a.io".proxy = "http://ci:hunter2@proxy:3128"',
        'upstreams."a.io".password = "hunter2"',
        'upstreams."https://ci:hunter2@a.io" = {}',
        'server.public_url = "https://ci:hunter2@a.io"',
        'index.url = "redis://:hunter2@/x"',
        'index.url = ["redis://:hunter2@h"]',
        'index = "redis://:hunter2@h"',
        'users = "hunter2"',
        'users.alice = "hunter2"',
        'users.alice.tokens = "hunter2"',
        'users.alice.tokens.laptop = "hunter2"',
        'users.alice.tokens.laptop.secret = "hunter2"',
        'groups.acme.deploy_tokens.ci = "hunter2"',
        'groups.acme.access_tokens = "hunter2"',
    ],
)
def test_no_message_has_a_password(toml: str) -> None:
    assert "hunter2" not in mistake(toml)


@given(
    st.sampled_from(
        (
            ("users", "alice", "password"),
            ("users", "alice", "tokens", "laptop", "hash"),
            ("groups", "acme", "deploy_tokens", "ci", "hash"),
            ("groups", "acme", "access_tokens", "ci", "hash"),
        )
    ),
    st.sampled_from(("", "sha256:", "$scrypt$ln=15,r=8,p=1$", "$2b$12$", "dpp_")),
    st.sampled_from(("7341990256", "hunter2 horse", 7341990256, 7341990256.5, [7341990256], {"a": "hunter2"})),
)
def test_what_stands_in_the_place_of_a_hash_is_never_shown(at: tuple[str, ...], start: str, secret: Any) -> None:
    document: Any = start + secret if isinstance(secret, str) else secret
    for key in reversed(at):
        document = {key: document}
    message = mistake(to_toml(document))
    assert message.startswith(f"depproxy.toml: {'.'.join(at)}: must be ")
    assert "hunter2" not in message
    assert "7341990256" not in message


def test_a_hint_names_a_few_of_many_users() -> None:
    users = "".join(f"[users.somebody{number}]\n" for number in range(1000))
    message = mistake('groups.acme.members = { x = "guest" }\n' + users)
    assert "known here: somebody0, somebody1, " in message
    assert len(message) < 500
    alone = mistake('groups.acme.members = { x = "guest" }')
    assert alone.endswith("members.x: must be a user of [users]; `depproxy user add x` makes one")


def test_credentials_in_a_url_are_refused_with_the_way_to_write_them() -> None:
    assert mistake('upstreams."a.io".url = "https://ci:hunter2@a.io"') == (
        'depproxy.toml: upstreams."a.io".url = "https://***@a.io": '
        "must have no user name or password in the URL; use the keys username and password_file"
    )
    assert "hunter2" not in repr(load_text('index.url = "redis://:hunter2@h"'))


@given(st.text(), st.text(), st.sampled_from(("", "https://", "docker.io=https://")))
def test_masked_text_has_nothing_before_its_last_at_sign(secret: str, rest: str, start: str) -> None:
    assume("@" not in rest and "://" not in secret and "=" not in secret)
    masked = mask(f"{start}{secret}@{rest}")
    assert masked.startswith(f"{start}***@")
    assert "***@" + rest == masked[len(start) :] or "?***" in masked


def test_mistakes_of_the_command_line_name_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert mistake("", listen=["tcp"]).startswith('command line: --listen = "tcp": must be written like')
    assert mistake("", data=tmp_path / "file").startswith("command line: --data = ")
    assert mistake("", upstreams={"x": "http://x"}).startswith('command line: --upstream = "x": must be a host')
    assert mistake("", upstreams={"x.io": "x"}).startswith('command line: --upstream x.io = "x": must be an http')


def test_upstream_option() -> None:
    assert upstream_option("ghcr.io=http://127.0.0.1:1/a=b".replace("=b", "/")) == (
        "ghcr.io",
        "http://127.0.0.1:1/a",
    )
    for text in ("ghcr.io", "=http://x", "GHCR.io=http://x", "x.io=ftp://x", "https://ci:hunter2=@x.io"):
        with pytest.raises(ConfigError, match=r"^command line: --upstream = ") as caught:
            upstream_option(text)
        assert "hunter2" not in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "no\n", "No such file"),
        (tmp_path, "Is a directory"),
        (Path("a\0b"), "null"),
    ):
        with pytest.raises(ConfigError, match=reason) as caught:
            load(path, environ=HOME)
        assert str(caught.value).isprintable()
    (tmp_path / "latin").write_bytes(b"a = 1\nb = '\xff'")
    with pytest.raises(ConfigError, match="latin:2: is not UTF-8"):
        load(tmp_path / "latin", environ=HOME)
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        load(Path("/dev/zero"), environ=HOME)

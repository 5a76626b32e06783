"""The ``depproxy`` command: what it prints, where, its exit status, and what it does to the configuration."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from select import select

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from depproxy import __version__
from depproxy.access.keys import KeyRing
from depproxy.access.passwords import hash_token, verify
from depproxy.cli import main
from depproxy.cli.expiry import expiry
from depproxy.config import Role, Settings, TokenSettings, load
from tests.certificates import Authority
from tests.configurations import HOME
from tests.configurations_accounts import token_hash

ROOT = Path(__file__).parent.parent
PASSWORD = "correct horse battery staple"
FILE = """\
# Ours.
[server]
public_url = "https://cache.example:5000"  # TLS

[groups.acme]
members = { bob = "owner" }  # who else

[users.bob]
admin = true

# The end.
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "depproxy.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "STATE_DIRECTORY": "/var/lib/depproxy", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def call(*arguments: str | Path, stdin: str | bytes = "", config: Path | None = None) -> Result:
    """The command in this process."""
    environ = {"DEPPROXY_CONFIG": None if config is None else str(config)}
    found = CliRunner().invoke(
        main, [str(argument) for argument in arguments], input=stdin, env=environ, prog_name="depproxy"
    )
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def refused(found: Result) -> str:
    """What a refused command says: one line."""
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr.count("\n") == 1
    return found.stderr.rstrip("\n")


def misused(found: Result) -> str:
    """What is said to be wrong with the command itself."""
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.startswith("Usage: depproxy")
    return found.stderr.splitlines()[-1]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "depproxy.toml"
    path.write_text(FILE)
    return path


def settings(config: Path) -> Settings:
    return load(config, environ=HOME)


def test_version() -> None:
    found = run("--version")
    assert (found.returncode, found.stdout, found.stderr) == (0, f"depproxy {__version__}\n", "")


def test_correct_file_is_summed_up(tmp_path: Path) -> None:
    path = tmp_path / "depproxy.toml"
    (tmp_path / "token").write_text("hunter2")
    path.write_text(
        f"""
        [server]
        listen = ["tcp:5000:interface=10.0.0.5", "unix:/run/depproxy/http.sock"]
        [index]
        url = "redis://:hunter2@redis.example/1"
        [upstreams."ghcr.io"]
        username = "ci"
        password_file = "token"
        proxy = "http://proxy.example:3128"
        prefixes = ["github"]
        [mirror]
        group = "Runners"
        anonymous = ["10.0.0.0/8"]
        unix_sockets = true
        [groups.acme]
        enabled = false
        [groups.acme.access_tokens.x]
        hash = "{token_hash(1)}"
        [users.alice.tokens.laptop]
        hash = "{token_hash(2)}"
        [users.bob]
        [[warm]]
        images = ["alpine", "github/org/app"]
        schedule = "0 4 * * *"
        """
    )
    found = run("check-config", str(path))
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines() == [
        f"{path}: correct",
        "  listen      tcp:5000:interface=10.0.0.5",
        "  listen      unix:/run/depproxy/http.sock",
        "  public URL  http://10.0.0.5:5000",
        "  storage     /var/lib/depproxy",
        "  index       redis://***@redis.example/1",
        "  upstream    ghcr.io at https://ghcr.io, as ci, through http://proxy.example:3128, also as github",
        "  upstream    docker.io at https://registry-1.docker.io",
        "  mirror      docker.io, group runners, open to 10.0.0.0/8, unix sockets",
        "  group       acme (disabled)",
        "  group       runners",
        "  warm        2 images for group runners at 0 4 * * *",
        "  accounts    2 users, 2 tokens",
    ]


def test_further_sources_of_accounts_are_named(tmp_path: Path) -> None:
    path = tmp_path / "depproxy.toml"
    (tmp_path / "htpasswd").touch()
    path.write_text(
        """
        [access]
        htpasswd = "htpasswd"
        [access.gitlab]
        url = "https://gitlab.example"
        [[access.oidc]]
        issuer = "https://issuer.example"
        audience = "cache.example"
        rules = [{ claims = { sub = "ci" }, group = "acme" }]
        """
    )
    accounts = (
        f"no users, no tokens, those of {tmp_path}/htpasswd, those of gitlab.example, those of https://issuer.example"
    )
    assert call("check-config", path).stdout.splitlines()[-1] == f"  accounts    {accounts}"


def test_nobody_may_use_a_mirror_that_admits_nobody(tmp_path: Path) -> None:
    path = tmp_path / "depproxy.toml"
    path.write_text("mirror.anonymous = []")
    found = call("check-config", path)
    assert found.exit_code == 0
    assert "group local, open to nobody\n" in found.stdout


def test_wrong_file_is_one_line_on_standard_error(tmp_path: Path) -> None:
    path = tmp_path / "depproxy.toml"
    path.write_text('[upstreams."ghcr.io"]\nmax_connections = 0\n')
    found = run("check-config", str(path))
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == (
        f'{path}: upstreams."ghcr.io".max_connections = 0: must be a whole number from 1 to 10000\n'
    )


def test_missing_file() -> None:
    found = run("check-config", "/nowhere/depproxy.toml")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("/nowhere/depproxy.toml: cannot be read (No such file or directory); ")


@pytest.mark.parametrize("arguments", [[], ["check"], ["check-config"], ["check-config", "a", "b"], ["--vers"]])
def test_wrong_command_is_status_2(arguments: Sequence[str]) -> None:
    found = run(*arguments)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("Usage: depproxy")


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path] if not path else []
    for name, command in group.commands.items():
        found += _commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("command", _commands(main), ids=" ".join)
def test_help_has_an_example(command: tuple[str, ...]) -> None:
    found = call(*command, "--help")
    assert found.exit_code == 0
    assert "\n  example" in found.stdout
    example = " ".join(("depproxy", *command))
    assert any(
        line.lstrip().removeprefix("sudo -u depproxy ").startswith(example) for line in found.stdout.splitlines()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("hash-password", "hunter2"),
        ("hash-password", "--password=hunter2"),
        ("user", "add", "alice", "hunter2"),
        ("user", "add", "alice", "--group", "hunter2"),
        ("user", "add", "alice:hunter2"),
        ("token", "create", "--user", "bob", "--name", "dpp_ hunter2"),
        ("token", "create", "--user", "bob", "--name", "a", "--expires", "hunter2"),
        ("token", "revoke", "--user", "bob", "--name", "a", "hunter2"),
    ],
)
def test_what_may_be_a_secret_on_the_command_line_is_refused_and_not_repeated(
    config: Path, arguments: tuple[str, ...]
) -> None:
    found = call(*arguments, config=config)
    misused(found)
    assert "hunter2" not in found.output
    assert config.read_text() == FILE


def test_hash_of_a_password_on_standard_input() -> None:
    found = call("hash-password", stdin=PASSWORD + "\nmore\n")
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout.count("\n") == 1
    assert verify(PASSWORD, found.stdout.removesuffix("\n"))


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (b"", "standard input: has no password; give it on one line"),
        (b"\n", "standard input: has no password; give it on one line"),
        (b"caf\xe9\n", "standard input: is not UTF-8; give the password on one line"),
        (b"a\tb\n", "a password must have no control characters"),
        (b"dpp_abcdefgh\n", "a password must not look like a token"),
        (b"x" * 2000, "a password must have from 1 to 1024 bytes"),
    ],
)
def test_what_is_no_password(stdin: bytes, said: str) -> None:
    assert refused(call("hash-password", stdin=stdin)).startswith(said)


class Terminal:
    """The command on a terminal of its own, with its standard output in a file."""

    def __init__(self, output: Path, *arguments: str) -> None:
        self.seen = b""
        self.pid, self._master = pty.fork()
        if self.pid == 0:  # pragma: no cover - another process
            os.chdir(ROOT)
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT, 0o600), 1)
            os.execv(sys.executable, [sys.executable, "-m", "depproxy.cli", *arguments])

    def expect(self, text: bytes, answer: bytes) -> None:
        """Wait for a prompt and answer it. Once its last blank is there, the terminal echoes nothing."""
        deadline = time.monotonic() + 60
        start = len(self.seen)
        while text not in self.seen[start:]:
            assert select([self._master], [], [], max(0, deadline - time.monotonic()))[0], self.seen
            self.seen += os.read(self._master, 1024)
        os.write(self._master, answer)

    def end(self) -> int:
        """The exit status."""
        try:
            while chunk := os.read(self._master, 1024):
                self.seen += chunk
        except OSError:  # what Linux says when the other side is closed
            pass
        os.close(self._master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_terminal_is_asked_twice_without_echo(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path / "output", "hash-password")
    terminal.expect(b"Password: ", b"one thing\n")
    terminal.expect(b"Once more: ", b"another\n")
    terminal.expect(b"Password: ", PASSWORD.encode() + b"\n")
    terminal.expect(b"Once more: ", PASSWORD.encode() + b"\n")
    assert terminal.end() == 0
    assert b"do not match" in terminal.seen
    for secret in (b"one thing", b"another", PASSWORD.encode()):
        assert secret not in terminal.seen
    output = (tmp_path / "output").read_text()
    assert output.count("\n") == 1
    assert verify(PASSWORD, output.removesuffix("\n"))


def test_a_user_comes_with_memberships(config: Path) -> None:
    found = call("user", "add", "alice", "--admin", "--group", "ACME=guest", stdin=PASSWORD, config=config)
    assert (found.exit_code, found.stdout) == (0, "")
    assert found.stderr == "alice is added. It counts after a reload: systemctl reload depproxy\n"
    alice = settings(config).users["alice"]
    assert alice.password is not None
    assert verify(PASSWORD, alice.password)
    assert alice.admin
    assert settings(config).groups["acme"].members == {"bob": Role.OWNER, "alice": Role.GUEST}
    assert config.read_text() == FILE.replace('{ bob = "owner" }', '{ bob = "owner", alice = "guest" }').replace(
        "admin = true\n", f'admin = true\n\n[users.alice]\npassword = "{alice.password}"\nadmin = true\n'
    )


def test_a_user_without_a_password_is_not_asked_for_one(config: Path) -> None:
    assert call("user", "add", "ci", "--no-password-login", config=config).exit_code == 0
    assert "[users.ci]\npassword_login = false\n" in config.read_text()


def test_groups_are_made_where_that_is_wanted(config: Path) -> None:
    arguments = (
        "user",
        "add",
        "ci",
        "--no-password-login",
        "--group",
        "Acme/Tools=developer",
        "--group",
        "local=guest",
    )
    said = refused(call(*arguments, config=config))
    assert said == f'{config}: groups."acme/tools": is not there; --create-groups makes it'
    assert config.read_text() == FILE
    assert call(*arguments, "--create-groups", config=config).exit_code == 0
    groups = settings(config).groups
    assert groups["acme/tools"].members == {"ci": Role.DEVELOPER}
    # The mirror's group is there without being written.
    assert groups["local"].members == {"ci": Role.GUEST}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("bob",),
            "users.bob: is there already; for a new password, replace its hash by what `depproxy hash-password` ",
        ),
        (("carol", "--group", "acne=guest"), 'groups.acne: is not there; did you mean "acme"?'),
    ],
)
def test_users_that_are_refused_are_so_before_a_password_is_asked_for(
    config: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert refused(call("user", "add", *arguments, config=config)).startswith(f"{config}: {said}")
    assert config.read_text() == FILE


def test_a_member_of_an_htpasswd_file_stays_one(config: Path) -> None:
    (config.parent / "htpasswd").touch()
    text = FILE.replace("bob = ", 'carol = "guest", bob = ') + '[access]\nhtpasswd = "htpasswd"\n'
    config.write_text(text)
    found = call("user", "add", "carol", "--no-password-login", "--group", "acme=owner", config=config)
    assert refused(found) == f"{config}: groups.acme.members.carol: is there already; take it out, or leave out --group"
    assert config.read_text() == text


@pytest.mark.parametrize("group", ["acme", "acme=", "=guest", "acme=boss", "acme=Guest", "-=guest"])
def test_wrong_memberships(config: Path, group: str) -> None:
    assert "must be" in misused(call("user", "add", "alice", "--group", group, config=config))


def _token(config: Path, owners: str, owner: str, kind: str, name: str) -> TokenSettings:
    tokens: Mapping[str, TokenSettings] = getattr(getattr(settings(config), owners)[owner], kind)
    return tokens[name]


@pytest.mark.parametrize(
    ("arguments", "prefix", "at", "login"),
    [
        (("--user", "bob"), "dpp_", ("users", "bob", "tokens"), "bob"),
        (("--group", "acme", "--deploy", "--username", "ci"), "dpd_", ("groups", "acme", "deploy_tokens"), "ci"),
        (("--group", "Acme", "--role", "reporter"), "dpg_", ("groups", "acme", "access_tokens"), "x"),
        (("--group", "local", "--role", "guest"), "dpg_", ("groups", "local", "access_tokens"), "x"),
    ],
)
def test_a_tokens_secret_is_printed_once_and_its_hash_kept(
    config: Path, arguments: tuple[str, ...], prefix: str, at: tuple[str, str, str], login: str
) -> None:
    found = call("token", "create", *arguments, "--name", "x", config=config)
    assert found.exit_code == 0
    secret = found.stdout.removesuffix("\n")
    assert secret.startswith(prefix)
    assert found.stderr == (
        f"This secret is shown once: {config} has a hash of it only. It expires: never.\n"
        "It counts after a reload: systemctl reload depproxy\n"
        f"Log in: docker login cache.example:5000 -u {login} --password-stdin\n"
    )
    assert secret not in config.read_text()
    token = _token(config, *at, "x")
    assert token.hash == hash_token(secret)
    assert (token.scopes, token.expires) == (("read_registry",), None)

    assert refused(call("token", "create", *arguments, "--name", "x", config=config)).startswith(
        f"{config}: {'.'.join(at)}.x: is there already; choose another name, or revoke it first"
    )
    revoked = call(
        "token", "revoke", *arguments[:2], *(("--deploy",) * ("--deploy" in arguments)), "--name", "x", config=config
    )
    assert (revoked.exit_code, revoked.stdout) == (0, "")
    assert revoked.stderr == "x is revoked. It counts after a reload: systemctl reload depproxy\n"
    # The mirror's group was not written before; now its table is, with nothing in it.
    assert config.read_text().replace("\n[groups.local]\n", "") == FILE


def test_what_a_token_is_good_for(config: Path) -> None:
    create = ("token", "create", "--user", "bob", "--name")
    call(*create, "a", "--scope", "api", "--scope", "write_registry", "--expires", "2999-01-31", config=config)
    token = _token(config, "users", "bob", "tokens", "a")
    assert token.scopes == ("api", "write_registry")
    assert token.expires == datetime(2999, 1, 31, tzinfo=UTC).timestamp()
    assert "\nexpires = 2999-01-31\n" in config.read_text()
    cannot = "It cannot pull, nor log in: that needs the scopes "
    said = call(*create, "w", "--scope", "write_registry", config=config).stderr
    assert f"{cannot}api, or read_registry, or read_virtual_registry and write_virtual_registry.\n" in said
    assert cannot not in call(*create, "r", "--scope", "read_registry", config=config).stderr
    config.write_text(config.read_text() + "[access]\nrequire_write_registry = true\n")
    assert f"{cannot}api, or read" in call(*create, "s", "--scope", "read_registry", config=config).stderr
    before = time.time()
    said = call(*create, "b", "--expires", "90d", config=config).stderr
    assert cannot not in said
    token = _token(config, "users", "bob", "tokens", "b")
    assert token.scopes == ("read_registry", "write_registry")
    assert token.expires is not None
    assert 0 <= token.expires - before - 90 * 86400 < 120


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Give either --user or --group."),
        (("--user", "bob", "--group", "acme"), "Give either --user or --group."),
        (("--user", "bob", "--deploy"), "--deploy, --username and --role are for a group's tokens."),
        (("--group", "acme"), "Give with --group either --deploy and --username, or --role."),
        (
            ("--group", "acme", "--deploy", "--role", "guest"),
            "Give with --group either --deploy and --username, or --role.",
        ),
        (("--group", "acme", "--deploy"), "A deploy token needs --username, and no other token has one."),
        (
            ("--group", "acme", "--role", "guest", "--username", "x"),
            "A deploy token needs --username, and no other token",
        ),
        (("--user", "bob", "--expires", "2020-01-01"), "is in the past; a token has to live"),
    ],
)
def test_wrong_options_of_a_token(config: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in misused(call("token", "create", "--name", "x", *arguments, config=config))
    assert config.read_text() == FILE


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--user", "rob"), 'users.rob: is not there; did you mean "bob"?'),
        (("--user", "zoe"), "users.zoe: is not there; add it: depproxy user add zoe"),
        (("--group", "acne", "--role", "guest"), 'groups.acne: is not there; did you mean "acme"?'),
        (("--group", "a/b", "--role", "guest"), 'groups."a/b": is not there; add [groups."a/b"] to the file'),
        (
            ("--group", "acme", "--deploy", "--username", "bob"),
            'groups.acme.deploy_tokens.x.username = "bob": must be its own, but is taken by users.bob',
        ),
    ],
)
def test_tokens_that_are_refused(config: Path, arguments: tuple[str, ...], said: str) -> None:
    assert refused(call("token", "create", "--name", "x", *arguments, config=config)) == f"{config}: {said}"
    assert config.read_text() == FILE


def test_revoking_what_is_not_there(config: Path) -> None:
    call("token", "create", "--name", "x", "--group", "acme", "--deploy", "--username", "ci", config=config)
    revoke = ("token", "revoke", "--name")
    for arguments, said in (
        (("y", "--user", "bob"), "users.bob.tokens.y: is not there; `depproxy token list` shows those that are"),
        (
            ("x", "--group", "acme"),
            "groups.acme.access_tokens.x: is not there; there is one among the deploy_tokens: add",
        ),
        (("x", "--user", "rob"), 'users.rob: is not there; did you mean "bob"?'),
    ):
        assert refused(call(*revoke, *arguments, config=config)).startswith(f"{config}: {said}")
    assert misused(call(*revoke, "x", "--user", "bob", "--deploy", config=config)).endswith("is for a group's tokens.")


@pytest.fixture
def listed(config: Path) -> Path:
    config.write_text(
        f"""
        [users.bob.tokens.laptop]
        hash = "{token_hash(1)}"
        scopes = ["api", "read_registry"]
        expires = 2999-01-31T12:00:00+01:00
        [users.alice.tokens.old]
        hash = "{token_hash(2)}"
        expires = 2020-01-31
        [groups.Acme.deploy_tokens.ci]
        hash = "{token_hash(3)}"
        username = "acme-ci"
        [groups."acme/tools".access_tokens.scanner]
        hash = "{token_hash(4)}"
        role = "developer"
        """
    )
    return config


def test_tokens_are_listed_without_their_hashes(listed: Path) -> None:
    found = call("token", "list", config=listed)
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout.splitlines() == [
        "WHERE                          NAME     SCOPES             EXPIRES",
        "user bob                       laptop   api read_registry  2999-01-31 11:00",
        "user alice                     old      read_registry      2020-01-31 00:00 expired",
        "group acme, deploy as acme-ci  ci       read_registry      never",
        "group acme/tools, developer    scanner  read_registry      never",
    ]


def test_tokens_are_listed_for_programs(listed: Path) -> None:
    found = call("token", "list", "--json", config=listed)
    assert "sha256" not in found.stdout
    common = {"scopes": ["read_registry"], "expires": None, "expired": False}
    assert json.loads(found.stdout) == [
        {
            **{"user": "bob", "kind": "personal", "name": "laptop", "scopes": ["api", "read_registry"]},
            **{"expires": "2999-01-31T11:00:00Z", "expired": False},
        },
        {
            **{"user": "alice", "kind": "personal", "name": "old", **common},
            **{"expires": "2020-01-31T00:00:00Z", "expired": True},
        },
        {"group": "acme", "kind": "deploy", "username": "acme-ci", "name": "ci", **common},
        {"group": "acme/tools", "kind": "access", "role": "developer", "name": "scanner", **common},
    ]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--user", "bob"), ["laptop"]),
        (("--group", "ACME"), ["ci"]),
        (("--user", "alice", "--group", "acme/tools"), ["old", "scanner"]),
        (("--group", "local"), []),
    ],
)
def test_some_tokens_are_listed(listed: Path, arguments: tuple[str, ...], names: list[str]) -> None:
    found = call("token", "list", *arguments, "--json", config=listed)
    assert [token["name"] for token in json.loads(found.stdout)] == names
    table = call("token", "list", *arguments, config=listed)
    assert table.stdout.count("\n") == (len(names) + 1 if names else 0)
    assert table.stderr == ("" if names else "There are no tokens.\n")


def test_tokens_of_nobody_are_not_listed(listed: Path) -> None:
    said = refused(call("token", "list", "--user", "rob", config=listed))
    assert said == f'{listed}: users.rob: is not there; did you mean "bob"?'
    assert 'groups.acne: is not there; did you mean "acme' in refused(
        call("token", "list", "--group", "acne", config=listed)
    )


def test_the_configuration_is_where_it_is_said_to_be(config: Path) -> None:
    assert call("token", "list", "--config", config).exit_code == 0
    assert call("token", "list", "--config", config, config=Path("/nowhere.toml")).exit_code == 0
    assert refused(call("token", "list", config=Path("/nowhere.toml"))).startswith("/nowhere.toml: cannot be read")
    assert "/etc/depproxy/depproxy.toml" in call("token", "list", "--help").stdout


def test_keys_are_rotated(config: Path, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "data" / "keys", "HS256")
    rotate = ("keys", "rotate", "--data", tmp_path / "data")
    assert (
        refused(call(*rotate, config=config))
        == f"{ring.path}: is not there; name the service's data directory by --data"
    )
    assert not ring.path.exists()
    ring.load()
    before = ring.current
    found = call(*rotate, config=config)
    ring.reload()
    assert (found.exit_code, found.stdout) == (0, "")
    assert found.stderr == (f"{ring.path}: {ring.current.kid} signs from now on. Reload: systemctl reload depproxy\n")
    assert ring.current.kid != before.kid
    assert ring.by_id(before.kid) == before or ring.by_id(before.kid) is not None
    config.write_text(FILE + f'[storage]\npath = "{tmp_path}/data"\n[access]\nalgorithm = "EdDSA"\n')
    assert call("keys", "rotate", config=config).exit_code == 0
    ring.reload()
    assert ring.by_id(before.kid) is not None
    ring.path.chmod(0o644)
    assert "is open to others" in refused(call(*rotate, config=config))


def test_expiry_as_it_is_written() -> None:
    assert str(expiry("never")) == "never"
    assert str(expiry("2999-01-31")) == "2999-01-31 00:00:00 UTC"
    assert str(expiry("2999-01-31T12:00:00+02:00")) == "2999-01-31 10:00:00 UTC"
    assert str(expiry("2999-01-31 12:00:00")) == "2999-01-31 12:00:00 UTC"


@given(st.text(max_size=20) | st.from_regex(r"[0-9]{1,12}(ms|s|m|h|d)|[0-9]{4}-[0-9]{2}-[0-9]{2}", fullmatch=True))
def test_any_expiry_is_in_the_future_or_refused(text: str) -> None:
    try:
        moment = expiry(text).moment
    except ValueError as error:
        said = str(error)
    else:
        said = ""
        assert moment is None or moment.isoformat() > datetime.now(UTC).isoformat()[:10]
    assert not said or said.startswith(("must be a time from now", "is in the past"))


@pytest.mark.parametrize("wrong", ["htpasswd", "certificate"])
def test_files_that_a_start_reads_are_read(tmp_path: Path, wrong: str) -> None:
    """A check that lets pass what stops a start is worth little."""
    pair = Authority(str(tmp_path)).issue()
    htpasswd = tmp_path / "htpasswd"
    htpasswd.write_text("hank:plaintextsecret\n" if wrong == "htpasswd" else "")
    if wrong == "certificate":
        pair.certificate.write_text("no certificate")
    file = tmp_path / "depproxy.toml"
    file.write_text(f'[server]\nlisten = ["ssl:5000:{pair.listener}"]\n[access]\nhtpasswd = "{htpasswd}"\n')
    result = run("check-config", str(file))
    assert result.returncode == 1
    assert result.stderr.startswith(str(htpasswd if wrong == "htpasswd" else pair.certificate))
    assert result.stderr.count("\n") == 1
    assert "plaintextsecret" not in result.stderr

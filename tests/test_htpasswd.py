"""Apache's htpasswd file: its grammar, what is refused of it, and its users."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from depproxy.access.hashing import Hashing
from depproxy.access.htpasswd import LARGEST, MOST_LINES, HtpasswdAccounts, HtpasswdError, read_htpasswd
from depproxy.access.interface import IAccounts, Identity, Login, Withdrawn
from depproxy.access.local import LocalAccounts
from depproxy.access.passwords import fingerprint, hash_password
from depproxy.access.portal import Accounts
from depproxy.config import AccessSettings, ConfigError, GroupSettings, Role, UserSettings
from tests.fakes import Threads
from tests.index_tools import Now

# Written by Apache's htpasswd 2.4: `htpasswd -nbBC 5 bob hunter2`, which ends with an empty line, and one more.
APACHE = """\
bob:$2y$05$ePHAmhM6R5rxErAiEYXxb.QJyw9sa.RrVPqjAbA7a1c.udtwSw/rS

alice:$2y$04$eb80E8rQLpD032yR5YePMeGqIsD.ypujxWsKgh22TkL.pdebq1bbC

"""
BOB, ALICE = (line.partition(":")[2] for line in APACHE.split() if line)

names = st.from_regex(r"[A-Za-z0-9_.@-]{1,12}", fullmatch=True)
alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
hashes = st.builds(
    "${}${:02}${}".format,
    st.sampled_from(["2a", "2b", "2y"]),
    st.integers(4, 14),
    st.text(alphabet, min_size=53, max_size=53),
)
spaces = st.text(" \t", max_size=2)
ends = st.sampled_from(["\n", "\r\n"])
ignored = st.just("") | st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20).map("#".__add__)
more = st.just("") | st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=9).map(":".__add__)


@st.composite
def lines_and_users(draw: st.DrawFn) -> tuple[list[str], dict[str, str]]:
    """Lines as they may stand in a file, with their ends, and what they mean."""
    users = draw(st.dictionaries(names, hashes, max_size=5))
    lines = [f"{name}:{hashed}{draw(more)}" for name, hashed in users.items()]
    lines = draw(st.permutations(lines + draw(st.lists(ignored, max_size=3))))
    return [draw(spaces) + line + draw(spaces) + draw(ends) for line in lines], users


def write(directory: Path, content: bytes) -> Path:
    path = directory / "htpasswd"
    path.write_bytes(content)
    return path


def parsed(text: str | bytes) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as directory:
        return read_htpasswd(write(Path(directory), text if isinstance(text, bytes) else text.encode()))


def refusal(text: str | bytes) -> str:
    """What is said of a file that cannot be used, behind its path."""
    with tempfile.TemporaryDirectory() as directory:
        path = write(Path(directory), text if isinstance(text, bytes) else text.encode())
        with pytest.raises(HtpasswdError) as caught:
            read_htpasswd(path)
        path_said, _, rest = str(caught.value).partition(": ")
        assert path_said == str(path)
        return rest


def test_what_apache_writes() -> None:
    assert parsed(APACHE) == {"bob": BOB, "alice": ALICE}


@given(lines_and_users(), st.booleans())
def test_every_file(drawn: tuple[list[str], dict[str, str]], ended: bool) -> None:
    lines, users = drawn
    text = "".join(lines)
    assert parsed(text if ended else text.removesuffix("\n")) == users


SECRET = "S3cret"
BAD = (
    (SECRET, "must be a user name and a hash, with a colon between them"),
    (f"{SECRET} {BOB}", "must be a user name and a hash, with a colon between them"),
    (f":{BOB}", "the user name must be a user name of 1 to 255 letters, digits and _ . @ -"),
    (f"{SECRET} x:{BOB}", "the user name must be a user name of 1 to 255 letters, digits and _ . @ -"),
    (f"{SECRET}\x85x:{BOB}", "the user name must be a user name of 1 to 255 letters, digits and _ . @ -"),
    (f"gitlab-ci-token:{BOB}", "the user name is the user name of CI job tokens; choose another"),
    *(
        (f"x:{hashed}", "the hash must be one by bcrypt with a cost from 4 to 14, as htpasswd -B makes it")
        for hashed in (
            "",
            SECRET,
            "$apr1$PccGqdLP$TPr6e5mw.DdxW1gv2Z6qG.",
            "{SHA}lcsL/Sl3x2EpjZYk5LTUxyo5l0o=",
            "xuoArN9iVHPcU",
            "$5$zu9cdE36/BoiTT7B$FJFuY2JUAZzgRlS.9WFQSRWzrOyJO8Xw2uK1nIZgOe4",
            BOB.replace("$2y", "$2x"),
            BOB.replace("$05", "$03"),
            BOB.replace("$05", "$15"),
            BOB[:-1],
            BOB + "x",
            hash_password(SECRET, 10),
        )
    ),
)


@pytest.mark.parametrize(("line", "said"), BAD)
def test_lines_that_are_refused(line: str, said: str) -> None:
    assert refusal(f"# one\n\n{APACHE}{line}\n{BAD[0][0]}\n") == f"line 7: {said}"


@given(lines_and_users(), st.sampled_from(BAD), st.data())
def test_a_wrong_line_is_named_and_not_shown(
    drawn: tuple[list[str], dict[str, str]], bad: tuple[str, str], data: st.DataObject
) -> None:
    lines, _ = drawn
    at = data.draw(st.integers(0, len(lines)))
    lines.insert(at, bad[0] + "\n")
    told = refusal("".join(lines))
    assert told == f"line {at + 1}: {bad[1]}"
    assert SECRET not in told


def test_a_name_stands_there_once() -> None:
    assert refusal(f"{APACHE}Bob:{BOB}\nbob:{ALICE}\n") == "line 6: the user name must stand there once"


def test_files_that_are_refused(tmp_path: Path) -> None:
    assert refusal(b"bob:\xff\n") == "must be UTF-8 text"
    assert refusal(b"#" * (LARGEST + 1)) == f"must be a file of at most {LARGEST} bytes"
    assert parsed(b"#" * LARGEST) == {}
    assert refusal("\n" * MOST_LINES) == f"must have at most {MOST_LINES} lines"
    assert parsed("\n" * (MOST_LINES - 1)) == {}
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "nothing", "must be a readable file (No such file or directory)"),
        (tmp_path / "pipe", "must be a regular file"),
        (tmp_path, "must be a regular file"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_htpasswd(path)
        assert str(caught.value) == f"{path}: {said}"


class AccountsTests(SynchronousTestCase):
    """The users of a file."""

    groups = {
        "acme": GroupSettings("acme", members={"bob": Role.DEVELOPER}),
        "acme/tools": GroupSettings("acme/tools"),
        "other": GroupSettings("other"),
    }

    def setUp(self) -> None:
        directory = tempfile.mkdtemp(prefix="dp-")
        self.addCleanup(shutil.rmtree, directory)
        self.path = Path(directory, "htpasswd")
        self.threads = Threads()
        self.hashing = Hashing(self.threads, now=Now())
        self.accounts = self.make(APACHE)

    def make(self, text: str) -> HtpasswdAccounts:
        self.path.write_text(text)
        return HtpasswdAccounts(read_htpasswd(self.path), self.groups, self.hashing)

    def login(self, name: str, password: str) -> Identity:
        return self.successResultOf(self.accounts.requestAvatarId(Login(name, password, "")))

    def refused(self, name: str, password: str) -> None:
        asked: Any = self.accounts.requestAvatarId(Login(name, password, ""))
        error = self.failureResultOf(asked).value  # type: ignore[no-untyped-call]
        assert (type(error), str(error)) == (UnauthorizedLogin, "")

    def role(self, identity: Identity, group: str) -> Role | None:
        return self.successResultOf(Deferred.fromCoroutine(self.accounts.role(identity, group)))

    def withdrawn(self, identity: Identity) -> str:
        asked: Any = Deferred.fromCoroutine(self.accounts.role(identity, "acme"))
        return str(self.failureResultOf(asked, Withdrawn).value)  # type: ignore[no-untyped-call]

    def test_provides_the_interfaces(self) -> None:
        verifyObject(IAccounts, self.accounts)
        verifyObject(ICredentialsChecker, self.accounts)
        assert (self.accounts.name, self.accounts.max_age) == ("htpasswd", float("inf"))

    def test_logins(self) -> None:
        assert self.login("bob", "hunter2") == Identity("htpasswd", "bob", f"password:{fingerprint(BOB)}")
        assert self.login("alice", "alice's password").name == "alice"
        for name, password in (
            ("bob", "hunter3"),
            ("bob", ""),
            ("bob", BOB),
            ("Bob", "hunter2"),
            ("nobody", "hunter2"),
            ("", ""),
            ("\0", "\ud800"),
            ("bob", "hunter2" + "x" * (16 << 10)),
        ):
            self.refused(name, password)

    def test_roles(self) -> None:
        bob, alice = self.login("bob", "hunter2"), self.login("alice", "alice's password")
        assert [self.role(bob, group) for group in ("acme", "acme/tools", "other", "acme/no")] == [
            Role.DEVELOPER,
            Role.DEVELOPER,
            None,
            None,
        ]
        assert self.role(alice, "acme") is None

    def test_whoever_it_is_a_wrong_password_costs_the_same(self) -> None:
        seen: list[str] = []

        def run(function: Any, password: str, hashed: str) -> Deferred[bool]:
            seen.append(hashed)
            return self.threads(function, password, hashed)

        self.hashing = Hashing(run, now=Now())
        self.accounts = self.make(APACHE.replace("$04", "$05"))
        for name in ("bob", "nobody", "nobody"):
            self.refused(name, "wrong")
        assert [hashed[:7] for hashed in seen] == ["$2y$05$"] * 3
        # What is no password costs nothing.
        self.refused("bob", "dpp_wrong")
        assert len(seen) == 3

    def test_an_empty_file(self) -> None:
        self.accounts = self.make("")
        self.threads.held = True
        self.refused("bob", "hunter2")

    def test_a_reload(self) -> None:
        bob = self.login("bob", "hunter2")
        self.accounts = self.make(APACHE)
        assert self.role(bob, "acme") is Role.DEVELOPER
        changed = bcrypt.hashpw(b"hunter2", bcrypt.gensalt(4)).decode()
        for text in (APACHE.replace(BOB, changed), APACHE.replace("bob:", "rob:"), ""):
            self.accounts = self.make(text)
            assert self.withdrawn(bob) == "the password of bob was changed or removed: log in again"

    def test_a_wrong_file_makes_no_accounts(self) -> None:
        with pytest.raises(HtpasswdError, match="line 1: must be"):
            self.make("rubbish")

    def test_a_name_that_is_in_the_configuration_too(self) -> None:
        users = {"bob": UserSettings("bob", password=hash_password("local", 10), admin=True)}
        local = LocalAccounts(users, self.groups, AccessSettings(), self.hashing, Now())
        chain = Accounts([local, self.accounts])
        found = {}
        for password in ("local", "hunter2"):
            account = self.successResultOf(Deferred.fromCoroutine(chain.login(Login("bob", password, ""))))
            found[account.identity.source] = self.successResultOf(Deferred.fromCoroutine(account.role("acme")))
        # An admin is one by what proved it.
        assert found == {"local": Role.OWNER, "htpasswd": Role.DEVELOPER}

    def test_no_hash_is_shown(self) -> None:
        assert BOB not in repr(self.accounts) + repr(self.login("bob", "hunter2"))

"""`depproxy backup` and `restore`, as far as they come without a Redis: the others are real processes."""

from __future__ import annotations

import json
import os
import pwd
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from depproxy.backup.archive import Heading, NotWhole, Reader, Writer
from depproxy.backup.configuration import beside, named_files
from depproxy.backup.records import document, records
from depproxy.cli import main
from depproxy.cli.command import Refused
from depproxy.cli.owner import Owner, owner_of
from depproxy.cli.unpack import unpack
from depproxy.config import load
from depproxy.index.interface import Record
from depproxy.oci.digest import Digest
from depproxy.storage.files import FileStore
from tests.cache_tools import Outcome
from tests.certificates import Authority
from tests.fakes import Threads
from tests.test_cli_client import Double, chunked

RECORDS = [Record(b"depproxy:2:x", "string", (b"1",)), Record(b"depproxy:2:y", "hash", (b"\xff", b""))]
BLOB = b"x" * (3 << 20)


class Place:
    """A service's data and configuration, and a double that answers for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "etc" / "depproxy.toml"
        self.data = root / "data"
        self.file = root / "b.tar"
        self.config.parent.mkdir()
        self.data.mkdir()
        self.config.write_text(f'[storage]\npath = "{self.data}"\n')
        (self.data / "keys").mkdir()
        (self.data / "keys" / "settings-key").write_bytes(b"secret")
        self.double = Double(self.data / "admin.sock")
        self.tell(*map(document, RECORDS))

    def tell(self, *told: object, last: object = None, first: object = None) -> None:
        about = {"version": "1.2.3", "schema": 2, "data": str(self.data), "blobs": 1, "bytes": 10}
        lines = [first or about, *told, last or {"done": True, "items": 3}]
        self.double.answer = chunked(*(json.dumps(one) + "\n" for one in lines))

    def run(self, *arguments: str) -> Result:
        result = CliRunner().invoke(main, [*arguments, "--config", str(self.config)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def backup(self, *arguments: str) -> Result:
        return self.run("backup", str(self.file), *arguments)

    def members(self) -> dict[str, bytes]:
        with self.file.open("rb") as stream:
            return {member.name: member.read() for member in Reader(stream)}

    def put(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        store = FileStore(self.data, Threads())
        store.prepare()
        assert Outcome(store.write(digest, data)).value is None
        store.close()
        return digest

    def state(self) -> dict[str, bytes | None]:
        """All files, but for the archive."""
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for path in self.root.rglob("*")
            if path != self.file
        }


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.double.close()


def test_what_is_in_it(place: Place) -> None:
    result = place.backup()
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{place.file}: configuration, keys and index (121 B)\n"
    members = place.members()
    assert list(members) == ["configuration.toml", "keys/settings-key", "index/00000000.jsonl"]
    assert members["configuration.toml"] == place.config.read_bytes()
    assert members["keys/settings-key"] == b"secret"
    assert list(records(members["index/00000000.jsonl"])) == RECORDS
    assert place.double.request.startswith(b"POST /v1/backup ")


def test_only_its_owner_can_read_it(place: Place) -> None:
    before = os.umask(0)
    try:
        place.file.write_text("older")
        place.file.chmod(0o666)
        place.backup()
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o600
    assert "configuration.toml" in place.members()


def test_blobs(place: Place) -> None:
    digest, small = place.put(BLOB), place.put(b"small")
    result = place.backup("--with-blobs")
    assert ", and 2 blobs of 3.0 MiB\n" in result.stderr
    members = place.members()
    assert members[f"blobs/sha256/{digest.encoded}"] == BLOB
    assert members[f"blobs/sha256/{small.encoded}"] == b"small"
    place.backup()
    assert not any(name.startswith("blobs/") for name in place.members())


def test_standard_output(place: Place) -> None:
    result = place.run("backup", "-")
    place.file.write_bytes(result.stdout_bytes)
    assert "configuration.toml" in place.members()
    assert result.stderr.startswith("standard output: configuration")


def test_a_large_index_is_in_parts(place: Place) -> None:
    large = Record(b"depproxy:2:x", "string", (b"x" * (2 << 20),))
    place.tell(*[document(large)] * 5)
    place.backup()
    parts = {name: data for name, data in place.members().items() if name.startswith("index/")}
    assert list(parts) == [f"index/{number:08}.jsonl" for number in range(3)]
    assert list(records(b"".join(parts.values()))) == [large] * 5


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"error": "the cache index is not available: x"}, "the cache index is not available: x\n"),
        ({"key": 1}, "the service told a record that is none; use its own version of this command\n"),
    ],
)
def test_an_index_that_cannot_be_told(place: Place, told: object, expected: str) -> None:
    """There is no half of a backup, and the one that was there stays."""
    place.file.write_text("older")
    place.tell(told)
    result = place.backup()
    assert (result.exit_code, result.stderr) == (1, expected)
    assert place.file.read_text() == "older"
    assert {path.name for path in place.root.iterdir()} == {"etc", "data", "b.tar"}


def test_a_service_that_goes_meanwhile(place: Place) -> None:
    place.double.answer = place.double.answer[:-60]
    result = place.backup()
    assert "the service ended its answer too early" in result.stderr
    assert not place.file.exists()


def test_where_it_cannot_be_written(place: Place) -> None:
    result = place.run("backup", str(place.root / "nowhere" / "b.tar"))
    assert "the backup cannot be written (No such file or directory)" in result.stderr
    os.mkfifo(place.file)
    result = place.backup()
    assert result.stderr == (f"{place.file}: is no regular file; write to standard output by - for anything else\n")
    assert stat.S_ISFIFO(place.file.stat().st_mode)


def test_files_that_the_configuration_names(place: Place, tmp_path: Path) -> None:
    """Those beside it belong to it; others are the host's."""
    etc, other = place.config.parent, tmp_path / "other"
    (etc / "secrets").mkdir()
    other.mkdir()
    authority = Authority(str(other))
    pair = authority.issue("localhost")
    for path in (etc / "secrets" / "hub", etc / "htpasswd", other / "hub"):
        path.write_text("s3cret")
    place.config.write_text(
        f"""\
[server]
listen = ["ssl:5443:{pair.listener}"]
admin_socket = "{place.data}/admin.sock"
[storage]
path = "{place.data}"
[access]
htpasswd = "{etc}/htpasswd"
[upstreams."docker.io"]
username = "bob"
password_file = "secrets/hub"
[upstreams."ghcr.io"]
username = "bob"
password_file = "../other/hub"
"""
    )
    result = place.backup()
    names = list(place.members())
    assert names[0] == "configuration.toml"
    assert set(names[1:-2]) == {"config/htpasswd", "config/secrets/hub"}
    left = result.stderr.splitlines()[1:]
    assert {line.partition(" is not in it: it is not beside the configuration file")[0] for line in left} == {
        f"{etc}/../other/hub",
        str(pair.key),
        str(pair.certificate),
    }


def test_a_configuration_that_is_wrong(place: Place) -> None:
    place.config.write_text(f'[server]\nlissten = 1\n[storage]\npath = "{place.data}"\n')
    result = place.backup()
    assert result.exit_code == 1
    assert "unknown key" in result.stderr
    assert not place.file.exists()


def test_files_beside_the_configuration() -> None:
    config = Path("/etc/depproxy/depproxy.toml")
    assert beside(config, Path("/etc/depproxy/a/b")) == "a/b"
    assert beside(config, Path("/etc/depproxy/a/../b")) == "b"
    assert beside(config, Path("/etc/depproxy/..b")) == "..b"
    for path in ("/etc/depproxy.toml", "/etc/depproxy/../x", "/var/x"):
        assert beside(config, Path(path)) is None


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """With an archive of everything."""
    place = Place(tmp_path_factory.mktemp("dp"))
    (place.config.parent / "secrets").mkdir()
    (place.config.parent / "secrets" / "hub").write_text("s3cret")
    with place.config.open("a") as config:
        config.write('[upstreams."docker.io"]\nusername = "bob"\npassword_file = "secrets/hub"\n')
    place.put(b"blob")
    assert place.backup("--with-blobs").exit_code == 0
    yield place
    place.double.close()


def test_the_files_are_those_of_its_settings(backed_up: Place) -> None:
    settings = load(backed_up.config, environ={})
    assert named_files(settings) == (backed_up.config.parent / "secrets" / "hub",)


@given(st.data())
def test_no_part_and_no_other_byte_is_restored(backed_up: Place, draw: st.DataObject) -> None:
    """It is refused before anything is changed."""
    whole = backed_up.file.read_bytes()
    before = backed_up.state()
    at = draw.draw(st.integers(0, len(whole) - 1))
    other = bytearray(whole)
    other[at] ^= draw.draw(st.integers(1, 255))
    damaged = backed_up.root / "d.tar"
    for data in (whole[:at], bytes(other)):
        damaged.write_bytes(data)
        result = backed_up.run("restore", "--force", str(damaged))
        damaged.unlink()
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"{damaged}: ")
        assert len(result.stderr.splitlines()) == 1
        assert backed_up.state() == before


def test_what_is_no_archive(place: Place) -> None:
    result = place.run("restore", str(place.file))
    assert "b.tar" in result.stderr
    with tarfile.open(place.file, "w") as tar:
        tar.add(place.config, "configuration.toml")
    result = place.run("restore", str(place.file))
    assert result.stderr == f"{place.file}: is no backup of depproxy, or its beginning is damaged\n"
    place.file.unlink()
    os.mkfifo(place.file)
    result = place.run("restore", "/dev/null")
    assert result.stderr == "/dev/null: is no regular file; it is read several times, so store it first\n"


class Target:
    """Where a configuration may be put."""

    def __init__(self, root: Path, place: Place) -> None:
        self.config = root / "new" / "proxy.toml"
        self.secret = self.config.parent / "secrets" / "hub"
        self.place = place

    def unpack(self) -> Owner | None:
        def owner_of(data: Path) -> Owner:
            assert data == self.place.data
            return OWNER

        with self.place.file.open("rb") as stream:
            return unpack(Reader(stream), self.config, owner_of, {})


OWNER = Owner(os.geteuid(), os.getegid(), None)


@pytest.fixture
def target(tmp_path: Path, backed_up: Place) -> Target:
    return Target(tmp_path, backed_up)


def test_a_configuration_is_put_where_there_is_none(target: Target) -> None:
    assert target.unpack() == OWNER
    assert target.config.read_bytes() == target.place.config.read_bytes()
    assert target.secret.read_text() == "s3cret"
    for path in (target.config, target.secret):
        assert path.stat().st_mode & 0o007 == 0
    load(target.config, environ={})


def test_a_configuration_that_is_there_stays(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    target.config.parent.mkdir()
    target.config.write_text("# mine\n")
    assert target.unpack() is None
    assert target.config.read_text() == "# mine\n"
    assert not target.secret.exists()
    assert capsys.readouterr().err == f"{target.config} stays as it is; the backup has another one\n"
    target.config.write_bytes(target.place.config.read_bytes())
    assert target.unpack() is None
    assert capsys.readouterr().err == ""


def test_a_file_that_is_there_stays(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    target.secret.parent.mkdir(parents=True)
    target.secret.write_text("mine")
    assert target.unpack() == OWNER
    assert target.secret.read_text() == "mine"
    told = f"{target.secret} stays as it is; the backup has another one\n{target.config} was put there\n"
    assert capsys.readouterr().err == told


def test_a_configuration_of_too_many_bytes(tmp_path: Path, place: Place) -> None:
    target = Target(tmp_path, place)
    with place.file.open("wb") as stream:
        writer = Writer(stream.write, Heading("1", 2, 0))
        for number in range(5):
            writer.add(f"config/{number}", bytes(16 << 20))
        writer.close()
    with pytest.raises(NotWhole, match="of configuration"):
        target.unpack()
    assert not target.config.parent.exists()


def test_who_owns_what_is_restored(tmp_path: Path) -> None:
    me = os.geteuid()
    name = pwd.getpwuid(me).pw_name
    assert owner_of(name, tmp_path) == Owner(me, pwd.getpwuid(me).pw_gid, name)
    assert owner_of(None, tmp_path).uid == me
    with pytest.raises(Refused, match="there is no user 'nobody-of-that-name' on this host"):
        owner_of("nobody-of-that-name", tmp_path)

"""How a configuration file is replaced: as a whole, with what it was, and only by one that is right."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from depproxy.cli.command import Refused
from depproxy.cli.file import change
from depproxy.config import Settings
from tests.configurations import HOME

ROOT = Path(__file__).parent.parent
ROOTS_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "depproxy.toml"
    path.write_bytes(b"# caf\xc3\xa9\r\n[mirror]\r\ngroup = 'a'\r\n")
    path.chmod(0o640)
    return path


def append(text: str, _settings: Settings) -> str:
    return text + "unix_sockets = true\r\n"


def test_the_new_file_has_the_mode_of_the_old(config: Path) -> None:
    before = config.stat()
    settings = change(config, append, HOME)
    assert settings.mirror.unix_sockets
    assert config.read_bytes() == b"# caf\xc3\xa9\r\n[mirror]\r\ngroup = 'a'\r\nunix_sockets = true\r\n"
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert config.stat().st_ino != before.st_ino
    assert os.listdir(config.parent) == [config.name]


@ROOTS_ONLY
def test_the_new_file_has_the_owner_of_the_old(config: Path) -> None:
    os.chown(config, 1234, 2345)
    change(config, append, HOME)
    assert (config.stat().st_uid, config.stat().st_gid) == (1234, 2345)
    assert stat.S_IMODE(config.stat().st_mode) == 0o640


def test_the_new_file_has_the_attributes_of_the_old(config: Path) -> None:
    try:
        os.setxattr(config, "user.origin", b"admins")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    change(config, append, HOME)
    assert os.getxattr(config, "user.origin") == b"admins"


def test_the_editor_is_given_what_the_file_means(config: Path) -> None:
    def edit(text: str, settings: Settings) -> str:
        assert settings.mirror.group == "a"
        return text.replace("'a'", "'b'")

    assert change(config, edit, HOME).mirror.group == "b"


def test_a_link_stays_one(config: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.toml"
    link.symlink_to("../depproxy.toml")
    change(link, append, HOME)
    assert link.is_symlink()
    assert config.read_bytes().endswith(b"unix_sockets = true\r\n")
    assert os.listdir(link.parent) == ["link.toml"]


def test_relative_paths_start_beside_the_file_or_its_link(config: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.toml"
    link.symlink_to(config)
    for path in (config, link):
        users = path.parent / f"{path.stem}.users"
        users.touch()
        text = f"access.htpasswd = '{users.name}'\n"
        assert change(path, lambda *_, text=text: text, HOME).access.htpasswd == users
        config.write_text("")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("[mirror]\n", ":4: is not TOML: Cannot declare ('mirror',) twice"),
        ("group = 'x'\n", ":4: is not TOML: Cannot overwrite a value"),
        ("[access]\nalgorithm = 'none'\n", ': access.algorithm = "none": must be "HS256" or "ES256" or "EdDSA"'),
    ],
)
def test_a_file_that_would_not_load_is_not_written(config: Path, more: str, said: str) -> None:
    before = config.read_bytes()
    with pytest.raises(Refused) as caught:
        change(config, lambda text, _: text + more, HOME)
    assert str(caught.value) == f"{config}{said}"
    assert config.read_bytes() == before
    assert os.listdir(config.parent) == [config.name]


def test_a_file_that_does_not_load_is_not_changed(config: Path) -> None:
    config.write_text("serve = 1\n")
    with pytest.raises(Refused, match=r'depproxy\.toml: serve: unknown key; did you mean "server"\?'):
        change(config, append, HOME)
    assert config.read_text() == "serve = 1\n"


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(Refused, match="must be a regular file"):
            change(path, append, HOME)
    with pytest.raises(Refused, match=r"missing: is not there; name the configuration file by --config"):
        change(tmp_path / "missing", append, HOME)


def test_who_may_not_write_is_told_so() -> None:
    with tempfile.TemporaryDirectory() as name:
        config = Path(name, "depproxy.toml")
        config.touch()
        Path(name).chmod(0o555)
        me = os.geteuid()
        if me == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(Refused, match=r"cannot be changed \(Permission denied\); run this as the user who may"):
                change(config, append, HOME)
        finally:
            os.seteuid(me)
            Path(name).chmod(0o755)
        assert os.listdir(name) == [config.name]


def test_nothing_is_lost_when_several_change_a_file_at_once(config: Path) -> None:
    config.write_text("[users.alice]\n")
    create = [sys.executable, "-m", "depproxy.cli", "token", "create", "--config", str(config), "--user", "alice"]
    running = [
        subprocess.Popen([*create, "--name", f"n{number}"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for number in range(6)
    ]
    for process in running:
        process.communicate(timeout=120)
    assert [process.returncode for process in running] == [0] * len(running)
    settings = change(config, lambda text, _: text, HOME)
    assert sorted(settings.users["alice"].tokens) == [f"n{number}" for number in range(6)]

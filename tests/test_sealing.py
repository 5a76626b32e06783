"""The key of sealed secrets, and what it seals."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from depproxy.access.keys import KeyRingError
from depproxy.access.sealing import Sealer, Unsealable

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def sealer(directory: Path) -> Sealer:
    made = Sealer(directory)
    made.load()
    return made


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Sealer:
    return sealer(tmp_path_factory.mktemp("ours") / "keys")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Sealer:
    return sealer(tmp_path_factory.mktemp("theirs") / "keys")


@given(text=TEXTS, place=TEXTS)
def test_what_is_sealed_can_be_read(ours: Sealer, text: str, place: str) -> None:
    sealed = ours.seal(text, place)
    assert ours.unseal(sealed, place) == text
    # Not to be seen, and not to be recognized: equal secrets look different.
    assert not text or len(text) < 4 or text.encode() not in urlsafe_b64decode(sealed)
    assert ours.seal(text, place) != sealed


@given(text=TEXTS, place=TEXTS, other=TEXTS)
def test_it_cannot_be_moved(ours: Sealer, text: str, place: str, other: str) -> None:
    assume(place != other)
    with pytest.raises(Unsealable):
        ours.unseal(ours.seal(text, place), other)


@given(text=TEXTS, place=TEXTS)
def test_another_key_cannot_read_it(ours: Sealer, theirs: Sealer, text: str, place: str) -> None:
    with pytest.raises(Unsealable):
        theirs.unseal(ours.seal(text, place), place)


@given(text=TEXTS, data=st.data())
def test_it_cannot_be_changed(ours: Sealer, text: str, data: st.DataObject) -> None:
    raw = bytearray(urlsafe_b64decode(ours.seal(text, "acme")))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Unsealable):
        ours.unseal(urlsafe_b64encode(bytes(raw)), "acme")


@given(text=TEXTS, data=st.data())
def test_it_cannot_be_cut_or_grown(ours: Sealer, text: str, data: st.DataObject) -> None:
    sealed = ours.seal(text, "acme")
    start, end = data.draw(st.tuples(st.integers(0, len(sealed)), st.integers(0, len(sealed))))
    part = sealed[start:end]
    for wrong in (part if part != sealed else b"", sealed + data.draw(st.binary(min_size=1, max_size=5))):
        with pytest.raises(Unsealable):
            ours.unseal(wrong, "acme")


@given(junk=st.binary(max_size=80))
def test_what_was_never_sealed(ours: Sealer, junk: bytes) -> None:
    with pytest.raises(Unsealable):
        ours.unseal(junk, "acme")


class TestKey:
    def test_it_is_made_once(self, tmp_path: Path) -> None:
        sealed = sealer(tmp_path / "data" / "keys").seal("secret", "acme")
        assert sealer(tmp_path / "data" / "keys").unseal(sealed, "acme") == "secret"
        (file,) = (tmp_path / "data" / "keys").iterdir()
        assert file.name == "settings-key"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700

    def test_processes_that_start_at_once_have_the_same_one(self, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from depproxy.access.sealing import Sealer\n"
            "sealer = Sealer(Path(sys.argv[1]))\n"
            "print('ready', flush=True); sys.stdin.readline(); sealer.load()\n"
            "print(sealer.seal('secret', 'acme').decode())"
        )
        root = Path(__file__).parent.parent
        started = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path / "keys")],
                cwd=root,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        sealed = [process.communicate()[0].strip().encode() for process in started]
        assert [sealer(tmp_path / "keys").unseal(one, "acme") for one in sealed] == ["secret"] * 4
        assert [file.name for file in (tmp_path / "keys").iterdir()] == ["settings-key"]

    def test_one_that_was_killed_while_it_made_it(self, tmp_path: Path) -> None:
        left = tmp_path / f"settings-key.{os.getpid()}.new"
        left.write_bytes(b"half")
        sealer(tmp_path)
        assert not left.exists()

    def test_one_that_is_faster_wins(self, tmp_path: Path) -> None:
        theirs = sealer(tmp_path)
        late = Sealer(tmp_path)
        late._make()
        late.load()
        assert late.unseal(theirs.seal("secret", "acme"), "acme") == "secret"

    def test_before_it_is_loaded(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError):
            Sealer(tmp_path).seal("secret", "acme")

    @pytest.mark.parametrize("body", [b"", b"AAAA", b"!", b"A" * 44, b"A" * 43 + b"=\nmore", b"\xff" * 44, b"A" * 2000])
    def test_a_damaged_one(self, tmp_path: Path, body: bytes) -> None:
        key = tmp_path / "settings-key"
        key.write_bytes(body)
        key.chmod(0o600)
        with pytest.raises(KeyRingError, match=r"settings-key: .*remove it") as error:
            sealer(tmp_path)
        assert "\n" not in str(error.value)
        assert key.read_bytes() == body

    def test_one_that_is_open_to_others(self, tmp_path: Path) -> None:
        sealer(tmp_path)
        (tmp_path / "settings-key").chmod(0o640)
        with pytest.raises(KeyRingError, match=r"mode 0640\): chmod 0600"):
            sealer(tmp_path)

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        place = tmp_path / "settings-key"
        place.mkdir()
        with pytest.raises(KeyRingError, match="regular file"):
            sealer(tmp_path)
        place.rmdir()
        os.mkfifo(place, 0o600)
        with pytest.raises(KeyRingError, match="regular file"):
            sealer(tmp_path)
        place.unlink()
        place.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(KeyRingError, match="regular file"):
            sealer(tmp_path)
        assert not (tmp_path / "elsewhere").exists()

    def test_a_directory_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(KeyRingError, match="settings-key"):
            sealer(tmp_path / "file" / "keys")

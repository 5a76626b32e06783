"""The keys that sign tokens: made once, kept to ourselves, rotated."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs

from depproxy.access.keys import GRACE, MAX_KEYS, Key, KeyRing, KeyRingError, parse, renewed
from depproxy.config.accounts import Algorithm

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
PROCESSES = 5
START = 1_800_000_000.25

# Waits, so that all of them go at the same moment.
PROCESS = """
import sys
from pathlib import Path
from depproxy.access.keys import KeyRing
ring = KeyRing(Path(sys.argv[1]), sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
getattr(ring, sys.argv[3])()
print(ring.current.kid)
"""


def clock() -> Clock:
    ticking = Clock()
    ticking.advance(START)
    return ticking


def ring_of(path: Path, algorithm: Algorithm = "HS256", ticking: Clock | None = None) -> KeyRing:
    """A ring with its keys loaded."""
    ring = KeyRing(path / "keys", algorithm, (ticking or clock()).seconds)
    ring.load()
    return ring


def document(ring: KeyRing) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ring.path.read_bytes())
    return found


def put(ring: KeyRing, body: bytes) -> None:
    """What an editor does."""
    ring.path.write_bytes(body)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def logged(events: Sequence[LogEvent]) -> list[str]:
    return [event["error"] if "error" in event else event["path"] for event in events]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_is_made_once(tmp_path: Path, algorithm: Algorithm) -> None:
    first = ring_of(tmp_path, algorithm)
    before = first.path.read_bytes()
    second = ring_of(tmp_path, algorithm)
    assert first.path.read_bytes() == before
    assert second.current == first.current
    assert second.by_id(first.current.kid) == first.current
    token = jwt.encode({"sub": "alice"}, first.current.private, algorithm)
    assert jwt.decode(token, second.current.public, algorithms=[algorithm]) == {"sub": "alice"}


@pytest.mark.parametrize(("algorithm", "kty"), [("HS256", "oct"), ("ES256", "EC"), ("EdDSA", "OKP")])
def test_the_file_is_a_jwk_set(tmp_path: Path, algorithm: Algorithm, kty: str) -> None:
    ring = ring_of(tmp_path, algorithm)
    (jwk,) = jwt.PyJWKSet.from_json(ring.path.read_text())
    assert (jwk.key_id, jwk.key_type, jwk.algorithm_name) == (ring.current.kid, kty, algorithm)
    assert jwk.public_key_use == "sig"
    (written,) = document(ring)["keys"]
    assert written["created"] == int(START)
    assert "retired" not in written


def test_an_hmac_key_has_256_bits(tmp_path: Path) -> None:
    private = ring_of(tmp_path).current.private
    assert isinstance(private, bytes)
    assert len(private) == 32


@pytest.mark.parametrize("umask", [0, 0o22, 0o77])
def test_what_is_made_is_for_us_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        ring = ring_of(tmp_path / "data")
        ring.rotate()
    finally:
        os.umask(before)
    assert mode(tmp_path / "data") == mode(ring.path.parent) == 0o700
    assert {path.name: mode(path) for path in ring.path.parent.iterdir()} == {"signing-keys.json": 0o600, "lock": 0o600}


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    assert isinstance(ring.current.private, bytes)
    shown = repr(ring.current) + repr(ring)
    assert document(ring)["keys"][0]["k"] not in shown
    assert "private" not in shown


def together(path: Path, algorithm: Algorithm, method: str) -> list[str]:
    """The kids that are current to processes which call a method of their rings at the same moment."""
    command = [sys.executable, "-c", PROCESS, str(path), algorithm, method]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        kids = [process.communicate(timeout=60)[0].strip() for process in running]
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert [process.returncode for process in running] == [0] * PROCESSES
    return kids


def test_processes_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys", "HS256")
    (first,) = set(together(ring.path.parent, "HS256", "load"))
    assert [key["kid"] for key in document(ring)["keys"]] == [first]
    # The algorithm was changed while all were down.
    (second,) = set(together(ring.path.parent, "ES256", "load"))
    assert [key["kid"] for key in document(ring)["keys"]] == [second, first]


def test_processes_that_rotate_at_once_lose_no_key(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys", "HS256")
    ring.load()
    before = ring.current.kid
    made = together(ring.path.parent, "HS256", "rotate")
    keys = document(ring)["keys"]
    assert sorted(key["kid"] for key in keys) == sorted([before, *made])
    assert ["retired" in key for key in keys] == [False] + [True] * PROCESSES


def test_what_a_killed_process_left_is_no_hindrance(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    leftover = ring.path.with_suffix(".new")
    leftover.write_text("half a fi")
    ring.rotate()
    assert not leftover.exists()
    assert ring_of(tmp_path).current == ring.current


# Permissions, and other trouble


def refusal(call: Callable[[], object], path: Path) -> str:
    """The error of a call; it is one line that names the file."""
    with pytest.raises(KeyRingError) as caught:
        call()
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert caught.value.__cause__ is None
    return text


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644, 0o610, 0o777])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, bits: int) -> None:
    ring = ring_of(tmp_path)
    before = ring.path.read_bytes()
    ring.path.chmod(bits)
    for call in (ring.reload, ring.rotate, lambda: ring_of(tmp_path)):
        text = refusal(call, ring.path)
        assert f"{bits:04o}" in text
        assert "chmod 0600" in text
    assert ring.path.read_bytes() == before
    assert mode(ring.path) == bits
    ring.path.chmod(0o600)
    ring.reload()


@pytest.mark.parametrize("bits", [0o750, 0o701, 0o770, 0o755])
def test_a_directory_that_others_can_use_is_refused(tmp_path: Path, bits: int) -> None:
    ring = ring_of(tmp_path)
    ring.path.parent.chmod(bits)
    assert "chmod 0700" in refusal(ring.reload, ring.path.parent)
    assert "chmod 0700" in refusal(ring.rotate, ring.path.parent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["signing-keys.json", ""])
def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, name: str) -> None:
    """As the superuser would find it who runs the command instead of the service's account."""
    ring = ring_of(tmp_path)
    path = ring.path.parent / name
    os.chown(path, 12345, 12345)
    assert "belongs to user 12345, but this runs as user 0" in refusal(ring.rotate, path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    target = ring.path.rename(tmp_path / "elsewhere.json")
    ring.path.symlink_to(target)
    assert "regular file" in refusal(ring.reload, ring.path)
    assert "regular file" in refusal(ring.rotate, ring.path)
    assert ring.path.is_symlink()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    ring = ring_of(tmp_path)
    ring.path.unlink()
    make(ring.path)
    assert "regular file" in refusal(ring.reload, ring.path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    assert "directory" in refusal(lambda: ring_of(tmp_path), tmp_path / "keys")


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    before = ring.current
    ring.path.with_suffix(".new").mkdir()
    assert "cannot be written" in refusal(ring.rotate, ring.path)
    assert ring.current == before


def changed(**members: object) -> Callable[[list[dict[str, Any]]], None]:
    """An edit of the current key; None removes a member."""

    def edit(keys: list[dict[str, Any]]) -> None:
        keys[0] |= members
        for name in [name for name, value in keys[0].items() if value is None]:
            del keys[0][name]

    return edit


def with_key(private: object, algorithm: Algorithm) -> Callable[[list[dict[str, Any]]], None]:
    """An edit that puts another key in place of the current one's."""
    members = jwt.get_algorithm_by_name(algorithm).to_jwk(private, as_dict=True)
    return changed(k=None, alg=algorithm, **members)


P256 = ec.generate_private_key(ec.SECP256R1())
OTHER_D = Key.generate("ES256", START).to_jwk()["d"]


@pytest.mark.parametrize(
    "edit",
    [
        list.clear,
        lambda keys: keys.append(7),
        lambda keys: keys.append(keys[0]),
        lambda keys: keys.append(keys[0] | {"retired": int(START)}),
        lambda keys: keys.append(keys[0] | {"kid": "another"}),
        lambda keys: keys.insert(0, keys[0] | {"kid": "another", "retired": 1}),
        lambda keys: keys.extend(keys[0] | {"kid": f"{n}", "retired": 1} for n in range(MAX_KEYS)),
        changed(retired=int(START)),
        changed(kid=None),
        changed(kid=7),
        changed(kid=""),
        changed(kid="a\nb"),
        changed(kid="k" * 65),
        changed(alg=None),
        changed(alg="none"),
        changed(alg="HS512"),
        changed(alg="ES256"),
        changed(alg=["HS256"]),
        changed(created=None),
        changed(created="1"),
        changed(created=True),
        changed(created=1.5),
        changed(created=-1),
        changed(created=10**400),
        changed(created=float("inf")),
        changed(kty=None),
        changed(kty="EC"),
        changed(use="enc"),
        changed(k=None),
        changed(k=7),
        changed(k=""),
        changed(k="c2hvcnQ"),
        changed(k="é" * 43),
        changed(k="A" * 42 + "B"),
        changed(k="!" + "A" * 43),
        with_key(P256.public_key(), "ES256"),
        with_key(ec.generate_private_key(ec.SECP384R1()), "ES256"),
        with_key(ed448.Ed448PrivateKey.generate(), "EdDSA"),
        lambda keys: (with_key(P256, "ES256")(keys), changed(d=OTHER_D)(keys)),
        lambda keys: (with_key(P256, "ES256")(keys), changed(crv=None)(keys)),
    ],
)
def test_a_damaged_key_is_refused(tmp_path: Path, edit: Callable[[list[Any]], None]) -> None:
    ring = ring_of(tmp_path)
    keys = document(ring)["keys"]
    edit(keys)
    damaged(ring, json.dumps({"keys": keys}).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": null}',
        b"[" * 50_000,
        b" " * (1 << 17),
        b'{"keys": [' + b"1" * 5000 + b"]}",
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, body: bytes) -> None:
    damaged(ring_of(tmp_path), body)


def damaged(ring: KeyRing, body: bytes) -> None:
    """Nothing comes of such a file, nothing becomes of it, and nothing of it is told."""
    before = ring.current
    put(ring, body)
    for call in (ring.reload, ring.rotate):
        text = refusal(call, ring.path)
        assert "no file of signing keys" in text
        assert "remove it" in text
        try:
            (jwk, *_) = json.loads(body)["keys"]
            shown = [text.count(jwk[name]) for name in ("k", "d") if len(str(jwk.get(name, ""))) > 8]
        except (ValueError, TypeError, RecursionError, KeyError):
            shown = []
        assert not any(shown)
    assert ring.path.read_bytes() == body
    assert ring.current == before
    assert ring.by_id(before.kid) == before


def test_what_others_add_to_a_key_does_no_harm(tmp_path: Path) -> None:
    """RFC 7517 section 4: members that are not understood are to be ignored."""
    ring = ring_of(tmp_path)
    (jwk,) = document(ring)["keys"]
    put(ring, json.dumps({"keys": [jwk | {"key_ops": ["sign"], "x-ours": {}}], "more": 1}).encode())
    ring.reload()
    assert ring.by_id(jwk["kid"]) == ring.current


# Rotation, and what others wrote


def test_a_retired_key_verifies_for_a_day(tmp_path: Path) -> None:
    ticking = clock()
    ring = ring_of(tmp_path, "HS256", ticking)
    old = ring.current
    ring.rotate()
    assert ring.current.kid != old.kid
    assert [key["kid"] for key in document(ring)["keys"]] == [ring.current.kid, old.kid]
    late = ring_of(tmp_path, "HS256", ticking)
    ticking.advance(GRACE)
    for each in (ring, late):
        found = each.by_id(old.kid)
        assert found is not None
        assert found.private == old.private
    ticking.advance(1)
    assert ring.by_id(old.kid) is None
    assert late.by_id(old.kid) is None
    ring.reload()
    assert [key["kid"] for key in document(ring)["keys"]] == [ring.current.kid]


def test_another_algorithm_makes_another_key(tmp_path: Path) -> None:
    ring = ring_of(tmp_path, "HS256")
    old = ring.current
    other = ring_of(tmp_path, "EdDSA")
    assert other.current.algorithm == "EdDSA"
    found = other.by_id(old.kid)
    assert found is not None
    assert (found.algorithm, found.private) == ("HS256", old.private)
    ring.algorithm = "EdDSA"
    ring.reload()
    assert ring.current == other.current


def test_another_process_rotated(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    generation = ring.generation
    other = ring_of(tmp_path)
    other.rotate()
    assert ring.by_id(other.current.kid) == other.current
    assert ring.current == other.current
    assert ring.generation != generation


def test_a_reload_takes_over_what_another_process_wrote(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    other = ring_of(tmp_path)
    other.rotate()
    ring.reload()
    assert ring.current == other.current


def test_unknown_keys_are_looked_for_once_a_second(tmp_path: Path) -> None:
    ticking = clock()
    ring = ring_of(tmp_path, "HS256", ticking)
    assert ring.by_id("unknown") is None
    other = ring_of(tmp_path)
    other.rotate()
    wanted = other.current.kid
    ticking.advance(0.9)
    assert ring.by_id(wanted) is None
    ticking.advance(0.1)
    assert ring.by_id(wanted) == other.current


def test_unknown_keys_are_looked_for_after_the_clock_was_set_back(tmp_path: Path) -> None:
    ticking = clock()
    ring = ring_of(tmp_path, "HS256", ticking)
    assert ring.by_id("unknown") is None
    other = ring_of(tmp_path)
    other.rotate()
    ticking.rightNow -= 3600
    assert ring.by_id(other.current.kid) == other.current


def test_a_look_at_a_file_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    """It is complained of once, and read as soon as it is right."""
    ticking = clock()
    ring = ring_of(tmp_path, "HS256", ticking)
    before, generation = ring.current, ring.generation
    other = ring_of(tmp_path)
    other.rotate()
    ring.path.chmod(0o644)
    with capturedLogs() as events:
        for _ in range(3):
            ticking.advance(1)
            assert ring.by_id(other.current.kid) is None
    (line,) = logged(events)
    assert line.startswith(f"{ring.path}: is open to others")
    assert (ring.current, ring.generation) == (before, generation)
    ring.path.chmod(0o600)
    ticking.advance(1)
    assert ring.by_id(other.current.kid) == other.current


def test_the_file_is_gone(tmp_path: Path) -> None:
    """A look makes no key, but a reload does: so every token is ended at once."""
    ticking = clock()
    ring = ring_of(tmp_path, "HS256", ticking)
    before = ring.current
    ring.path.unlink()
    with capturedLogs() as events:
        for _ in range(3):
            ticking.advance(1)
            assert ring.by_id("unknown") is None
    assert logged(events) == [str(ring.path)]
    assert not ring.path.exists()
    assert ring.by_id(before.kid) == before
    ring.reload()
    assert ring.by_id(before.kid) is None
    assert ring.by_id(ring.current.kid) == ring.current


def test_keys_do_not_grow_without_end(tmp_path: Path) -> None:
    ticking = clock()
    ring = ring_of(tmp_path, "HS256", ticking)
    for _ in range(MAX_KEYS - 1):
        ring.rotate()
    assert "wait a day" in refusal(ring.rotate, ring.path)
    ring.reload()
    ticking.advance(GRACE + 1)
    ring.rotate()
    assert len(document(ring)["keys"]) == 2


def test_a_ring_without_keys_says_so(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path, "HS256")
    with pytest.raises(RuntimeError):
        _ = ring.current


def test_a_rotation_needs_no_load(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys", "HS256")
    ring.rotate()
    assert ring_of(tmp_path).current == ring.current


steps = st.tuples(st.floats(0, 2 * GRACE), st.sampled_from(ALGORITHMS), st.booleans())


@given(st.lists(steps, min_size=1, max_size=8))
def test_renewals(chosen: list[tuple[float, Algorithm, bool]]) -> None:
    """One key is current; a key that was verifies for a day from then; the file holds what was written."""
    now = START
    keys: tuple[Key, ...] = ()
    ends: dict[str, float] = {}
    for pause, algorithm, rotate in chosen:
        now += pause
        before = keys
        keys = renewed(before, algorithm, now, rotate=rotate)
        current = keys[0]
        if before and current != before[0]:
            ends[before[0].kid] = now + GRACE
        assert (current.retired, current.algorithm) == (None, algorithm)
        assert (not before or current != before[0]) or not rotate
        assert {key.kid for key in keys} >= {kid for kid, end in ends.items() if now < end}
        assert {key.kid for key in keys[1:]} <= {kid for kid, end in ends.items() if now < end + 1}
        assert renewed(keys, algorithm, now) == keys
        read = parse(json.dumps({"keys": [key.to_jwk() for key in keys]}).encode())
        assert read == keys
        assert [key.to_jwk() for key in read] == [key.to_jwk() for key in keys]


class Rings(RuleBasedStateMachine):
    """Two processes that share a file, and may each be behind."""

    chosen = st.integers(0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.clock = clock()
        path = Path(self.directory.name) / "keys"
        self.rings = [KeyRing(path, "HS256", self.clock.seconds) for _ in range(2)]
        self.current: str | None = None
        self.ends: dict[str, float] = {}
        for which in range(2):
            self.load(which)

    def teardown(self) -> None:
        self.directory.cleanup()

    def written(self, ring: KeyRing) -> None:
        """What the ring has for current now is what the file says."""
        if self.current is not None and ring.current.kid != self.current:
            self.ends[self.current] = self.clock.seconds() + GRACE
        assert ring.current.kid not in self.ends
        self.current = ring.current.kid

    @rule(which=chosen)
    def load(self, which: int) -> None:
        self.rings[which].load()
        self.written(self.rings[which])
        assert self.rings[which].current.algorithm == self.rings[which].algorithm

    @rule(which=chosen)
    def rotate(self, which: int) -> None:
        before = self.current
        self.rings[which].rotate()
        self.written(self.rings[which])
        assert self.current != before

    @rule(which=chosen, algorithm=st.sampled_from(ALGORITHMS))
    def configure(self, which: int, algorithm: Algorithm) -> None:
        self.rings[which].algorithm = algorithm

    @rule(pause=st.integers(1, int(GRACE)))
    def advance(self, pause: int) -> None:
        self.clock.advance(pause)

    @precondition(lambda self: self.current is not None)
    @rule(which=chosen)
    def ask(self, which: int) -> None:
        ring = self.rings[which]
        self.clock.advance(1)
        assert self.current is not None
        assert ring.by_id(self.current) == ring.current
        assert ring.current.kid == self.current
        for kid, end in self.ends.items():
            left = end - self.clock.seconds()
            # Retired at the next whole second.
            if not -1 < left <= 0:
                assert (ring.by_id(kid) is not None) is (left > 0)


TestRings = Rings.TestCase
TestRings.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)

"""The store on a local file system."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from depproxy.oci.digest import Digest
from depproxy.storage.files import LEFTOVER_AGE, FileStore, StoreInUse
from depproxy.storage.growing import GrowingFile
from depproxy.storage.interface import SHARDS, IBlobStore, StoredFile
from tests.cache_tools import Outcome
from tests.fakes import Threads
from tests.test_growing import PlaceTestCase, grow, largest_file


class BlobsTestCase(PlaceTestCase):
    """With ways to write and to read."""

    def write(self, data: bytes, algorithm: str = "sha256") -> Digest:
        digest = Digest.of(data, algorithm)
        assert Outcome(self.place.store.write(digest, data)).value is None
        return digest


class Blobs(BlobsTestCase):
    """Whole blobs: written, opened, read."""

    def read(self, digest: Digest) -> bytes | None:
        return Outcome(self.place.store.read(digest)).value

    def test_provides_the_interface(self) -> None:
        verifyObject(IBlobStore, self.place.store)

    @given(st.binary(max_size=3000), st.sampled_from(["sha256", "sha512"]))
    def test_what_is_written_is_there(self, data: bytes, algorithm: str) -> None:
        digest = self.write(data, algorithm)
        assert self.place.store.contains(digest) == len(data)
        assert self.read(digest) == data
        assert self.place.stored(digest) == data
        assert self.place.blob(digest).read_bytes() == data

    def test_what_is_not_there(self) -> None:
        assert self.place.store.open(self.digest) is None
        assert self.place.store.contains(self.digest) is None
        assert self.read(self.digest) is None

    def test_no_other_file_is_left(self) -> None:
        digest = self.write(self.data)
        self.write(self.data)
        assert self.place.files() == [f"blobs/sha256/{digest.encoded[:2]}/{digest.encoded}"]

    def test_nobody_else_may_look(self) -> None:
        self.write(self.data)
        file = grow(self.place, Digest.of(b"another"))
        for path in ("", "blobs", "growing", "incoming", "lock"):
            mode = stat.S_IMODE((self.place.root / path).stat().st_mode)
            assert mode & 0o077 == 0, path
        file.release()

    def test_a_damaged_blob_is_removed_when_it_is_read(self) -> None:
        digest = self.write(self.data)
        for damage in (self.data[:-1], self.data + b"x", b"", bytes(len(self.data))):
            self.place.blob(digest).write_bytes(damage)
            assert self.read(digest) is None
            assert self.place.store.contains(digest) is None

    def test_a_writer_that_fails_leaves_nothing(self) -> None:
        with largest_file(1000):
            outcome = Outcome(self.place.store.write(self.digest, self.data))
        assert isinstance(outcome.error, OSError)
        assert outcome.error.errno == errno.EFBIG
        assert self.place.files() == []

    def test_an_open_blob_outlives_its_name(self) -> None:
        digest = self.write(self.data)
        opened = self.place.store.open(digest)
        assert opened is not None
        self.place.blob(digest).unlink()
        assert opened.size == 5000
        assert os.pread(opened.fd, 6000, 0) == self.data
        opened.close()

    def test_descriptors_are_not_inherited(self) -> None:
        opened = self.place.store.open(self.write(self.data))
        assert opened is not None
        file = grow(self.place, Digest.of(b"another"))
        assert not os.get_inheritable(opened.fd)
        assert not os.get_inheritable(file.fd)
        opened.close()
        file.release()


class Listing(BlobsTestCase):
    """What eviction and the sweep need."""

    def shard(self, number: int) -> list[StoredFile]:
        return list(Outcome(self.place.store.shard(number)).value)

    @given(st.lists(st.tuples(st.binary(max_size=50), st.sampled_from(["sha256", "sha512"])), unique=True, max_size=9))
    def test_every_blob_is_in_its_shard(self, blobs: list[tuple[bytes, str]]) -> None:
        written = {self.write(data, algorithm): len(data) for data, algorithm in blobs}
        for digest in written:
            os.utime(self.place.blob(digest), (1_700_000_000.5,) * 2)
        found = [file for number in range(SHARDS) for file in self.shard(number)]
        expected = [StoredFile(digest, size, 1_700_000_000.5) for digest, size in written.items()]
        assert sorted(found, key=lambda file: file.digest) == sorted(expected, key=lambda file: file.digest)
        assert Outcome(self.place.store.remove(list(written))).value == {}
        assert self.place.files() == []

    def test_what_is_no_blob_is_left_out(self) -> None:
        digest = self.write(self.data)
        number = int(digest.encoded[:2], 16)
        for name in ("README", digest.encoded[:-1], "é"):
            (self.place.blob(digest).parent / name).write_text("x")
        assert [file.digest for file in self.shard(number)] == [digest]

    def test_removing(self) -> None:
        digest = self.write(self.data)
        opened = self.place.store.open(digest)
        assert opened is not None
        for _ in range(2):
            assert Outcome(self.place.store.remove([digest])).value == {}
            assert self.place.store.contains(digest) is None
        assert os.pread(opened.fd, 6000, 0) == self.data
        opened.close()

    def test_what_cannot_be_removed_stays_alone(self) -> None:
        digests = [self.write(bytes([number])) for number in range(3)]
        blob = self.place.blob(digests[1])
        blob.unlink()
        blob.mkdir()
        stay = Outcome(self.place.store.remove(digests)).value
        assert {digest: type(error) for digest, error in stay.items()} == {digests[1]: IsADirectoryError}
        assert [self.place.blob(digest).exists() for digest in digests] == [False, True, False]

    def test_what_is_missing(self) -> None:
        digest, other = self.write(self.data), Digest.of(b"another")
        assert list(Outcome(self.place.store.missing([digest, other])).value) == [other]
        assert list(Outcome(self.place.store.missing([])).value) == []


class Leftovers(PlaceTestCase):
    """What interrupted fills and writes leave."""

    def age(self, path: Path, seconds: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1_700_000_000 - seconds,) * 2)

    def sweep(self) -> int:
        return Outcome(self.place.store.sweep(1_700_000_000)).value

    @given(st.integers(0, 5000))
    def test_a_growing_file_goes_on_where_it_was(self, left: int) -> None:
        self.place.leave_behind(self.digest, self.data[:left])
        file = grow(self.place, self.digest)
        assert (file.written, file.pending, file.error) == (left, 0, None)
        assert file.matches() == (left == 5000)
        file.append(self.data[left:])
        assert file.matches()
        file.release()

    def test_the_old_go_and_the_young_stay(self) -> None:
        old = [self.place.growing(self.digest), self.place.root / "incoming" / "tmpold"]
        young = [self.place.growing(Digest.of(b"young")), self.place.root / "incoming" / "tmpyoung"]
        for path in old:
            self.age(path, LEFTOVER_AGE)
        for path in young:
            self.age(path, LEFTOVER_AGE - 1)
        self.age(self.place.blob(self.digest), 10 * LEFTOVER_AGE)
        assert self.sweep() == 2
        assert [path.exists() for path in (*old, *young)] == [False, False, True, True]
        assert self.place.blob(self.digest).exists()
        assert self.sweep() == 0

    def test_what_is_being_continued_stays(self) -> None:
        """An old leftover that a fill has just taken up, and has not written to yet."""
        self.place.leave_behind(self.digest, self.data[:1000])
        self.age(self.place.growing(self.digest), 10 * LEFTOVER_AGE)
        file = grow(self.place, self.digest)
        assert self.sweep() == 0
        file.append(self.data[1000:])
        assert Outcome(file.commit()).value is None
        file.release()
        assert self.place.stored(self.digest) == self.data

    def test_a_file_that_goes_meanwhile_disturbs_nothing(self) -> None:
        """Fills and writes end while the sweep looks: whatever it meets, it comes to its end."""
        paths = [self.place.root / "incoming" / str(number) for number in range(1000)]
        for path in paths:
            self.age(path, 2 * LEFTOVER_AGE)

        def take_away() -> None:
            for path in paths:
                path.unlink(missing_ok=True)

        other = Thread(target=take_away)
        other.start()
        self.sweep()
        other.join()
        assert self.place.files() == []


class Locking(PlaceTestCase):
    """One process per store."""

    def test_a_second_store(self) -> None:
        second = FileStore(self.place.root, Threads())
        with pytest.raises(StoreInUse, match=str(self.place.root)):
            second.prepare()
        second.close()
        self.place.store.close()
        self.place.store.close()
        second.prepare()
        second.close()

    def test_a_process_that_dies_leaves_no_lock(self) -> None:
        self.place.store.close()
        code = "import sys; from pathlib import Path; from depproxy.storage.files import FileStore; "
        code += "FileStore(Path(sys.argv[1]), None).prepare(); print('locked', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", code, str(self.place.root)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"locked\n"
            with pytest.raises(StoreInUse):
                self.place.store.prepare()
            other.kill()
            other.wait()
        self.place.store.prepare()

    def test_preparing_twice_over_old_files(self) -> None:
        file = grow(self.place, self.digest)
        file.append(self.data)
        assert Outcome(file.commit()).value is None
        file.release()
        self.place.store.close()
        self.place.store.prepare()
        assert self.place.stored(self.digest) == self.data


class Commit(PlaceTestCase):
    def test_the_name_appears_with_all_bytes(self) -> None:
        file = grow(self.place, self.digest)
        file.append(self.data)
        assert self.place.store.contains(self.digest) is None
        assert Outcome(file.commit()).value is None
        assert self.place.stored(self.digest) == self.data
        assert os.pread(file.fd, 6000, 0) == self.data
        file.release()
        assert self.place.files() == [str(self.place.blob(self.digest).relative_to(self.place.root))]

    def test_two_files_for_one_digest(self) -> None:
        """The later one replaces the earlier one; who reads that, reads on."""
        Outcome(self.place.store.write(self.digest, self.data))
        opened = self.place.store.open(self.digest)
        assert opened is not None
        file = grow(self.place, self.digest)
        file.append(self.data)
        assert Outcome(file.commit()).value is None
        file.release()
        assert os.pread(opened.fd, 6000, 0) == self.data
        opened.close()

    def test_descriptors(self) -> None:
        for _ in range(20):
            file: GrowingFile = grow(self.place, self.digest)
            file.release()
        assert self.place.open_files() == []

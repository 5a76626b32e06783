"""One upstream download of one blob, followed by any number of readers.

The states of a fill, and what each may become:

``opening``     nothing known yet                          -> streaming, failed
``streaming``   size known, bytes arrive, are followed     -> verified, failed
``verified``    the digest matches: all bytes may be read  -> (ended: stored, or not stored for want of disk)
``failed``      no more bytes; followers must not end cleanly
"""

from collections.abc import Callable
from random import Random

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from depproxy.cache.sink import FillSink
from depproxy.coalesce import Waiters
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name
from depproxy.storage.interface import IBlobStore, IGrowingFile
from depproxy.upstream.errors import Invalid, Throttled, Unavailable, UpstreamError
from depproxy.upstream.interface import IBlobStream, IUpstream

# Attempts in a row that bring no byte before a fill gives up.
FRUITLESS_ATTEMPTS = 8
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 15.0
# An upstream that names its own time is waited for so long, while clients are in the middle of the blob.
LONGEST_RETRY_AFTER = 60.0
# Followers are told of new bytes at most this often (seconds): a hundred of them woken for each small piece would
# cost a core, and none of them could see the difference.
NOTIFY_INTERVAL = 0.01
# What is taken from an upstream that names no length for a blob whose size no manifest told.
UNDECLARED_LIMIT = 64 << 30


# Told when something about the fill changed.
Follower = Callable[[], None]


class Fill:
    """A download that belongs to the cache, not to a request: it goes on when every reader has left."""

    _log = Logger()

    def __init__(
        self,
        digest: Digest,
        upstream: IUpstream,
        repository: Name,
        size: int | None,
        store: IBlobStore,
        clock: IReactorTime,
        random: Random,
        metrics: Metrics,
    ) -> None:
        self.digest = digest
        self.upstream = upstream
        self.repository = repository
        self.size = size
        self.verified = False
        self.failure: Exception | None = None
        self.file: IGrowingFile | None = None
        # By the clock.
        self.began = clock.seconds()
        # Bytes received from upstream.
        self.fetched = 0
        self._store = store
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._opened = False
        self._proven = False
        self._ready: Waiters[None] = Waiters()
        self._stored: bool | None = None
        self._ended: Waiters[bool] = Waiters()
        self._followers: set[Follower] = set()
        self._notified = 0.0
        self._notify_call: IDelayedCall | None = None
        self._sink: FillSink | None = None

    @property
    def readable(self) -> int:
        """Bytes that may be read now: all but the last one until the digest is verified."""
        if self.file is None:
            return 0
        written: int = self.file.written
        return written if self.verified else max(0, written - 1)

    @property
    def waiters(self) -> int:
        """Requests that are attached to it: those that follow, and those that wait for its first byte."""
        return len(self._followers) + len(self._ready)

    @property
    def _limit(self) -> int:
        return UNDECLARED_LIMIT if self.size is None else self.size

    def ready(self) -> "Deferred[None]":
        """Fires when upstream has answered for the blob, with its error if it refused. May be cancelled."""
        waiter = self._ready.add()
        if self._opened or self.failure is not None:
            self._tell_ready()
        return waiter

    def ended(self) -> "Deferred[bool]":
        """Fires with whether the blob is stored, once it is or never will be. May be cancelled."""
        waiter = self._ended.add()
        if self._stored is not None:
            self._ended.callback(self._stored)
        return waiter

    def start(self, *, proven: bool = True) -> "Deferred[bool]":
        """
        Begin; fires with whether the blob is stored now. Never fails: `failure` tells. Cancel it to stop.

        Unless it is `proven` that the repository holds the blob, upstream is asked for it even where a leftover of an
        interrupted fill is whole.
        """
        self._proven = proven
        return Deferred.fromCoroutine(self._run())

    def follow(self, follower: Follower) -> None:
        """Call `follower` whenever `readable`, `size` or `failure` changed, until unfollow()."""
        assert self.file is not None, "follow() is for fills that are ready"
        self.file.hold()
        self._followers.add(follower)
        self._metrics.followers.inc()

    def unfollow(self, follower: Follower) -> None:
        """Undo follow()."""
        assert self.file is not None
        self._followers.remove(follower)
        self.file.release()
        self._metrics.followers.dec()

    async def _run(self) -> bool:
        self._metrics.fills_active.inc()
        outcome = "failed"
        try:
            await self._fill()
            outcome = "stored" if await self._commit() else "failed"
        except CancelledError:
            outcome = "stopped"
            if not self.verified:
                self._fail(Unavailable(self.upstream.name, "depproxy is stopping"))
        except Exception as error:
            if isinstance(error, UpstreamError | OSError):
                self._log.warn(
                    "fill of {digest} from {name} failed: {error}",
                    digest=self.digest,
                    name=self.upstream.name,
                    error=error,
                )
            else:
                # Ours; whoever waits must be told all the same.
                self._log.failure("fill of {digest} failed", digest=self.digest)
            self._metrics.errors.labels("fill").inc()
            self._fail(error)
        finally:
            self._metrics.fills_active.dec()
            self._metrics.fills.labels(outcome).inc()
            if self.file is not None:
                self.file.release()
            self._stored = outcome == "stored"
            self._ended.callback(self._stored)
        return self._stored

    async def _fill(self) -> None:
        file = await self._grow()
        if file.written:
            file = await self._continue(file)
        else:
            await self._download(file)
        self.size = file.written
        self.verified = True
        self._open()
        self._notify()

    async def _grow(self) -> IGrowingFile:
        self.file = file = await self._store.grow(self.digest)
        file.observe(self._wrote)
        return file

    async def _continue(self, file: IGrowingFile) -> IGrowingFile:
        """Go on from the bytes that an interrupted fill left; start anew if they prove to be of no use."""
        if self._proven and file.matches():
            return file
        try:
            await self._download(file)
        except Invalid as error:
            if self._opened:
                raise
            self._log.info("leftover of {digest} is of no use: {error}", digest=self.digest, error=error)
            self.file = None
            file.release()
            file = await self._grow()
            await self._download(file)
        return file

    async def _download(self, file: IGrowingFile) -> None:
        """Fetch until every byte is in the file, then compare its digest. Wrong bytes are discarded."""
        try:
            await self._fetch(file)
            if not file.matches():
                raise Invalid(
                    self.upstream.name,
                    f"the bytes sent for {self.digest} in {self.repository} do not match it",
                )
        except (Invalid, OSError):
            # Wrong bytes; or a full disk, most likely, which what is kept of this blob would keep full.
            await file.discard()
            raise

    async def _fetch(self, file: IGrowingFile) -> None:
        """Fetch until every byte is in the file, over as many connections as it takes."""
        fruitless = 0
        while True:
            before = file.written
            error = await self._attempt(file)
            if error is None:
                return
            fruitless = 0 if file.written > before else fruitless + 1
            if fruitless >= FRUITLESS_ATTEMPTS:
                raise error
            self._log.info(
                "{name} broke off {digest} at byte {at}: {error}; going on from there",
                name=self.upstream.name,
                digest=self.digest,
                at=file.written,
                error=error,
            )
            pause = min(FIRST_PAUSE * 2**fruitless, LONGEST_PAUSE) * self._random.uniform(0.5, 1.0)
            await deferLater(self._clock, max(pause, min(error.retry_after or 0.0, LONGEST_RETRY_AFTER)))

    async def _attempt(self, file: IGrowingFile) -> UpstreamError | None:
        """One connection's worth of bytes. None when the body is complete, else why it broke off."""
        try:
            # Once clients are mid-blob, the longer patience is here.
            stream = await self.upstream.open_blob(self.repository, self.digest, file.written, retry=not self._opened)
        except (Unavailable, Throttled) as error:
            # Before the first answer the client's own retries were enough; afterwards clients are mid-blob.
            if not self._opened:
                raise
            return error
        self._check_size(stream, file.written)
        self._sink = sink = FillSink(stream, file, self._limit, self._fetched)
        if self.size != 0:
            self._open()
        stream.start(sink)
        try:
            broken = await sink.done
        finally:
            self._sink = None
        await file.idle()
        if file.error is not None:
            raise file.error
        if sink.overrun:
            raise Invalid(self.upstream.name, f"{self.digest} is longer than the {self._limit} bytes announced")
        if self.size is None:
            # Where nobody tells the length, the digest does: nothing is missing, however the connection ended.
            return None if broken is None or file.matches() else broken
        if file.written == self.size:
            return None
        return broken or Unavailable(self.upstream.name, "the connection was closed before the end of the blob")

    def _check_size(self, stream: IBlobStream, written: int) -> None:
        wrong = ""
        if self.size is None:
            self.size = stream.size
        elif stream.size not in (None, self.size):
            wrong = f"is announced with {stream.size} bytes, but has {self.size} by what was said before"
        if self.size is not None and written > 0 and written >= self.size:
            # A leftover that does not match: seen before anybody is told that its bytes may be read.
            wrong = f"has {self.size} bytes, but the {written} bytes that are here do not match it"
        if wrong:
            stream.stop()
            raise Invalid(self.upstream.name, f"{self.digest} {wrong}")

    async def _commit(self) -> bool:
        """Give the verified bytes their name. Readers have all of them already, so a full disk fails nobody."""
        assert self.file is not None
        try:
            await self.file.commit()
        except OSError as error:
            self._log.error("{digest} was served but not stored: {error}", digest=self.digest, error=error)
            self._metrics.errors.labels("storage").inc()
            return False
        return True

    def _fetched(self, count: int) -> None:
        self.fetched += count
        self._metrics.bytes_fetched.labels(self.upstream.name).inc(count)

    def _wrote(self) -> None:
        if self._sink is not None:
            self._sink.drained()
        # What a thread still writes after the end concerns nobody.
        if self._notify_call is None and self.failure is None:
            wait = self._notified + NOTIFY_INTERVAL - self._clock.seconds()
            if wait <= 0:
                self._notify()
            else:
                self._notify_call = self._clock.callLater(wait, self._notify)

    def _open(self) -> None:
        self._opened = True
        self._tell_ready()

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._tell_ready()
        self._notify()

    def _tell_ready(self) -> None:
        if self.failure is not None and not self._opened:
            self._ready.errback(self.failure)
        else:
            self._ready.callback(None)

    def _notify(self) -> None:
        if self._notify_call is not None and self._notify_call.active():
            self._notify_call.cancel()
        self._notify_call = None
        self._notified = self._clock.seconds()
        for follower in tuple(self._followers):
            # One may have left because another one was told; and none may keep the news from the others.
            if follower in self._followers:
                try:
                    follower()
                except Exception:
                    self._log.failure("a follower of {digest} failed", digest=self.digest)

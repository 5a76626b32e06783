"""The rows of the table: what is done to each server, and which figures come of it."""

import json
import statistics
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlencode

from attrs import evolve

from . import wrk
from .figures import DIRECT, NGINX, REGISTRY, US, Figure, Target
from .load import Crowd, Download
from .plan import MIB, BenchError
from .process import Memory, Server, memory
from .run import Run, Samples, cores_note, fetch
from .scale import scale
from .servers import ACCOUNT, GROUP
from .source import MANIFEST

ACCEPT = f"Accept: {MANIFEST}"


def _checked(downloads: Sequence[Download]) -> None:
    """BenchError unless all are complete."""
    broken = [download for download in downloads if not download.complete]
    if broken:
        raise BenchError(f"{len(broken)} of {len(downloads)} downloads failed, one with: {broken[0].error}")


def _median_first(downloads: Sequence[Download]) -> float:
    """Milliseconds from request to first byte of the body."""
    return statistics.median(download.first - download.sent for download in downloads) * 1000


def cold_blob(run: Run) -> list[Figure]:
    """Many clients ask at once for a blob that no cache has."""
    plan, samples = run.plan, Samples()
    gets, delay, last = "upstream GETs", "first byte (median), after upstream's", "last client done"
    upstream_first: dict[int, float] = {}

    def work(turn: int, name: str, server: Server) -> str:
        blob = run.data.cold_blobs[turn]
        if name == DIRECT:
            # Before the download: the first reader of a file may wait for the source's disk.
            probes = [Download(blob.path, first_only=True) for _ in range(5)]
            Crowd(server.port).run(probes, parallel=1, limit=plan.cold_limit)
            upstream_first[turn] = _median_first(probes)
        elif turn not in upstream_first:
            raise BenchError("no direct download to compare with")
        downloads = [Download(blob.path) for _ in range(1 if name == DIRECT else plan.clients)]
        mark = run.front.mark()
        wall = Crowd(server.port).run(downloads, parallel=len(downloads), limit=plan.cold_limit)
        seen = run.front.since(mark, blob.path)
        samples.add(gets, name, seen["GET"])
        _checked(downloads)
        first = _median_first(downloads)
        if name != DIRECT:
            samples.add(delay, name, first - upstream_first[turn])
        samples.add(last, name, wall)
        since = first - upstream_first[turn]
        return f"{wall:.2f} s, first byte {first:.1f} ms ({since:+.1f}), GET {seen['GET']}, HEAD {seen['HEAD']}"

    run.each(samples, work, direct=True)
    samples.notes.append(
        f"{plan.clients} clients, {plan.blob // MIB} MiB, each upstream connection {plan.rate / 1e6:g} MB/s"
    )
    samples.notes.append(cores_note(samples))
    row = "cold-blob"
    return [
        samples.figure(row, gets, "", Target(1)),
        samples.figure(row, delay, "ms", Target(50)),
        samples.figure(row, last, "s", Target(1.15, peer=DIRECT)),
    ]


def _requests(
    run: Run, row: str, what: str, paths: Sequence[str], *targets: Target, only: Sequence[str] = ()
) -> list[Figure]:
    """Cached answers per second."""
    samples = Samples()
    run.warm_all(samples, only)

    def work(turn: int, name: str, server: Server) -> str:
        mark = run.front.mark()
        result = wrk.run(run.wrk, run.plan, server.base, paths, ACCEPT)
        seen = run.front.since(mark)
        samples.add(what, name, result.requests_per_second)
        upstream = f"upstream HEAD {seen['HEAD']}, GET {seen['GET']}"
        return f"{result.requests_per_second:.0f}/s, 99% within {result.p99 or 0:.1f} ms, {upstream}"

    run.each(samples, work, only=only)
    samples.notes.append(cores_note(samples))
    return [samples.figure(row, what, "1/s", *targets)]


def tag(run: Run) -> list[Figure]:
    """A cached tag. nginx answers it without asking upstream."""
    paths = [run.data.image.tag_path]
    return _requests(run, "tag", "cached tag", paths, Target(10, at_least=True, peer=REGISTRY))


def fresh_tag(run: Run) -> list[Figure]:
    """A cached tag within its freshness window, which depproxy alone has."""
    what = "cached tag, freshness window"
    return _requests(run, "fresh-tag", what, [run.data.image.fresh_path], only=[US])


def digest(run: Run) -> list[Figure]:
    """A cached manifest by digest."""
    paths = [run.data.image.digest_path]
    return _requests(run, "digest", "cached digest manifest", paths, Target(5, at_least=True, peer=REGISTRY))


def login(run: Run) -> list[Figure]:
    """A cached manifest by digest, for who is let in by address and for who has a token."""
    samples, what, open_ = Samples(), "cached digest manifest, with a token", "without a token"
    run.warm_all(samples, [US])
    path = run.data.image.digest_path
    closed = path.replace("/v2/", f"/v2/{GROUP}/dependency_proxy/containers/")

    def work(turn: int, name: str, server: Server) -> str:
        header = f"Authorization: Bearer {_token(server, closed)}"
        # The first proves to the cache that the group may have it.
        wrk.run(run.wrk, evolve(run.plan, seconds=1), server.base, [closed], ACCEPT, header)
        rates = {}
        for party, asked, headers in ((open_, path, ()), (US, closed, (header,))):
            rates[party] = wrk.run(run.wrk, run.plan, server.base, [asked], ACCEPT, *headers).requests_per_second
            samples.add(what, party, rates[party])
        return ", ".join(f"{party} {rate:.0f}/s" for party, rate in rates.items())

    run.each(samples, work, only=[US])
    samples.notes.append(cores_note(samples))
    return [samples.figure("login", what, "1/s", Target(0.85, at_least=True, peer=open_))]


def _token(server: Server, path: str) -> str:
    """A token for the repository of a manifest's path, from the token endpoint."""
    repository = path.removeprefix("/v2/").partition("/manifests/")[0]
    query = urlencode({"service": "dependency_proxy", "scope": f"repository:{repository}:pull"})
    request = urllib.request.Request(f"{server.base}/jwt/auth?{query}")
    request.add_header("Authorization", "Basic " + b64encode(":".join(ACCOUNT).encode()).decode())
    with urllib.request.urlopen(request, timeout=30) as response:
        token: str = json.load(response)["token"]
    return token


def blobs(run: Run) -> list[Figure]:
    """Cached blobs of 1 MiB, in turn."""
    paths = [blob.path for blob in run.data.image.blobs if blob.size == MIB]
    targets = Target(3.5, at_least=True, peer=REGISTRY), Target(0.9, at_least=True, peer=NGINX)
    return _requests(run, "blobs", "cached 1 MiB blobs", paths, *targets)


def image(run: Run) -> list[Figure]:
    """The pull of a whole image that no cache has, as docker does it: three blobs at a time."""
    samples, what = Samples(), "cold image"

    def work(turn: int, name: str, server: Server) -> str:
        pulled = run.data.cold_images[turn]
        start = time.monotonic()
        fetch(server, "HEAD", pulled.tag_path)
        fetch(server, "GET", pulled.digest_path, pulled.digest)
        manifests = time.monotonic() - start
        downloads = [Download(blob.path) for blob in pulled.blobs]
        Crowd(server.port).run(downloads, parallel=3, limit=run.plan.cold_limit)
        wall = time.monotonic() - start
        _checked(downloads)
        samples.add(what, name, wall)
        return f"{wall:.2f} s, of these manifests {manifests * 1000:.1f} ms"

    run.each(samples, work, direct=True)
    sizes = ", ".join(f"{size / MIB:.3g}" for size in run.plan.layers)
    samples.notes += [f"layers of {sizes} MiB, three at a time", cores_note(samples)]
    return [samples.figure("image", what, "s", Target(1.1, peer=DIRECT))]


class _MemoryWatch:
    """The highest that a server's own process, and all processes below it together, have held."""

    def __init__(self, server: Server) -> None:
        self._pid, *self._below = server.tree()
        self.own = Memory(0, 0, 0)
        self.children = 0

    def look(self) -> None:
        """Sample once."""
        now = memory(self._pid)
        resident, anonymous = max(self.own.resident, now.resident), max(self.own.anonymous, now.anonymous)
        self.own = Memory(resident, max(self.own.peak, now.peak), anonymous)
        self.children = max(self.children, sum(memory(pid).peak for pid in self._below))

    def __str__(self) -> str:
        parts = (self.own.resident, self.own.anonymous, self.children)
        return "sampled resident {:.0f} MiB, of it anonymous {:.0f}; child processes {:.0f} MiB".format(
            *(part / MIB for part in parts)
        )


def crowd(run: Run) -> list[Figure]:
    """Memory while very many clients, some of them slow, follow a large blob that no cache has. One round."""
    plan, samples, what = run.plan, Samples(), "peak resident memory, many followers"
    path = run.data.large.path
    paces = [None if n % plan.slow_every else plan.crowd_pace for n in range(plan.crowd)]

    def work(turn: int, name: str, server: Server) -> str:
        watch = _MemoryWatch(server)
        all_ = [Download(path, pace=pace) for pace in paces]
        wall = Crowd(server.port).run(all_, parallel=plan.crowd, limit=plan.crowd_limit, tick=watch.look)
        if broken := [download.error for download in all_ if download.error not in ("", "cut off")]:
            raise BenchError(f"{len(broken)} of {len(all_)} downloads failed, one with: {broken[0]}")
        # nginx's first process only watches over the workers.
        counted = watch.own.peak + (watch.children if name == NGINX else 0)
        samples.add(what, name, counted / MIB)
        done = sum(download.complete for download in all_)
        speed = sum(download.got for download in all_) / wall / 1e9
        told = f"{done} of {paces.count(None)} unpaced clients done in {wall:.0f} s, {speed:.1f} GB/s; {watch}"
        samples.notes.append(f"{name}: {told}")
        return told

    for name in run.names:
        # A process of its own, so that the peak is this row's.
        server = run.house.start(name)
        mark = run.front.mark()
        try:
            run.measure(samples, 0, name, server, work)
        finally:
            run.house.end(server)
        samples.notes.append(f"{name}: {run.front.since(mark, path)['GET']} upstream GETs")
    samples.notes += [
        f"{plan.crowd} clients, {plan.large // MIB} MiB at {plan.crowd_rate / 1e6:g} MB/s; "
        f"every {plan.slow_every}th reads {plan.crowd_pace / MIB:g} MiB/s",
        cores_note(samples),
    ]
    return [samples.figure("memory", what, "MiB", Target(150))]


ROWS: Mapping[str, Callable[[Run], list[Figure]]] = {
    "cold-blob": cold_blob,
    "tag": tag,
    "fresh-tag": fresh_tag,
    "digest": digest,
    "login": login,
    "blobs": blobs,
    "image": image,
    "memory": crowd,
    "scale": scale,
}

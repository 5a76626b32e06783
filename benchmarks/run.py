"""One run: the servers that stand for its whole length, and the order in which they take turns."""

import hashlib
import http.client
import time
from collections.abc import Callable, Sequence

from attrs import define, field

from .figures import DIRECT, US, Figure, Target
from .meter import busy
from .plan import BenchError, Plan
from .process import Server
from .servers import House
from .source import MANIFEST, Image, Input

FAULTS = (BenchError, OSError, http.client.HTTPException, ValueError)

# Round, name of the server, server -> what to say of it.
Work = Callable[[int, str, Server], str]


def fetch(server: Server, method: str, path: str, digest: str = "") -> str:
    """Ask once, check the body against the digest if one is given; the Docker-Content-Digest header."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, headers={"Accept": f"{MANIFEST}, */*"})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise BenchError(f"{server.name} answered {response.status} to {method} {path}: {body[:200]!r}")
    if method == "GET" and digest and f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
        raise BenchError(f"{server.name} sent other bytes than the source's for {path}")
    return response.headers.get("Docker-Content-Digest", "")


@define
class Samples:
    """The values of one row, by measure and server, as they come in."""

    values: dict[str, dict[str, list[float]]] = field(factory=dict)
    notes: list[str] = field(factory=list)
    failed: set[str] = field(factory=set)
    cores: dict[str, list[dict[str, float]]] = field(factory=dict)

    def add(self, measure: str, server: str, value: float) -> None:
        self.values.setdefault(measure, {}).setdefault(server, []).append(value)

    def figure(self, row: str, measure: str, unit: str, *targets: Target) -> Figure:
        """The figure of one measure, with all notes of the row."""
        values = self.values.get(measure, {})
        notes = tuple(self.notes)
        return Figure(row, measure, unit, values, targets, notes=notes, failed=frozenset(self.failed))


class Run:
    """What the rows measure with. `servers` has the front under the name of "direct"."""

    def __init__(
        self,
        house: House,
        plan: Plan,
        data: Input,
        *,
        wrk: str,
        names: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        self.house = house
        self.front = house.front
        self.plan = plan
        self.wrk = wrk
        self.data = data
        self.names = tuple(names)
        self.say = say
        self.servers = {DIRECT: self.front.server, **{name: house.start(name) for name in names}}
        self._warm: set[str] = set()

    def each(self, samples: Samples, work: Work, *, direct: bool = False, only: Sequence[str] = ()) -> None:
        """Do the work on every server in each round: direct first, then the caches in changing order."""
        names = [name for name in self.names if not only or name in only]
        for turn in range(self.plan.rounds):
            first = turn % len(names) if names else 0
            for name in [*([DIRECT] if direct else []), *names[first:], *names[:first]]:
                self.measure(samples, turn, name, self.servers[name], work)

    def measure(self, samples: Samples, turn: int, name: str, server: Server, work: Work) -> None:
        """Do the work on one server; note its failure, the cores that it took, and say what it returns."""
        parties = {name: server, "front": self.front.server, "source": self.house.source}
        try:
            with busy(parties) as cores:
                told = work(turn, name, server)
        except FAULTS as error:
            self.failed(samples, name, error)
            return
        samples.cores.setdefault(name, []).append(cores)
        shares = ", ".join(f"{party} {share:.2f}" for party, share in cores.items())
        self.say(f"  {name}: {told} (cores: {shares})")

    def failed(self, samples: Samples, name: str, error: Exception) -> None:
        """Note and say why there is no figure for `name`."""
        samples.failed.add(name)
        samples.notes.append(f"{name}: {error or type(error).__name__}")
        self.say(f"  {samples.notes[-1]}")

    def warm_all(self, samples: Samples, only: Sequence[str] = ()) -> None:
        """Bring the image into every cache, once in a run; note the caches that fail."""
        for name in only or self.names:
            if name in self.names and name not in self._warm:
                try:
                    self._fill(name)
                    self._warm.add(name)
                except FAULTS as error:
                    self.failed(samples, name, error)

    def _fill(self, name: str) -> None:
        """Read the image until a whole pass over it makes no upstream GET."""
        for _ in range(100):
            mark = self.front.mark()
            self._read(self.servers[name], self.data.image)
            # docker-registry knocks at /v2/ before every HEAD of a tag.
            if self.front.since(mark)["GET"] == self.front.since(mark, "/v2/")["GET"]:
                return
            time.sleep(0.05)
        raise BenchError(f"{name} keeps asking the source for what it should have cached")

    @staticmethod
    def _read(server: Server, image: Image) -> None:
        for path in (image.tag_path, image.fresh_path, image.digest_path):
            fetch(server, "GET", path, image.digest)
        for blob in image.blobs:
            fetch(server, "GET", blob.path, blob.digest)


def cores_note(samples: Samples) -> str:
    """Who was how busy while depproxy was measured; "" if it was not."""
    rounds = samples.cores.get(US)
    if not rounds:
        return ""
    means = {party: sum(one.get(party, 0) for one in rounds) / len(rounds) for party in rounds[0]}
    return "cores in use: " + ", ".join(f"{party} {mean:.2f}" for party, mean in means.items())

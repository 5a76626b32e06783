"""The admin face that warms: what may be asked for, what is told, and what is left out for a slow reader."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from depproxy.cache.progress import Done, Failed, Layer, Order, Resolved, Resolving
from depproxy.cache.progress import Progress as Step
from depproxy.config import HOST_PLATFORMS
from depproxy.oci.digest import Digest
from depproxy.oci.image import ImageNames
from depproxy.oci.platform import Platform
from depproxy.web.admin.answers import AdminError, Document, written
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.named import Named
from depproxy.web.admin.progress import Progress
from depproxy.web.admin.warm import Outbox, WarmFace
from tests.cache_tools import Outcome
from tests.test_warm import WarmTestCase


class Reader:
    """What the face needs of a `Progress`: takes lines, or stops to while `held`."""

    def __init__(self) -> None:
        self.lines: list[Document] = []
        self.held: Deferred[None] | None = None

    async def tell(self, document: Document) -> None:
        self.lines.append(document)
        if self.held is not None:
            await self.held


class Face(WarmTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.face = WarmFace(self.warmer, Named(ImageNames("docker.io", {"docker.io": ()}), "local"))
        self.reader = Reader()

    def ask(self, **arguments: object) -> Outcome[Document]:
        return Outcome(self.face.warm(Ask(arguments), cast(Progress, self.reader)))

    def test_what_is_told(self) -> None:
        digest = self.push(layers=1)
        outcome = self.ask(images=["alpine", "alpine:gone"], group="acme", platforms=["all"])
        self.flow()
        assert outcome.value == {"images": 2, "failed": 1, "fetched": 100}
        assert [line["event"] for line in self.reader.lines if line["event"] != "layer"] == [
            "resolving",
            "resolved",
            "resolving",
            "failed",
            "done",
        ]
        assert {"event": "done", "image": "alpine", "digest": digest, "size": 100, "fetched": 100} in self.reader.lines
        failed = {"event": "failed", "image": "alpine:gone", "reason": "docker.io: it has no such thing", "fetched": 0}
        assert failed in self.reader.lines
        # The client takes a line with such a key for the end.
        assert not any({"error", "done"} & line.keys() for line in self.reader.lines)
        assert all(written(line) for line in self.reader.lines)

    def test_what_is_ordered(self) -> None:
        arm = Platform("linux", "arm", "v7")
        for arguments, expected in (
            ({"images": ["a"]}, Order(("a",), "local", HOST_PLATFORMS)),
            ({"images": ["a", "b"], "group": "Acme/Tools"}, Order(("a", "b"), "acme/tools", HOST_PLATFORMS)),
            ({"images": ["a"], "platforms": ["linux/arm"]}, Order(("a",), "local", frozenset({arm}))),
            ({"images": ["a"], "platforms": ["linux/arm", "all"]}, Order(("a",), "local", None)),
        ):
            assert self.face._order(Ask(arguments)) == expected

    def test_what_is_refused(self) -> None:
        for arguments, words in (
            ({}, "images must name at least one image"),
            ({"images": []}, "images must name at least one image"),
            ({"images": ["a"], "group": "-"}, "group must be a group path"),
            ({"images": ["a"], "platforms": ["x"]}, "'x' is no platform such as"),
            ({"images": ["a"] * 1001}, "at most 1000"),
        ):
            error = self.ask(**arguments).error
            assert isinstance(error, AdminError)
            assert words in str(error)
        assert self.asked() == []
        assert self.reader.lines == []

    def test_a_client_that_leaves(self) -> None:
        self.push(layers=9)
        outcome = self.ask(images=["alpine"])
        asked = len(self.asked())
        outcome.cancel()
        assert isinstance(outcome.error, CancelledError)
        self.flow()
        assert self.asked() == []
        assert asked == 2 + 6

    def test_a_client_that_stops_reading(self) -> None:
        """It is told the latest when it reads again, and the warming does not wait for it."""
        self.push(layers=1, size=1000)
        self.reader.held = Deferred()
        outcome = self.ask(images=["alpine"])
        for _ in range(90):
            self.upstream.streams[0].send(10)
            self.clock.advance(0.2)
        self.flow()
        assert [line["event"] for line in self.reader.lines] == ["resolving"]
        assert self.counted("done") == 1
        assert outcome.waits
        held, self.reader.held = self.reader.held, None
        held.callback(None)
        assert [line["event"] for line in self.reader.lines] == ["resolving", "resolved", "layer", "done"]
        assert self.reader.lines[2]["here"] == 1000
        assert outcome.value["failed"] == 0


DIGEST = Digest.of(b"")
IMAGES = st.sampled_from(["a", "b"])
STEPS = st.one_of(
    st.builds(Resolving, IMAGES),
    st.builds(Resolved, IMAGES, st.just(DIGEST), st.just(()), st.integers(0, 9), st.just(0)),
    st.builds(Layer, IMAGES, st.sampled_from([DIGEST, Digest.of(b"x")]), st.just(9), st.integers(0, 9), st.booleans()),
    st.builds(Done, IMAGES, st.just(DIGEST), st.integers(0, 9), st.just(0)),
    st.builds(Failed, IMAGES, st.just("no")),
)


@given(st.lists(st.none() | STEPS, max_size=30))
def test_nothing_is_lost_but_what_a_layer_has_overtaken(moves: list[Step | None]) -> None:
    """None is a moment in which the reader takes one."""
    outbox = Outbox()
    taken: list[Outcome[Step | None]] = [Outcome(outbox.take())]
    for move in moves:
        if move is not None:
            outbox.put(move)
        elif not taken[-1].waits:
            taken.append(Outcome(outbox.take()))
    outbox.close()
    while taken[-1].waits or taken[-1].value is not None:
        taken.append(Outcome(outbox.take()))
    steps = [outcome.value for outcome in taken[:-1]]
    put = [move for move in moves if move is not None]
    for image in ("a", "b"):
        for digest in (DIGEST, Digest.of(b"x")):
            layers = [step for step in put if isinstance(step, Layer) and (step.image, step.digest) == (image, digest)]
            told = [step for step in steps if isinstance(step, Layer) and (step.image, step.digest) == (image, digest)]
            assert told[-1:] == layers[-1:]
            assert set(told) <= set(layers)
    others = [step for step in put if not isinstance(step, Layer)]
    assert set(others) == {step for step in steps if not isinstance(step, Layer)}

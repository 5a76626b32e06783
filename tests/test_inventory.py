"""What is in the cache, as lists of groups and images, and as one image in every part."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.cache.inspection import NotKnown
from depproxy.cache.inventory import GroupSummary, Images, ImageSummary, image_name
from depproxy.index.interface import Holding, Home, Share
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import OCI_INDEX, OCI_MANIFEST
from depproxy.oci.reference import Reference, Tag
from tests.cache_tools import ELSEWHERE, HOME, NAME, NEIGHBOUR, Cache, CacheTestCase, Outcome
from tests.test_keeping import BODIES, LAYERS, PARTS, SIZES, TAGS, manifest, offer, pull, read

BESIDE = Home("acme", "docker.io", ELSEWHERE)
MULTI = Tag("multi")


def listed(found: Images) -> list[tuple[int, Home, Reference]]:
    return [(image.read, image.home, image.reference) for image in found.found]


pulls = st.lists(
    st.tuples(st.sampled_from([HOME, BESIDE, NEIGHBOUR]), st.integers(0, 3), st.integers(0, 100)), max_size=12
)


@given(pulls, st.integers(1, 9))
def test_the_latest_images(done: list[tuple[Home, int, int]], limit: int) -> None:
    cache = Cache()
    try:
        offer(cache.upstream)
        last: dict[tuple[Home, Tag], int] = {}
        for home, number, seconds in done:
            pull(cache, home, number)
            last[home, TAGS[number]] = int(cache.now())
            cache.clock.advance(seconds)
        found = Outcome(cache.inventory.images("acme", limit)).value
        # Where two repositories of a group have the same manifest, its last read is that of either, at most that of
        # the repository.
        read = {
            (home, tag): min(
                max(when for (other, same), when in last.items() if same == tag and other.group == home.group),
                max(when for (other, _), when in last.items() if other == home),
            )
            for home, tag in last
            if home.group == "acme"
        }
        expected = sorted(((when, *key) for key, when in read.items()), key=lambda one: (-one[0], str(one[1]), one[2]))
        assert listed(found) == expected[:limit]
        assert found.more == (len(expected) > limit)
    finally:
        cache.close()


class InventoryTestCase(CacheTestCase):
    def setUp(self) -> None:
        super().setUp()
        offer(self.upstream)

    def pull(self, home: Home, number: int) -> None:
        pull(self.cache, home, number)

    def get(self, home: Home, reference: Reference) -> Digest:
        """A manifest, as a client asks for it."""
        digest = Outcome(self.cache.manifests.get(home, reference)).value.digest
        assert digest is not None
        return digest

    def images(self, group: str = "acme", limit: int = 50) -> Images:
        return Outcome(self.cache.inventory.images(group, limit)).value

    def summaries(self) -> Sequence[ImageSummary]:
        pins = Outcome(self.index.pins()).value
        return [Outcome(self.cache.inventory.summary(image, pins)).value for image in self.images().found]

    def put_index(self, *platforms: tuple[str, bytes]) -> Digest:
        """An image index, each manifest for its platform."""
        named = [
            {
                "mediaType": OCI_MANIFEST,
                "digest": Digest.of(body),
                "size": len(body),
                "platform": dict(zip(("os", "architecture"), platform.split("/"), strict=True)),
            }
            for platform, body in platforms
        ]
        for _, body in platforms:
            self.upstream.put_manifest(NAME, body)
        self.body = json.dumps({"schemaVersion": 2, "manifests": named}).encode()
        return self.upstream.put_manifest(NAME, self.body, MULTI, OCI_INDEX)


class Listing(InventoryTestCase):
    def test_groups(self) -> None:
        nothing = GroupSummary("acme", 0, Share(0, 0), None, None)
        assert Outcome(self.cache.inventory.all_groups()).value == [nothing]
        self.pull(NEIGHBOUR, 0)
        self.pull(HOME, 1)
        self.pull(BESIDE, 1)
        self.cache.quotas["acme"] = 7000
        self.cache.ttls["other"] = 3600
        shares = [Share(len(PARTS[number]), sum(SIZES[digest] for digest in PARTS[number])) for number in (1, 0)]
        assert Outcome(self.cache.inventory.all_groups()).value == [
            GroupSummary("acme", 2, shares[0], 7000, None),
            GroupSummary("other", 1, shares[1], None, 3600),
        ]

    def test_sizes_and_pins(self) -> None:
        assert Outcome(self.cache.manifests.get(HOME, TAGS[0])).value.body == BODIES[0]
        layer = Digest.of(LAYERS[0])
        read(self.cache, HOME, layer)
        # Another group's bytes are none of this one's.
        self.pull(NEIGHBOUR, 0)
        assert Outcome(self.index.pin(HOME, TAGS[0])).value
        (found,) = self.summaries()
        assert (found.named, found.held) == (sum(SIZES[part] for part in PARTS[0]), len(BODIES[0]) + SIZES[layer])
        assert (found.platforms, found.pinned) == ([], True)
        assert Outcome(self.index.unpin(HOME, TAGS[0])).value
        assert not self.summaries()[0].pinned

    def test_reads_that_wait_to_be_written_count(self) -> None:
        self.pull(HOME, 0)
        self.clock.advance(100)
        self.get(HOME, TAGS[0])
        assert [image.read for image in self.images().found] == [int(self.cache.now())]

    def test_what_the_group_holds_no_more(self) -> None:
        self.pull(HOME, 0)
        assert Outcome(self.index.forget_blob(PARTS[0][0])).value is None
        (found,) = self.summaries()
        assert (found.image.read, found.held) == (0, sum(SIZES[digest] for digest in PARTS[0][1:]))

    def test_an_image_index_and_its_platforms(self) -> None:
        index = self.put_index(("linux/amd64", BODIES[0]), ("linux/arm64", BODIES[1]), ("unknown/unknown", BODIES[2]))
        assert self.get(HOME, MULTI) == index
        self.get(HOME, PARTS[0][0])
        # Its manifests are no images of their own.
        (found,) = self.summaries()
        assert (found.image.reference, found.platforms) == (MULTI, ["linux/amd64", "linux/arm64"])
        # Layers are known of what is here only.
        sizes = {Digest.of(body): len(body) for body in (self.body, *BODIES[:3])} | {d: SIZES[d] for d in PARTS[0]}
        assert (found.named, found.held) == (sum(sizes.values()), len(self.body) + len(BODIES[0]))

    def test_what_was_pulled_by_digest_alone(self) -> None:
        index = self.put_index(("linux/amd64", BODIES[0]))
        self.get(HOME, index)
        self.get(HOME, PARTS[0][0])
        self.get(HOME, PARTS[1][0])
        assert [image.reference for image in self.images().found] == sorted([index, PARTS[1][0]])
        # It has a tag now.
        self.get(HOME, MULTI)
        assert {image.reference for image in self.images().found} == {MULTI, PARTS[1][0]}

    def test_a_manifest_that_nobody_has_pulled_is_no_image(self) -> None:
        """A link says what upstream has."""
        self.put_index(("linux/amd64", BODIES[0]))
        self.get(HOME, MULTI)
        assert Outcome(self.index.forget_tag(HOME, MULTI)).value is None
        assert [image.reference for image in self.images().found] == [Digest.of(self.body)]

    def test_no_such_group(self) -> None:
        assert self.images("nobody") == Images([], more=False)

    def test_repositories_that_are_too_cold_are_not_looked_at(self) -> None:
        self.pull(BESIDE, 0)
        self.clock.advance(10)
        self.pull(HOME, 1)
        asked: list[Home] = []
        tags = self.index.tags

        async def watched(home: Home, cursor: str) -> object:
            asked.append(home)
            return await tags(home, cursor)

        self.index.tags = watched  # type: ignore[method-assign,assignment]  # It is watched, and does what it did.
        assert self.images(limit=1).more
        assert asked == [HOME]


class Inspecting(InventoryTestCase):
    def test_every_part(self) -> None:
        body = manifest([LAYERS[3]])
        index = self.put_index(("linux/amd64", BODIES[0]), ("linux/arm64", body))
        self.get(HOME, MULTI)
        checked = self.cache.now()
        self.clock.advance(50)
        self.get(NEIGHBOUR, PARTS[0][0])
        self.get(HOME, PARTS[0][0])
        read(self.cache, HOME, PARTS[0][1])
        assert Outcome(self.index.pin(HOME, MULTI)).value
        found = Outcome(self.cache.inspector.inspect(HOME, MULTI)).value
        parts = {part.descriptor.digest: part for part in found.root.all()}
        assert list(parts) == [index, *PARTS[0], Digest.of(body)]
        assert [str(parts[digest].platform) for digest in (index, PARTS[0][0], PARTS[0][1], Digest.of(body))] == [
            "None",
            "linux/amd64",
            "None",
            "linux/arm64",
        ]
        assert found.here == {
            index: Holding(len(self.body), frozenset({"acme"})),
            PARTS[0][0]: Holding(len(BODIES[0]), frozenset({"acme", "other"})),
            PARTS[0][1]: Holding(SIZES[PARTS[0][1]], frozenset({"acme"})),
        }
        assert found.stored == sum(holding.size for holding in found.here.values())
        assert found.named == len(self.body) + len(body) + sum(SIZES[digest] for digest in PARTS[0])
        assert (found.checked, found.image.read, found.pinned) == (checked, int(checked), True)
        # Those that are known to may pull it; the neighbour has one of its manifests alone.
        assert found.linked == ["acme"]

    def test_by_digest(self) -> None:
        self.pull(HOME, 0)
        self.pull(NEIGHBOUR, 0)
        found = Outcome(self.cache.inspector.inspect(HOME, PARTS[0][0])).value
        assert (found.checked, found.pinned, found.linked) == (None, False, ["acme", "other"])
        assert found.stored == found.named

    def test_a_layer_that_is_named_twice_counts_once(self) -> None:
        self.put_index(("linux/amd64", BODIES[0]), ("linux/arm64", BODIES[1]))
        for reference in (MULTI, PARTS[0][0], PARTS[1][0]):
            self.get(HOME, reference)
        found = Outcome(self.cache.inspector.inspect(HOME, MULTI)).value
        assert found.named == len(self.body) + sum(SIZES[digest] for digest in {*PARTS[0], *PARTS[1]})

    def test_not_in_the_cache(self) -> None:
        with pytest.raises(NotKnown) as raised:
            Outcome(self.cache.inspector.inspect(HOME, TAGS[0])).value  # noqa: B018
        assert str(raised.value) == (
            "docker.io/library/alpine:t0 is not in the cache of group acme. `depproxy ls acme` shows what is"
        )
        self.pull(NEIGHBOUR, 0)
        with pytest.raises(NotKnown, match=r"group acme; it is in that of other \(--group\)\."):
            Outcome(self.cache.inspector.inspect(HOME, TAGS[0])).value  # noqa: B018

    def test_a_chain_of_indexes_is_followed_so_far_and_no_farther(self) -> None:
        body = BODIES[0]
        media_type = OCI_MANIFEST
        digest = self.upstream.put_manifest(NAME, body, None, media_type)
        for _ in range(20):
            self.get(HOME, digest)
            named = [{"mediaType": media_type, "digest": digest, "size": len(body)}]
            body, media_type = json.dumps({"manifests": named}).encode(), OCI_INDEX
            digest = self.upstream.put_manifest(NAME, body, None, media_type)
        self.get(HOME, digest)
        assert len(list(Outcome(self.cache.inspector.inspect(HOME, digest)).value.root.all())) == 9


def test_names_of_images() -> None:
    digest = Digest.of(b"")
    assert image_name(HOME, Tag("3")) == "docker.io/library/alpine:3"
    assert image_name(HOME, digest) == f"docker.io/library/alpine@{digest}"

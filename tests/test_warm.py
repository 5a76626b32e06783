"""Warming: what upstream is asked for an image, what is told, and what comes of trouble."""

import json
from collections.abc import Sequence
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError

from depproxy.cache.interface import Outcome as Answer
from depproxy.cache.interface import ServedManifest
from depproxy.cache.progress import Done, Ended, Failed, Layer, Order, Progress, Resolved, Resolving
from depproxy.cache.warm import (
    IMAGES_AT_A_TIME,
    LAYERS_AT_A_TIME,
    MAX_DEPTH,
    MAX_IMAGES,
    MAX_LAYERS,
    TELL_INTERVAL,
    Found,
    TooManyImages,
    Warmer,
)
from depproxy.config import MirrorSettings, image_names
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import OCI_INDEX, OCI_MANIFEST, InvalidManifest
from depproxy.oci.platform import UNKNOWN, Platform
from depproxy.oci.reference import Tag
from depproxy.upstream.errors import Throttled, Unavailable
from tests.cache_tools import HOME, NAME, NEIGHBOUR, CacheTestCase, Outcome, some_bytes
from tests.strategies import some_platforms

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
ARMV6, ARMV7 = Platform("linux", "arm", "v6"), Platform("linux", "arm", "v7")
LATEST = Tag("latest")
BROKEN = Unavailable("docker.io", "the connection was lost")
ENDED = (Done, Failed)


def described(digest: Digest, data: bytes, media_type: str, **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": len(data), **more}


class WarmTestCase(CacheTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.restart()
        self.told: list[Progress] = []

    def restart(self) -> None:
        """What the next process has; the first one is the one that the cache began with."""
        cache = self.cache
        names = image_names(MirrorSettings(), {"docker.io": cache.upstream_settings})
        self.warmer = Warmer(names, cache.manifests, cache.blobs, cache.clock, cache.metrics)

    def push(self, seed: str = "first", tag: Tag | None = LATEST, layers: int = 2, size: int = 100) -> Digest:
        """An image of so many blobs with its config, each of `size` bytes."""
        blobs = [some_bytes(size, crc32(f"{seed} {number}".encode())) for number in range(layers)]
        found = [described(self.upstream.put_blob(NAME, data), data, LAYER) for data in blobs]
        document = {"mediaType": OCI_MANIFEST, "config": {**found[0], "mediaType": CONFIG}, "layers": found[1:]}
        return self.upstream.put_manifest(NAME, json.dumps(document).encode(), tag)

    def push_index(self, *children: tuple[Digest, Platform | None], tag: Tag | None = LATEST) -> Digest:
        listed = []
        for digest, platform in children:
            manifest = self.upstream.manifests[NAME, digest]
            more = {}
            if platform is not None:
                more["platform"] = dict(zip(("os", "architecture", "variant"), str(platform).split("/"), strict=False))
            listed.append(described(digest, manifest.body, manifest.media_type, **more))
        return self.upstream.put_manifest(NAME, json.dumps({"manifests": listed}).encode(), tag, OCI_INDEX)

    def warm(
        self, *images: str, platforms: Sequence[Platform] | None = (AMD64,), group: str = "acme"
    ) -> Outcome[list[Ended]]:
        self.told.clear()
        wanted = None if platforms is None else frozenset(platforms)
        return Outcome(self.warmer.warm(Order(images or ("alpine",), group, wanted), self.told.append))

    def flow(self) -> None:
        """Let upstream send all that it was asked for, until nothing is asked any more."""
        while any(stream.flows for stream in self.upstream.streams) or self.clock.getDelayedCalls():
            for stream in self.upstream.streams:
                stream.finish()
            self.clock.advance(0.02)

    def warmed(self, outcome: Outcome[list[Ended]]) -> list[Ended]:
        self.flow()
        return outcome.value

    def error(self, outcome: Outcome[list[Ended]]) -> str:
        """The error's words of the only image."""
        (ended,) = self.warmed(outcome)
        assert isinstance(ended, Failed)
        assert self.told[-1] == ended
        return ended.reason

    def counted(self, outcome: str) -> float:
        value: float = self.cache.metrics.warmed.labels(outcome)._value.get()
        return value

    def blobs_of(self, manifest: Digest) -> list[Digest]:
        document = json.loads(self.upstream.manifests[NAME, manifest].body)
        return [Digest(child["digest"]) for child in (document["config"], *document["layers"])]

    def gets(self, *digests: Digest, kind: str = "blobs") -> list[str]:
        return [f"GET {NAME} {kind}/{digest}" for digest in digests]


class OneImage(WarmTestCase):
    def test_what_upstream_is_asked_and_what_is_told(self) -> None:
        digest = self.push()
        blobs = self.blobs_of(digest)
        outcome = self.warm()
        assert self.asked() == [
            f"HEAD {NAME} manifests/latest",
            *self.gets(digest, kind="manifests"),
            *self.gets(*blobs),
        ]
        assert self.warmed(outcome) == [Done("alpine", digest, 200, 200)]
        assert self.told[:2] == [Resolving("alpine"), Resolved("alpine", digest, (), 2, 200)]
        assert self.told[-1] == Done("alpine", digest, 200, 200)
        for blob in blobs:
            layers = [told for told in self.told if isinstance(told, Layer) and told.digest == blob]
            assert (layers[0].here, layers[-1].here) == (0, 100)
            assert {(layer.size, layer.cached) for layer in layers} == {(100, False)}
            assert self.place.stored(blob) is not None
        assert self.place.open_files() == []
        assert self.counted("done") == 1

    def test_again_costs_one_head(self) -> None:
        digest = self.push()
        self.warmed(self.warm())
        self.asked()
        assert self.warmed(self.warm()) == [Done("alpine", digest, 200, 0)]
        assert self.asked() == [f"HEAD {NAME} manifests/latest"]
        layers = [told for told in self.told if isinstance(told, Layer)]
        assert [(layer.here, layer.cached) for layer in layers] == [(100, True)] * 2

    def test_by_digest_costs_nothing_then(self) -> None:
        digest = self.push()
        self.warmed(self.warm())
        self.asked()
        assert self.warmed(self.warm(f"alpine@{digest}")) == [Done(f"alpine@{digest}", digest, 200, 0)]
        assert self.asked() == []

    def test_without_the_index(self) -> None:
        digest = self.push()
        self.index.available = False
        assert self.warmed(self.warm()) == [Done("alpine", digest, 200, 200)]

    def test_clients_get_it_without_upstream(self) -> None:
        digest = self.push()
        self.warmed(self.warm())
        self.upstream.errors = dict.fromkeys(("head_manifest", "get_manifest", "head_blob", "open_blob"), BROKEN)
        self.asked()
        served = Outcome(self.cache.manifests.get(HOME, digest)).value
        assert served.outcome is Answer.HIT
        for blob in self.blobs_of(digest):
            source = Outcome(self.cache.blobs.open(HOME, blob)).value
            source.close()
            assert source.outcome is Answer.HIT
        assert self.asked() == []

    def test_for_another_group_it_is_proved(self) -> None:
        """Bytes are shared, permission is not; one HEAD of the manifest proves all that it names."""
        digest = self.push()
        self.warmed(self.warm())
        self.asked()
        assert self.warmed(self.warm(group=NEIGHBOUR.group)) == [Done("alpine", digest, 200, 0)]
        assert self.asked() == [f"HEAD {NAME} manifests/latest"]

    def test_with_a_client_that_pulls_the_same(self) -> None:
        digest = self.push()
        first, second = self.blobs_of(digest)
        Outcome(self.cache.manifests.get(HOME, LATEST))
        client = Outcome(self.cache.blobs.open(HOME, first)).value
        self.asked()
        outcome = self.warm()
        assert self.asked() == [f"HEAD {NAME} manifests/latest", *self.gets(second)]
        # The client's bytes are the client's.
        assert self.warmed(outcome) == [Done("alpine", digest, 200, 100)]
        assert client.readable == 100
        client.close()
        assert self.place.open_files() == []

    def test_progress_is_told_now_and_then(self) -> None:
        self.push(layers=1, size=1000)
        outcome = self.warm()
        (stream,) = self.upstream.streams
        for _ in range(100):
            stream.send(5)
            self.clock.advance(TELL_INTERVAL / 10)
        self.warmed(outcome)
        here = [told.here for told in self.told if isinstance(told, Layer)]
        assert here == sorted(set(here))
        assert 10 <= len(here) <= 13

    def test_a_layer_without_length(self) -> None:
        digest = self.push(layers=1)
        self.upstream.sizes = False
        assert self.warmed(self.warm()) == [Done("alpine", digest, 100, 100)]

    def test_empty_layers(self) -> None:
        digest = self.push(layers=1, size=0)
        assert self.warmed(self.warm()) == [Done("alpine", digest, 0, 0)]

    def test_an_interrupted_one_goes_on(self) -> None:
        digest = self.push(layers=1, size=1000)
        (blob,) = self.blobs_of(digest)
        outcome = self.warm()
        self.upstream.streams[-1].send(600)
        # The process ends.
        Outcome(self.cache.blobs.stop())
        assert "stopping" in self.error(outcome)
        self.cache.start()
        self.restart()
        self.asked()
        assert self.warmed(self.warm()) == [Done("alpine", digest, 1000, 400)]
        assert self.asked() == [f"HEAD {NAME} manifests/latest", f"GET {NAME} blobs/{blob} from 600"]


class Trouble(WarmTestCase):
    def test_names_that_are_none(self) -> None:
        for image, words in (
            ("Alpine", "repository name"),
            ("alpine:-", "tag '-'"),
            ("alpine@sha256:1", "digest 'sha256:1'"),
            ("quay.io/org/app", "quay.io is no configured upstream"),
        ):
            assert words in self.error(self.warm(image))
        assert self.asked() == []

    def test_no_such_image(self) -> None:
        assert self.error(self.warm("alpine:3")) == "docker.io: it has no such thing"
        assert self.counted("failed") == 1

    def test_upstream_throttles(self) -> None:
        self.push()
        self.upstream.errors["head_manifest"] = Throttled("docker.io", "slow down", 429)
        assert self.error(self.warm()) == "docker.io: slow down"

    def test_one_layer_fails(self) -> None:
        """The others are brought in all the same, and the next run has less to do."""
        digest = self.push(layers=4)
        blobs = self.blobs_of(digest)
        del self.upstream.blobs[NAME, blobs[1]]
        outcome = self.warm()
        assert self.error(outcome) == "docker.io: it has no such thing"
        assert [self.place.stored(blob) is not None for blob in blobs] == [True, False, True, True]
        assert outcome.value == [Failed("alpine", "docker.io: it has no such thing", 300)]
        assert self.place.open_files() == []

    def test_a_fill_that_fails_at_its_end(self) -> None:
        digest = self.push(layers=1)
        self.upstream.put_blob(NAME, some_bytes(100, 99), self.blobs_of(digest)[0])
        assert "do not match" in self.error(self.warm())
        assert self.place.open_files() == []

    def test_a_full_disk_keeps_nothing(self) -> None:
        """Clients have all bytes by then; a warming is for those who come later."""
        self.push(layers=1)
        outcome = self.warm()
        stream = self.upstream.streams[-1]
        stream.send()
        self.place.threads.error = OSError(28, "No space left on device")
        stream.close()
        assert "the cache cannot store sha256:" in self.error(outcome)

    def test_a_copy_that_upstream_does_not_confirm(self) -> None:
        self.push()
        self.warmed(self.warm())
        self.upstream.errors["head_manifest"] = Unavailable("docker.io", "nobody there")
        assert "docker.io gives no answer" in self.error(self.warm())

    def test_one_of_several(self) -> None:
        digest = self.push()
        outcome = self.warm("alpine", "alpine:gone", "alpine", "alpine:latest")
        assert self.warmed(outcome) == [
            Done("alpine", digest, 200, 200),
            Failed("alpine:gone", "docker.io: it has no such thing"),
            Done("alpine:latest", digest, 200, 0),
        ]

    def test_what_is_no_manifest(self) -> None:
        self.upstream.put_manifest(NAME, b"[]", LATEST)
        assert self.error(self.warm()) == "manifest is not a JSON object"

    def test_too_many_layers(self) -> None:
        """Each manifest of an index may have a great many."""
        found = Found()
        for number in range(2):
            layers = [
                described(Digest.of(f"{number} {layer}".encode()), b"", LAYER)
                for layer in range(MAX_LAYERS // 2 + number)
            ]
            body = json.dumps({"layers": layers}).encode()
            manifest = ServedManifest(Digest.of(body), OCI_MANIFEST, len(body), body, Answer.MISS)
            if number == 0:
                found.add(manifest)
        with pytest.raises(InvalidManifest, match="more than 10000 layers"):
            found.add(manifest)

    def test_too_many_images(self) -> None:
        outcome = self.warm(*(f"alpine:{number}" for number in range(MAX_IMAGES + 1)))
        assert isinstance(outcome.error, TooManyImages)
        assert self.asked() == []

    def test_a_mistake_of_ours(self) -> None:
        self.upstream.errors["head_manifest"] = ZeroDivisionError("oops")
        assert "whose log says more" in self.error(self.warm())
        assert self.errors("internal") == 1
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1  # type: ignore[no-untyped-call]


class Indexes(WarmTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.children = {platform: self.push(str(platform), None) for platform in (AMD64, ARM64, ARMV6, ARMV7, UNKNOWN)}
        self.digest = self.push_index(*((digest, platform) for platform, digest in self.children.items()))

    def test_one_platform(self) -> None:
        child = self.children[ARM64]
        assert self.warmed(self.warm(platforms=[ARM64])) == [Done("alpine", self.digest, 200, 200)]
        assert self.asked() == [
            f"HEAD {NAME} manifests/latest",
            *self.gets(self.digest, child, kind="manifests"),
            *self.gets(*self.blobs_of(child)),
        ]
        assert Resolved("alpine", self.digest, ("linux/arm64",), 2, 200) in self.told

    def test_two_platforms(self) -> None:
        self.warmed(self.warm(platforms=[AMD64, ARMV7]))
        assert Resolved("alpine", self.digest, ("linux/amd64", "linux/arm/v7"), 4, 400) in self.told

    def test_all(self) -> None:
        """Attestations, too."""
        self.warmed(self.warm(platforms=None))
        expected = ("linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64")
        assert Resolved("alpine", self.digest, expected, 10, 1000) in self.told

    def test_a_platform_that_it_has_not(self) -> None:
        error = self.error(self.warm(platforms=[Platform("linux", "s390x")]))
        assert error == "has no linux/s390x; it has linux/amd64, linux/arm64, linux/arm/v6, linux/arm/v7"
        assert self.asked() == [f"HEAD {NAME} manifests/latest", *self.gets(self.digest, kind="manifests")]

    def test_the_platforms_that_it_has_are_brought_in(self) -> None:
        outcome = self.warm(platforms=[Platform("linux", "s390x"), AMD64])
        assert self.error(outcome).startswith("has no linux/s390x; it has linux/amd64,")
        assert all(self.place.stored(blob) for blob in self.blobs_of(self.children[AMD64]))

    def test_entries_without_a_platform(self) -> None:
        self.push_index((self.push("a", None), None), (self.push("b", None), UNKNOWN), (self.push("c", None), ARM64))
        self.warmed(self.warm())
        (resolved,) = (told for told in self.told if isinstance(told, Resolved))
        assert (resolved.platforms, resolved.layers) == ((), 2)

    def test_what_is_named_many_times_is_read_once(self) -> None:
        for _ in range(MAX_DEPTH - 1):
            self.push_index(*[(self.digest, None)] * 100)
            self.digest = self.upstream.manifests[NAME, LATEST].digest
        assert isinstance(self.warmed(self.warm())[0], Done)
        (resolved,) = (told for told in self.told if isinstance(told, Resolved))
        assert resolved.layers == 2

    def test_an_index_in_an_index(self) -> None:
        self.push_index((self.digest, None))
        assert isinstance(self.warmed(self.warm())[0], Done)
        for _ in range(MAX_DEPTH):
            self.push_index((self.digest, None))
            self.digest = self.upstream.manifests[NAME, LATEST].digest
        assert "more than 4 deep" in self.error(self.warm())

    def test_shared_layers_are_one(self) -> None:
        child = self.children[AMD64]
        self.push_index((child, AMD64), (child, ARM64))
        self.warmed(self.warm(platforms=[AMD64, ARM64]))
        (resolved,) = (told for told in self.told if isinstance(told, Resolved))
        assert (resolved.platforms, resolved.layers) == (("linux/amd64", "linux/arm64"), 2)


class AFewAtATime(WarmTestCase):
    def test_layers(self) -> None:
        self.push(layers=LAYERS_AT_A_TIME + 3)
        outcome = self.warm()
        assert self.upstream.count("GET library/alpine blobs/") == LAYERS_AT_A_TIME
        self.upstream.streams[0].finish()
        self.clock.advance(1)
        assert self.upstream.count("GET library/alpine blobs/") == LAYERS_AT_A_TIME + 1
        assert isinstance(self.warmed(outcome)[0], Done)

    def test_images_of_all_orders(self) -> None:
        tags = [Tag(str(number)) for number in range(IMAGES_AT_A_TIME + 2)]
        for tag in tags:
            self.push(tag, tag)
        self.upstream.held = True
        outcomes = [self.warm(*(f"alpine:{tag}" for tag in some)) for some in (tags[:2], tags[2:])]
        assert len(self.asked()) == IMAGES_AT_A_TIME
        self.upstream.held = False
        self.upstream.release()
        self.flow()
        assert all(isinstance(ended, Done) for outcome in outcomes for ended in outcome.value)

    def test_cancelled(self) -> None:
        """What is under way goes on to its end, and nothing more is begun."""
        tags = [Tag(str(number)) for number in range(IMAGES_AT_A_TIME + 2)]
        for tag in tags:
            self.push(tag, tag, layers=LAYERS_AT_A_TIME)
        outcome = self.warm(*(f"alpine:{tag}" for tag in tags))
        asked = self.asked()
        assert sum(" blobs/" in question for question in asked) == LAYERS_AT_A_TIME
        outcome.cancel()
        assert isinstance(outcome.error, CancelledError)
        told = len(self.told)
        self.flow()
        assert self.asked() == []
        assert len(self.told) == told
        assert len([path for path in self.place.files() if path.startswith("blobs/")]) == LAYERS_AT_A_TIME + 3
        assert self.place.open_files() == []
        # And all slots are free again.
        assert len(self.warmed(self.warm(*(f"alpine:{tag}" for tag in tags)))) == len(tags)
        assert self.counted("done") == len(tags)


@given(st.lists(st.none() | st.just(UNKNOWN) | some_platforms()), st.none() | st.frozensets(some_platforms()))
def test_any_platforms(entries: list[Platform | None], wanted: frozenset[Platform] | None) -> None:
    found = Found()
    taken = [platform for platform in entries if found.takes(platform, wanted)]
    if wanted is None:
        assert taken == entries
    else:
        assert taken == [platform for platform in entries if platform is None or platform in wanted]
    assert found.platforms == set(taken) - {None, UNKNOWN}
    missing = found.missing(wanted)
    # An index that names no platform is taken as it is.
    named = set(entries) - {None, UNKNOWN}
    assert bool(missing) == bool(named and wanted and not wanted <= named)
    assert all(str(platform) in missing for platform in (named if missing else ()))

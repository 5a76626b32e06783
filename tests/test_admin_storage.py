"""The admin faces about what is stored: what may be asked for, and what is told."""

from __future__ import annotations

import math
import shutil
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from depproxy.index.interface import MAX_PINS, Entry
from depproxy.oci.digest import Digest
from depproxy.oci.image import ImageNames
from depproxy.oci.manifest import OCI_MANIFEST
from depproxy.oci.reference import Tag
from depproxy.web.admin.answers import AdminError, Document, written
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.du import UsageFace
from depproxy.web.admin.fsck import CheckFace
from depproxy.web.admin.gc import CollectFace
from depproxy.web.admin.ls import InspectFace, ListFace
from depproxy.web.admin.named import Named
from depproxy.web.admin.pins import PinFace
from depproxy.web.admin.progress import Progress
from depproxy.web.admin.purge import PurgeFace
from tests.cache_tools import HOME, NEIGHBOUR, CacheTestCase, Outcome, some_bytes
from tests.test_admin_warm import Reader
from tests.test_keeping import BODIES, PARTS, SIZES, offer, pull

NAMED = Named(ImageNames("docker.io", {"docker.io": (), "ghcr.io": ()}), "acme")
ALPINE = "docker.io/library/alpine"


class FaceTestCase(CacheTestCase):
    def setUp(self) -> None:
        super().setUp()
        offer(self.upstream)
        self.reader = Reader()

    def answer(self, face: Callable[[Ask], Awaitable[Document]], **arguments: object) -> Any:
        """The document, which JSON can hold."""
        document = Outcome(face(Ask(arguments))).value
        written(document)
        return document

    def told(self, face: Callable[[Ask, Progress], Awaitable[Document]], **arguments: object) -> list[Any]:
        """All lines."""
        document = Outcome(face(Ask(arguments), cast(Progress, self.reader))).value
        lines, self.reader.lines = [*self.reader.lines, document], []
        for line in lines:
            written(line)
        return lines

    def refusal(self, face: Callable[..., Awaitable[Document]], *more: object, **arguments: object) -> tuple[int, str]:
        with pytest.raises(AdminError) as raised:
            Outcome(face(Ask(arguments), *more)).value  # noqa: B018
        return raised.value.status, str(raised.value)


class Names(FaceTestCase):
    def test_what_is_no_image(self) -> None:
        for arguments, words in (
            ({}, "image must name an image"),
            ({"image": "Alpine"}, "is not lower-case"),
            ({"image": "alpine:-"}, "tag"),
            ({"image": "alpine@sha256:1"}, "digest"),
            ({"image": "quay.io/org/app"}, 'add [upstreams."quay.io"]'),
            ({"image": "alpine", "group": "a b"}, "group "),
            ({"image": 7}, "image must be a text"),
        ):
            with pytest.raises(AdminError) as raised:
                NAMED.image_of(Ask(cast(Any, arguments)))
            assert words in str(raised.value)

    def test_whose_image(self) -> None:
        home, reference = NAMED.image_of(Ask({"image": "ghcr.io/org/app:1", "group": "Other/Sub"}))
        assert (home.group, home.upstream, home.repository, reference) == ("other/sub", "ghcr.io", "org/app", "1")
        assert NAMED.image_of(Ask({"image": "alpine"})) == (HOME, "latest")


class Listing(FaceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.face = ListFace(self.cache.inventory, self.index, NAMED)

    def test_groups(self) -> None:
        pull(self.cache, NEIGHBOUR, 0)
        self.cache.quotas["other"] = 5e9
        self.cache.ttls["acme"] = 60.0
        size = sum(SIZES[digest] for digest in PARTS[0])
        assert self.answer(self.face.all_groups) == {
            "groups": [
                {"group": "acme", "repositories": 0, "blobs": 0, "bytes": 0, "quota": None, "ttl": 60.0},
                {"group": "other", "repositories": 1, "blobs": 3, "bytes": size, "quota": 5e9, "ttl": None},
            ]
        }

    def test_images(self) -> None:
        for number in range(3):
            pull(self.cache, HOME, number)
            self.clock.advance(1)
        *images, last = self.told(self.face.images, limit=2)
        size = sum(SIZES[digest] for digest in PARTS[2])
        assert images[0] == {
            "image": {
                "image": f"{ALPINE}:t2",
                "group": "acme",
                "digest": PARTS[2][0],
                "media_type": OCI_MANIFEST,
                "platforms": [],
                "size": size,
                "held": size,
                "read": int(self.cache.now()) - 1,
                "pinned": False,
            }
        }
        assert [image["image"]["image"] for image in images] == [f"{ALPINE}:t2", f"{ALPINE}:t1"]
        assert last == {"group": "acme", "images": 2, "more": True}
        assert self.told(self.face.images, group="other") == [{"group": "other", "images": 0, "more": False}]

    def test_wrong_limits(self) -> None:
        for limit in (0, 100_001, "7", 1.0, True):
            assert self.refusal(self.face.images, self.reader, limit=limit) == (
                400,
                "limit must be a whole number from 1 to 100000",
            )


class Usage(FaceTestCase):
    def test_all_sums(self) -> None:
        face = UsageFace(self.place.store, self.index, self.index, lambda: math.inf)
        pull(self.cache, HOME, 0)
        pull(self.cache, NEIGHBOUR, 1)
        lost = some_bytes(77)
        assert Outcome(self.place.store.write(Digest.of(lost), lost)).value is None
        self.cache.reconciler.sweep()
        self.place.leave_behind(Digest.of(b"x"), b"12345")
        (answer,) = self.told(face.usage)
        assert sum(SIZES[digest] for digest in {*PARTS[0]} & {*PARTS[1]}) > 0
        own = [
            {"blobs": len(alone), "bytes": sum(SIZES[digest] for digest in alone)}
            for alone in ({*PARTS[0]} - {*PARTS[1]}, {*PARTS[1]} - {*PARTS[0]})
        ]
        sizes = [sum(SIZES[digest] for digest in PARTS[number]) for number in (0, 1)]
        system = answer.pop("file_system")
        assert answer == {
            "groups": [
                {"group": "acme", "blobs": 3, "bytes": sizes[0], "alone": own[0]},
                {"group": "other", "blobs": 3, "bytes": sizes[1], "alone": own[1]},
            ],
            "total": {"blobs": 6, "bytes": 77 + sum(SIZES[digest] for digest in {*PARTS[0], *PARTS[1]})},
            "nobody": {"blobs": 1, "bytes": 77},
            "max_size": None,
            "directories": {"growing": {"files": 1, "bytes": 5}, "incoming": {"files": 0, "bytes": 0}},
        }
        assert 0 <= system["free"] <= system["bytes"]
        assert system["bytes"] == shutil.disk_usage(self.place.root).total


class Inspecting(FaceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.face = InspectFace(self.cache.inspector, NAMED)

    def test_one(self) -> None:
        pull(self.cache, HOME, 0)
        assert Outcome(self.index.forget_blob(PARTS[0][1])).value is None
        answer = self.answer(self.face.inspect, image="alpine:t0")
        (root,) = answer.pop("parts")
        assert answer == {
            "image": f"{ALPINE}:t0",
            "group": "acme",
            "digest": PARTS[0][0],
            "media_type": OCI_MANIFEST,
            "size": sum(SIZES[digest] for digest in PARTS[0]),
            "here": SIZES[PARTS[0][0]] + SIZES[PARTS[0][2]],
            "read": int(self.cache.now()),
            "checked": self.cache.now(),
            "pinned": False,
            "linked": ["acme"],
        }
        parts = root.pop("parts")
        assert root == {
            "digest": PARTS[0][0],
            "media_type": OCI_MANIFEST,
            "size": len(BODIES[0]),
            "platform": None,
            "here": True,
            "groups": ["acme"],
        }
        assert [(part["digest"], part["media_type"], part["here"], part["groups"]) for part in parts] == [
            (PARTS[0][1], "layer", False, []),
            (PARTS[0][2], "layer", True, ["acme"]),
        ]

    def test_none(self) -> None:
        status, message = self.refusal(self.face.inspect, image="ghcr.io/org/app")
        assert status == 404
        assert message.startswith("ghcr.io/org/app:latest is not in the cache of group acme.")


class Purging(FaceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.face = PurgeFace(self.cache.purges, self.cache.inspector, NAMED)
        pull(self.cache, HOME, 0)
        pull(self.cache, HOME, 1)
        pull(self.cache, NEIGHBOUR, 0)

    def purge(self, **arguments: object) -> Any:
        (document,) = self.told(self.face.purge, **arguments)
        return document

    def test_an_image(self) -> None:
        """Its layer that the other image needs stays, and all of it for the other group."""
        assert self.purge(image="alpine:t0") == {
            "group": "acme",
            "image": f"{ALPINE}:t0",
            "blobs": 2,
            "removed": 0,
            "removed_bytes": 0,
        }

    def test_a_repository(self) -> None:
        gone = {*PARTS[1]} - {*PARTS[0]}
        assert self.purge(image="alpine", all_tags=True) == {
            "group": "acme",
            "image": ALPINE,
            "blobs": 5,
            "removed": 2,
            "removed_bytes": sum(SIZES[digest] for digest in gone),
        }

    def test_a_group(self) -> None:
        found = self.purge(all=True, group="other")
        assert (found["group"], found["image"], found["blobs"], found["removed"]) == ("other", None, 3, 0)

    def test_what_is_not_there(self) -> None:
        for arguments, words in (
            ({"image": "alpine:t3"}, f"{ALPINE}:t3 is not in the cache of group acme"),
            ({"image": "debian", "all_tags": True}, "docker.io/library/debian is not in the cache of group acme"),
            ({"all": True, "group": "nobody"}, "group nobody has nothing in the cache"),
        ):
            for refusal in (
                self.refusal(self.face.purge, self.reader, **cast(Any, arguments)),
                self.refusal(self.face.named, **cast(Any, arguments)),
            ):
                assert (refusal[0], words in refusal[1]) == (404, True), refusal

    def test_what_is_meant(self) -> None:
        for arguments, image in (
            ({"image": "alpine:t0"}, f"{ALPINE}:t0"),
            ({"image": "alpine", "all_tags": "true"}, ALPINE),
            ({"all": "true"}, None),
        ):
            found = Outcome(self.face.named(Ask(cast(Any, arguments)))).value
            assert found == {"group": "acme", "image": image}
        assert self.purge(image="alpine:t0")["blobs"] == 2, "nothing went before"

    def test_what_is_meant_is_not_clear(self) -> None:
        for arguments, words in (
            ({}, "name either an image, or all"),
            ({"image": "alpine", "all": True}, "name either an image, or all"),
            ({"all": True, "all_tags": True}, "all_tags is for one repository"),
            ({"image": "alpine:t0", "all_tags": True}, "give the repository without a tag, alpine"),
            ({"image": "alpine:", "all_tags": True}, "tag"),
            ({"image": "Alpine", "all_tags": True}, "is not lower-case"),
            ({"image": "c.example/acme/dependency_proxy/containers/app:3"}, "write --group acme app:3"),
            ({"image": "c.example/acme/dependency_proxy/containers/app", "all_tags": True}, "write --group acme app"),
        ):
            status, message = self.refusal(self.face.purge, self.reader, **cast(Any, arguments))
            assert (status, words in message) == (400, True), message


class Pinning(FaceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.face = PinFace(self.cache.pins, self.cache.inventory, NAMED)

    def test_an_image(self) -> None:
        pull(self.cache, NEIGHBOUR, 0)
        assert self.answer(self.face.pin, image="alpine:t0") == {
            "image": f"{ALPINE}:t0",
            "group": "acme",
            "here": False,
        }
        assert self.answer(self.face.pin, image="alpine:t0", group="other")["here"]
        image = {"image": f"{ALPINE}:t0", "group": "acme"}
        first, second, last = self.told(self.face.all)
        assert first == {"pin": {**image, "digest": None}}
        assert (second["pin"]["group"], second["pin"]["digest"], second["pin"]["pinned"]) == (
            "other",
            PARTS[0][0],
            True,
        )
        assert last == {"pins": 2}
        assert self.answer(self.face.unpin, image="alpine:t0") == image
        assert self.refusal(self.face.unpin, image="alpine:t0") == (
            404,
            f"{ALPINE}:t0 is not pinned for group acme; `depproxy pins` shows what is",
        )

    def test_a_group_from_which_nobody_pulls(self) -> None:
        named = Named(ImageNames("docker.io", {"docker.io": ()}), "acme", {"acme", "other"})
        face = PinFace(self.cache.pins, self.cache.inventory, named)
        message = "there is no group acmee; there are acme, other"
        assert self.refusal(face.pin, image="alpine:t0", group="acmee") == (400, message)
        for group in ("acme", "other", "acme/below"):
            assert self.answer(face.pin, image="alpine:t0", group=group)["group"] == group
        # What is there can be taken away, whatever has become of the group.
        named.groups = {"other"}
        assert self.answer(face.unpin, image="alpine:t0")["group"] == "acme"

    def test_there_are_so_many_and_no_more(self) -> None:
        for number in range(MAX_PINS):
            assert Outcome(self.index.pin(HOME, Tag(f"x{number}"))).value
        status, message = self.refusal(self.face.pin, image="alpine:t0")
        assert (status, message.startswith("10000 images are pinned")) == (409, True)


class Collecting(FaceTestCase):
    def test_what_went(self) -> None:
        face = CollectFace(self.cache.collector)
        pull(self.cache, HOME, 0)
        self.cache.ttls["acme"] = 60
        self.clock.advance(61)
        Outcome(self.index.adopt([Entry(Digest.of(b"no file"), 7, 1)])).value  # noqa: B018
        size = sum(SIZES[digest] for digest in PARTS[0])
        for dry in (True, False):
            assert self.told(face.collect, dry_run=dry) == [
                {
                    "dry_run": dry,
                    "removed": [
                        {
                            "why": "expired",
                            "group": "acme",
                            "blobs": 3,
                            "let_go_bytes": size,
                            "removed": 3,
                            "removed_bytes": size,
                            "repositories": 1,
                        }
                    ],
                    "adopted": 0,
                    "forgotten": 1,
                    "interrupted": {"removed": 0, "removed_bytes": 0},
                }
            ]
        (last,) = self.told(face.collect)
        assert (last["removed"], last["forgotten"]) == ([], 0)


class Checking(FaceTestCase):
    def test_what_is_found(self) -> None:
        face = CheckFace(self.cache.checker)
        pull(self.cache, HOME, 0)
        size = sum(SIZES[digest] for digest in PARTS[0])
        nothing = {"clean": True, "repair": False, "no_entry": 0, "no_file": 0, "sums_repaired": False}
        assert self.told(face.check) == [{**nothing, "verified": None, "wrong_sums": []}]
        digest = PARTS[0][1]
        self.place.blob(digest).write_bytes(b"x" * SIZES[digest])
        self.index.wrong[""] = 7
        lines = self.told(face.check, verify=True)
        found = {"found": "damaged", "digest": digest, "bytes": SIZES[digest], "repaired": False}
        assert [line for line in lines if "found" in line] == [found]
        verified = {"files": 3, "bytes": size, "damaged": 1, "done": 1.0}
        assert lines[-2] == {"verified": verified}
        sums = [{"group": None, "kept": size + 7, "counted": size}]
        assert lines[-1] == {**nothing, "clean": False, "verified": verified, "wrong_sums": sums}
        lines = self.told(face.check, verify=True, repair=True)
        assert [line for line in lines if "found" in line] == [{**found, "repaired": True}]
        assert (lines[-1]["clean"], lines[-1]["sums_repaired"]) == (False, True)
        assert self.told(face.check, verify=True)[-1]["clean"]

"""Whole pulls by raw HTTP, and many clients at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from attrs import define, field

from tests.e2e import images, wire

T = TypeVar("T")


@define
class Pulled:
    """What a pull brought: the bytes by the digest that they were asked for by, and each answer's X-Cache."""

    content: dict[str, bytes] = field(factory=dict)
    outcomes: list[str | None] = field(factory=list)

    def is_exactly(self, image: images.Manifest) -> bool:
        return self.content == image.everything()


def pull(base: str, tag: str, architecture: str | None = None) -> Pulled:
    """Pull as containerd does: HEAD of the tag, all else by digest; one architecture of an index, or all."""
    head = wire.manifest(base, tag, "HEAD")
    assert head.status == 200, head
    pulled = Pulled()
    _manifest(base, head.headers["docker-content-digest"], architecture, pulled)
    return pulled


def _manifest(base: str, digest: str, architecture: str | None, pulled: Pulled) -> None:
    answer = wire.manifest(base, digest)
    _take(pulled, digest, answer)
    document = answer.document
    for child in document.get("manifests", []):
        if architecture in (None, child["platform"]["architecture"]):
            _manifest(base, child["digest"], architecture, pulled)
    if "config" in document:
        for descriptor in (document["config"], *document["layers"]):
            _take(pulled, descriptor["digest"], wire.blob(base, descriptor["digest"]))


def _take(pulled: Pulled, digest: str, answer: wire.Answer) -> None:
    assert answer.status == 200, answer
    assert answer.headers["docker-content-digest"] == digest
    pulled.content[digest] = answer.body
    pulled.outcomes.append(answer.outcome)


def together(count: int, act: Callable[[int], T]) -> list[T]:
    """The results of ``act(0)`` to ``act(count - 1)``, each in a thread, none begun before all are there."""
    barrier = Barrier(count)

    def one(number: int) -> T:
        barrier.wait(30)
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


class Crowd:
    """Many open downloads of one URL, each with its head read and its body not."""

    def __init__(self, count: int, url: str, *, headers: Callable[[int], dict[str, str]] = lambda _: {}) -> None:
        self.downloads = together(count, lambda n: wire.Download(url, headers=headers(n)))

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for download in self.downloads:
            download.close()

    def outcomes(self) -> list[str | None]:
        return [download.outcome for download in self.downloads]

    def all_equal(self, expected: bytes) -> bool:
        """Read every body to its end, at once; True if each is ``expected``."""
        return all(together(len(self.downloads), lambda n: self.downloads[n].equals(expected)))

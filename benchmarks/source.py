"""The input: blobs and images that the source registry holds, the same bytes in every run."""

import hashlib
import http.client
import json
import random
from collections.abc import Iterator
from urllib.parse import urlsplit

from attrs import frozen

from .plan import MIB, BenchError, Plan

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
REPOSITORY = "library/bench"
# A repository of its own: the front gives it another rate.
CROWD_REPOSITORY = "library/crowd"
TAG = "latest"
FRESH_TAG = "fresh"


@frozen
class Blob:
    """A blob in the source registry."""

    repository: str
    digest: str
    size: int

    @property
    def path(self) -> str:
        return f"/v2/{self.repository}/blobs/{self.digest}"


@frozen
class Image:
    """An image in the source registry: the digest of its manifest, and its blobs, config first."""

    tag: str
    digest: str
    blobs: tuple[Blob, ...]

    @property
    def tag_path(self) -> str:
        return f"/v2/{REPOSITORY}/manifests/{self.tag}"

    @property
    def fresh_path(self) -> str:
        return f"/v2/{REPOSITORY}/manifests/{FRESH_TAG}"

    @property
    def digest_path(self) -> str:
        return f"/v2/{REPOSITORY}/manifests/{self.digest}"


@frozen
class Input:
    """All that is measured with. Cold blobs and images: one for each round, asked for in it alone."""

    image: Image
    cold_blobs: tuple[Blob, ...]
    cold_images: tuple[Image, ...]
    large: Blob


def content(name: str, size: int) -> Iterator[bytes]:
    """The bytes of the blob of that name, in pieces: no two blobs, and no two pieces, are alike."""
    filler = random.Random(name).randbytes(MIB)
    for index, start in enumerate(range(0, size, MIB)):
        mark = f"{name} {index}\n".encode()
        yield (mark + filler[len(mark) :])[: size - start]


class Source:
    """Pushes to the source registry, past the front."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def fill(self, plan: Plan) -> Input:
        """Push everything that the plan needs."""
        try:
            return Input(
                image=self._image(TAG, (MIB,) * plan.small_blobs, FRESH_TAG),
                cold_blobs=tuple(self._blob(f"cold {n}", plan.blob) for n in range(plan.rounds)),
                cold_images=tuple(self._image(f"cold-{n}", plan.layers) for n in range(plan.rounds)),
                large=self._blob("large", plan.large, CROWD_REPOSITORY),
            )
        finally:
            self._connection.close()

    def _image(self, tag: str, layers: tuple[int, ...], *more_tags: str) -> Image:
        blobs = [self._blob(f"{tag} layer {n}", size) for n, size in enumerate(layers)]
        config = self._push(json.dumps({"architecture": "amd64", "os": "linux", "tag": tag}).encode())
        described = [{"mediaType": LAYER, "size": blob.size, "digest": blob.digest} for blob in blobs]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "size": config.size, "digest": config.digest},
            "layers": described,
        }
        body = json.dumps(manifest, indent=3).encode()
        for name in (tag, *more_tags):
            self._ask("PUT", f"/v2/{REPOSITORY}/manifests/{name}", 201, body, {"Content-Type": MANIFEST})
        return Image(tag, f"sha256:{hashlib.sha256(body).hexdigest()}", (config, *blobs))

    def _push(self, data: bytes) -> Blob:
        blob = Blob(REPOSITORY, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
        self._upload(blob, iter([data]))
        return blob

    def _blob(self, name: str, size: int, repository: str = REPOSITORY) -> Blob:
        hasher = hashlib.sha256()
        for piece in content(name, size):
            hasher.update(piece)
        blob = Blob(repository, f"sha256:{hasher.hexdigest()}", size)
        self._upload(blob, content(name, size))
        return blob

    def _upload(self, blob: Blob, pieces: Iterator[bytes]) -> None:
        location = urlsplit(self._ask("POST", f"/v2/{blob.repository}/blobs/uploads/", 202))
        target = f"{location.path}?{location.query}&digest={blob.digest}"
        headers = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        self._ask("PUT", target, 201, pieces, headers)

    def _ask(
        self,
        method: str,
        target: str,
        expected: int,
        body: bytes | Iterator[bytes] = b"",
        headers: dict[str, str] | None = None,
    ) -> str:
        self._connection.request(method, target, body=body, headers=headers or {})
        response = self._connection.getresponse()
        text = response.read()
        if response.status != expected:
            raise BenchError(f"the source registry answered {response.status} to {method} {target}: {text!r}")
        return response.headers.get("Location", "")

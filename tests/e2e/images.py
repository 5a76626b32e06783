"""Images made of bytes: the same bytes in each run, pushed to a registry by plain HTTP."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import random
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from tests.e2e import wire
from tests.e2e.processes import program

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
MIB = 1 << 20
# What the engines here call this machine, and an architecture that it is not.
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
FOREIGN = {"amd64": "arm64", "arm64": "amd64"}[NATIVE]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@frozen
class Blob:
    """A blob and what descriptors say of it; ``diff_id`` is the digest of a layer's tar."""

    media_type: str
    data: bytes = field(repr=False)
    diff_id: str = ""

    @property
    def digest(self) -> str:
        return digest_of(self.data)

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "size": len(self.data), "digest": self.digest}


@frozen
class Manifest:
    """A manifest or index as bytes, with the blobs or the manifests that it names."""

    media_type: str
    body: bytes = field(repr=False)
    blobs: tuple[Blob, ...] = ()
    manifests: tuple[Manifest, ...] = ()

    @property
    def digest(self) -> str:
        return digest_of(self.body)

    @property
    def config(self) -> Blob:
        return self.blobs[0]

    @property
    def layers(self) -> tuple[Blob, ...]:
        return self.blobs[1:]

    def everything(self) -> dict[str, bytes]:
        """Each digest that belongs to it, its own included, with the bytes."""
        found = {self.digest: self.body} | {blob.digest: blob.data for blob in self.blobs}
        for manifest in self.manifests:
            found |= manifest.everything()
        return found


def noise(size: int, seed: str) -> bytes:
    """``size`` bytes that no compression makes smaller, the same for the same ``seed``."""
    return random.Random(seed).randbytes(size)


def layer(files: Mapping[str, bytes], *, oci: bool = False, compress: int = 1) -> Blob:
    """A gzipped tar layer of executable ``files``; ``compress=0`` stores, which is quick for noise."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o755, 1_700_000_000
            archive.addfile(info, io.BytesIO(data))
    tar = raw.getvalue()
    packed = gzip.compress(tar, compress, mtime=0)
    return Blob(OCI_LAYER if oci else DOCKER_LAYER, packed, digest_of(tar))


def image(
    layers: Sequence[Blob],
    *,
    oci: bool = False,
    architecture: str = NATIVE,
    command: Sequence[str] = ("/true",),
) -> Manifest:
    """An image manifest over ``layers``, docker schema 2 or OCI, with the config that belongs to it."""
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": "2023-11-14T22:13:20Z",
        "config": {"Cmd": list(command)},
        "rootfs": {"type": "layers", "diff_ids": [part.diff_id for part in layers]},
        "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "made by hand"} for _ in layers],
    }
    config_blob = Blob(OCI_CONFIG if oci else DOCKER_CONFIG, json.dumps(config).encode())
    media_type = OCI_MANIFEST if oci else DOCKER_MANIFEST
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config_blob.descriptor,
        "layers": [part.descriptor for part in layers],
    }
    # Indented on purpose: whoever parses and writes again does not get these bytes.
    return Manifest(media_type, json.dumps(document, indent=3).encode(), (config_blob, *layers))


def busybox(note: str = "first", *, oci: bool = False) -> Manifest:
    """A runnable image: ``/bin/busybox`` and a file ``/note`` that makes images of different notes differ."""
    base = layer({"bin/busybox": Path(program("busybox")).read_bytes()}, oci=oci)
    top = layer({"note": note.encode()}, oci=oci)
    return image([base, top], oci=oci, command=("/bin/busybox", "cat", "/note"))


def sized(size: int, seed: str, *, oci: bool = False) -> Manifest:
    """An image with one layer of a little over ``size`` bytes of noise."""
    return image([layer({"noise": noise(size, seed)}, oci=oci, compress=0)], oci=oci)


def multiarch(seed: str, *, oci: bool = False) -> Manifest:
    """An index (or manifest list) of one image for this machine's architecture and one for the other."""
    children = [
        image([layer({"arch": noise(MIB // 4, f"{seed}-{arch}")}, oci=oci)], oci=oci, architecture=arch)
        for arch in (NATIVE, FOREIGN)
    ]
    entries = [
        {
            "mediaType": child.media_type,
            "size": len(child.body),
            "digest": child.digest,
            "platform": {"architecture": arch, "os": "linux"},
        }
        for child, arch in zip(children, (NATIVE, FOREIGN), strict=True)
    ]
    media_type = OCI_INDEX if oci else DOCKER_LIST
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
    return Manifest(media_type, json.dumps(document, indent=3).encode(), (), tuple(children))


def artifact(subject: Manifest, payload: bytes = b"a signature, perhaps") -> Manifest:
    """An OCI artifact that refers to ``subject`` (image-spec 1.1, the empty config)."""
    config, content = Blob(OCI_EMPTY, b"{}"), Blob("text/plain", payload)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.signature",
        "config": config.descriptor,
        "layers": [content.descriptor],
        "subject": {"mediaType": subject.media_type, "size": len(subject.body), "digest": subject.digest},
    }
    return Manifest(OCI_MANIFEST, json.dumps(document, indent=3).encode(), (config, content))


def with_empty_blob(seed: str) -> Manifest:
    """An OCI image whose second layer has no bytes at all."""
    empty = Blob("application/vnd.oci.image.layer.v1.tar", b"", digest_of(b""))
    return image([layer({"some": noise(1000, seed)}, oci=True), empty], oci=True)


def referrers_index(artifacts: Iterable[Manifest]) -> bytes:
    """What a registry's referrers API answers for ``artifacts`` (distribution-spec "Listing Referrers")."""
    entries = [
        {
            "mediaType": each.media_type,
            "size": len(each.body),
            "digest": each.digest,
            "artifactType": "application/vnd.example.signature",
        }
        for each in artifacts
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def push(registry: str, repository: str, manifest: Manifest, tag: str | None = None) -> None:
    """Put ``manifest`` and all that it names into ``repository`` of the registry at the URL ``registry``."""
    base = f"{registry}/v2/{repository}"
    for blob in manifest.blobs:
        if wire.fetch(f"{base}/blobs/{blob.digest}", "HEAD").status != 200:
            push_blob(base, blob)
    for child in manifest.manifests:
        push(registry, repository, child)
    answer = wire.fetch(
        f"{base}/manifests/{tag or manifest.digest}",
        "PUT",
        {"Content-Type": manifest.media_type},
        manifest.body,
    )
    assert answer.status == 201, answer
    assert answer.headers["docker-content-digest"] == manifest.digest


def push_blob(base: str, blob: Blob) -> None:
    """Upload in the two steps of the distribution-spec ("Pushing a blob monolithically", POST then PUT)."""
    started = wire.fetch(f"{base}/blobs/uploads/", "POST")
    assert started.status == 202, started
    location = started.headers["location"]
    joint = "&" if "?" in location else "?"
    done = wire.fetch(
        f"{location}{joint}digest={blob.digest}",
        "PUT",
        {"Content-Type": "application/octet-stream"},
        blob.data,
    )
    assert done.status == 201, done

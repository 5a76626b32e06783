"""The commands about what is stored: what they ask, and what they print. The service is a double on a real socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from depproxy.cli import main
from depproxy.cli.ls import media_type
from tests.test_cli_client import Double, chunked, whole

DIGEST = "sha256:" + "0123456789ab" + "c" * 52
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
IMAGE = {
    "image": "docker.io/library/alpine:3",
    "group": "acme",
    "digest": DIGEST,
    "media_type": INDEX,
    "platforms": ["linux/amd64", "linux/arm64"],
    "size": 3 << 20,
    "held": 1 << 20,
    "read": None,
    "pinned": True,
}


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Double]:
    double = Double(tmp_path / "s")
    yield double
    double.close()


def answer(double: Double, document: object) -> None:
    double.answer = whole(json.dumps(document))


def tell(double: Double, *lines: Any) -> None:
    double.answer = chunked(
        *(json.dumps(line) + "\n" for line in lines[:-1]), json.dumps({**lines[-1], "done": True}) + "\n"
    )


def run(double: Double, command: str, *arguments: str, told: str = "") -> Result:
    result = CliRunner().invoke(main, [command, "--socket", str(double.path), *arguments], input=told)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def asked(double: Double) -> tuple[str, Any]:
    """The request's line without the version, and its body."""
    head, _, body = double.request.partition(b"\r\n\r\n")
    return head.decode().partition(" HTTP/")[0], json.loads(body) if body else None


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_groups(double: Double) -> None:
    group = {"group": "acme", "repositories": 20_000, "blobs": 3, "bytes": 2048, "quota": None, "ttl": None}
    other = {**group, "group": "other", "quota": 1 << 30, "ttl": 90 * 86400.0}
    answer(double, {"groups": [group, other]})
    assert lines(run(double, "ls")) == [
        "GROUP  REPOSITORIES  BLOBS     SIZE    QUOTA  TTL",
        "acme         20,000      3  2.0 KiB        -    -",
        "other        20,000      3  2.0 KiB  1.0 GiB  90d",
    ]
    assert asked(double) == ("GET /v1/ls", None)
    assert json.loads(run(double, "ls", "--json").stdout) == {"groups": [group, other]}


def test_images(double: Double) -> None:
    plain = {
        **IMAGE,
        "image": "docker.io/library/b:1",
        "platforms": [],
        "media_type": "application/vnd.oci.image.manifest.v1+json",
        "read": int(time.time()) + 1000,
        "pinned": False,
    }
    many = {**IMAGE, "platforms": ["linux/amd64", "linux/arm64", "linux/s390x"]}
    tell(double, *({"image": image} for image in (IMAGE, plain, many)), {"group": "acme", "images": 3, "more": True})
    result = run(double, "ls", "acme", "--limit", "3")
    assert lines(result) == [
        "IMAGE                       DIGEST        TYPE                         HELD       OF  LAST READ  PINNED",
        "docker.io/library/alpine:3  0123456789ab  linux/amd64, linux/arm64  1.0 MiB  3.0 MiB  -          yes",
        "docker.io/library/b:1       0123456789ab  manifest                  1.0 MiB  3.0 MiB  0s ago",
        "docker.io/library/alpine:3  0123456789ab  3 platforms               1.0 MiB  3.0 MiB  -          yes",
    ]
    assert result.stderr == "There are more; --limit 30 shows them.\n"
    assert asked(double) == ("POST /v1/ls/images", {"group": "acme", "limit": 3})
    found = json.loads(run(double, "ls", "acme", "--json").stdout)
    assert found == {"group": "acme", "images": [IMAGE, plain, many], "more": True}


def test_no_images(double: Double) -> None:
    tell(double, {"group": "acme", "images": 0, "more": False})
    result = run(double, "ls", "acme")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "Group acme has no images in the cache.\n"


USAGE = {
    "groups": [{"group": "acme", "blobs": 2000, "bytes": 3 << 20, "alone": {"blobs": 1, "bytes": 1 << 20}}],
    "total": {"blobs": 2001, "bytes": 4 << 20},
    "nobody": {"blobs": 1, "bytes": 5},
    "max_size": 50 << 30,
    "directories": {
        "growing": {"files": 1, "bytes": 7},
        "redis": {"files": 2, "bytes": 8},
        "x": {"files": 0, "bytes": 0},
    },
    "file_system": {"bytes": 9 << 30, "free": 2 << 30},
}


def test_usage(double: Double) -> None:
    tell(double, USAGE)
    assert lines(run(double, "du")) == [
        "GROUP  BLOBS     SIZE    ALONE",
        "acme   2,000  3.0 MiB  1.0 MiB",
        "",
        "whole cache                     2,001 blobs, 4.0 MiB of 50.0 GiB",
        "held by no group                1 blob, 5 B",
        "downloads under way (growing/)  7 B, 1 file",
        "cache index (redis/)            8 B, 2 files",
        "other files (x/)                0 B, 0 files",
        "file system                     2.0 GiB free of 9.0 GiB",
    ]
    assert asked(double) == ("POST /v1/du", {})
    assert json.loads(run(double, "du", "--json").stdout) == USAGE
    tell(double, {**USAGE, "groups": [], "max_size": None})
    assert lines(run(double, "du"))[0] == "whole cache                     2,001 blobs, 4.0 MiB"


def test_inspect(double: Double) -> None:
    layer = {
        "digest": DIGEST,
        "media_type": LAYER,
        "size": 5,
        "platform": None,
        "here": False,
        "groups": [],
        "parts": [],
    }
    child = {**layer, "platform": "linux/amd64", "media_type": "application/vnd.oci.image.manifest.v1+json"}
    root = {**layer, "media_type": INDEX, "here": True, "groups": ["acme", "other"], "size": None}
    document = {
        **{key: IMAGE[key] for key in ("image", "group", "digest", "media_type", "size", "read", "pinned")},
        "here": 1 << 20,
        "checked": None,
        "linked": ["acme"],
        "parts": [{**root, "parts": [{**child, "parts": [layer]}]}],
    }
    answer(double, document)
    assert lines(run(double, "inspect", "alpine:3", "--group", "acme")) == [
        "image                    docker.io/library/alpine:3",
        "group                    acme",
        f"digest                   {DIGEST}",
        f"type                     {INDEX}",
        "in the cache             1.0 MiB of 3.0 MiB",
        "last read                -",
        "pinned                   yes",
        "groups that may pull it  acme",
        "",
        "PART                    DIGEST        SIZE  HERE  HELD BY",
        "index                   0123456789ab     -  yes   acme, other",
        "  manifest linux/amd64  0123456789ab   5 B  no    -",
        "    layer               0123456789ab   5 B  no    -",
    ]
    assert asked(double) == ("GET /v1/inspect?image=alpine%3A3&group=acme", None)
    assert json.loads(run(double, "inspect", "alpine:3", "--json").stdout) == document


PURGED = {"group": "acme", "image": "docker.io/library/alpine:3", "blobs": 2000, "removed": 3, "removed_bytes": 3 << 20}


def test_purge(double: Double) -> None:
    tell(double, PURGED)
    assert lines(run(double, "purge", "alpine:3", "--group", "acme", "--yes")) == [
        "docker.io/library/alpine:3 of group acme is purged: 2,000 blobs that it held, of which 3 are removed, 3.0 MiB."
    ]
    assert asked(double) == ("POST /v1/purge", {"image": "alpine:3", "group": "acme", "all_tags": False, "all": False})
    assert json.loads(run(double, "purge", "alpine", "--all-tags", "-y", "--json").stdout) == PURGED
    assert asked(double)[1] == {"image": "alpine", "all_tags": True, "all": False}
    tell(double, {**PURGED, "image": None})
    assert lines(run(double, "purge", "--all", "-y"))[0].startswith("All of group acme is purged: ")
    assert asked(double)[1] == {"all_tags": False, "all": True}


def test_purge_where_nobody_can_be_asked(double: Double) -> None:
    result = run(double, "purge", "alpine", told="y\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "nobody can be asked here whether to purge that; if it is meant, add --yes\n"
    assert double.request == b""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Name either an IMAGE, or --all."),
        (("alpine", "--all"), "Name either an IMAGE, or --all."),
        (("--all", "--all-tags"), "--all-tags needs an IMAGE."),
    ],
)
def test_purge_of_what(double: Double, arguments: tuple[str, ...], words: str) -> None:
    result = run(double, "purge", "-y", *arguments)
    assert (result.exit_code, words in result.stderr, double.request) == (2, True, b"")


@pytest.mark.parametrize("reply", ["y", "n"])
def test_purge_on_a_terminal(double: Double, reply: str) -> None:
    """It asks first, for what the service says is meant, and does nothing without a yes."""
    tell(double, PURGED)
    here, there = os.openpty()
    try:
        command = [sys.executable, "-m", "depproxy.cli", "purge", "alpine", "--socket", str(double.path)]
        process = subprocess.Popen(command, stdin=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        os.write(here, reply.encode() + b"\n")
        out, err = process.communicate(timeout=60)
    finally:
        os.close(here)
        os.close(there)
    assert err.startswith("Purge docker.io/library/alpine:3 from the cache of group acme? [y/N]: ")
    assert (process.returncode, bool(out)) == ((0, True) if reply == "y" else (1, False))
    head = "POST /v1/purge" if reply == "y" else "GET /v1/purge/named?image=alpine"
    assert asked(double)[0] == head


def test_pin(double: Double) -> None:
    answer(double, {"image": "docker.io/library/alpine:3", "group": "acme", "here": True})
    result = run(double, "pin", "alpine:3", "--group", "acme")
    assert lines(result) == ["docker.io/library/alpine:3 is kept for group acme."]
    assert (asked(double), result.stderr) == (("POST /v1/pins/add", {"image": "alpine:3", "group": "acme"}), "")
    answer(double, {"image": "docker.io/library/alpine:3", "group": "acme", "here": False})
    hint = "It is not in the cache yet; `depproxy warm{} alpine:3` brings it in.\n"
    assert run(double, "pin", "alpine:3").stderr == hint.format("")
    assert run(double, "pin", "alpine:3", "--group", "ACME").stderr == hint.format(" --group acme")
    assert json.loads(run(double, "pin", "alpine:3", "--json").stdout)["here"] is False


def test_unpin(double: Double) -> None:
    answer(double, {"image": "docker.io/library/alpine:3", "group": "acme"})
    assert lines(run(double, "unpin", "alpine:3")) == [
        "docker.io/library/alpine:3 is not pinned for group acme any more."
    ]
    assert asked(double) == ("POST /v1/pins/remove", {"image": "alpine:3"})
    assert json.loads(run(double, "unpin", "a", "--json").stdout) == {
        "image": "docker.io/library/alpine:3",
        "group": "acme",
    }


def test_pins(double: Double) -> None:
    absent = {"image": "docker.io/library/b:1", "group": "other", "digest": None}
    one = {**IMAGE, "platforms": ["linux/s390x"]}
    tell(double, {"pin": one}, {"pin": absent}, {"pins": 2})
    assert lines(run(double, "pins")) == [
        "GROUP  IMAGE                       DIGEST        TYPE            HELD       OF  LAST READ  PINNED",
        "acme   docker.io/library/alpine:3  0123456789ab  linux/s390x  1.0 MiB  3.0 MiB  -          yes",
        "GROUP  NOT IN THE CACHE",
        "other  docker.io/library/b:1",
    ]
    assert json.loads(run(double, "pins", "--json").stdout) == {"pins": [one, absent]}
    tell(double, {"pins": 0})
    assert run(double, "pins").stderr == "No image is pinned.\n"


def test_gc(double: Double) -> None:
    evicted = {
        "why": "evicted",
        "group": None,
        "blobs": 2000,
        "let_go_bytes": 5 << 20,
        "removed": 2000,
        "removed_bytes": 3 << 20,
        "repositories": 0,
    }
    expired = {
        **evicted,
        "why": "expired",
        "group": "acme",
        "blobs": 7,
        "let_go_bytes": 3 << 20,
        "removed": 0,
        "repositories": 1,
    }
    nothing = {**expired, "group": "other", "blobs": 0, "repositories": 0}
    document = {
        "dry_run": False,
        "removed": [expired, nothing, evicted],
        "adopted": 1,
        "forgotten": 2,
        "interrupted": {"removed": 0, "removed_bytes": 0},
    }
    tell(double, document)
    result = run(double, "gc")
    assert lines(result) == [
        "WHY      GROUP  LET GO  LET GO SIZE  REMOVED     SIZE  REPOSITORIES FORGOTTEN",
        "expired  acme        7      3.0 MiB        0  3.0 MiB                       1",
        "evicted  -       2,000      5.0 MiB    2,000  3.0 MiB                       0",
        "1 file had no entry in the index, 2 entries had no file.",
    ]
    assert (asked(double), result.stderr) == (("POST /v1/gc", {"dry_run": False}), "")
    result = run(double, "gc", "--dry-run")
    assert lines(result)[-1] == "1 file has no entry in the index, 2 entries have no file."
    assert (asked(double)[1], result.stderr) == ({"dry_run": True}, "Nothing is changed.\n")
    assert json.loads(run(double, "gc", "--json").stdout) == document
    clean = {**document, "removed": [nothing], "adopted": 0, "forgotten": 0}
    tell(double, {**clean, "interrupted": {"removed": 5, "removed_bytes": 3 << 20}})
    assert lines(run(double, "gc"))[-1].split() == ["interrupted", "-", "-", "-", "5", "3.0", "MiB", "-"]
    tell(double, clean)
    assert lines(run(double, "gc")) == ["Nothing had to go."]
    assert lines(run(double, "gc", "--dry-run")) == ["Nothing would go."]


CHECKED: dict[str, Any] = {
    "clean": True,
    "repair": False,
    "no_entry": 0,
    "no_file": 0,
    "verified": None,
    "wrong_sums": [],
    "sums_repaired": False,
}
DAMAGED = {"found": "damaged", "digest": DIGEST, "bytes": 5, "repaired": False}
VERIFIED = {"files": 2000, "bytes": 3 << 20, "damaged": 1, "done": 0.5}


def test_fsck_finds_nothing(double: Double) -> None:
    tell(double, CHECKED)
    assert lines(run(double, "fsck")) == ["All is right."]
    assert asked(double) == ("POST /v1/fsck", {"verify": False, "repair": False})
    tell(double, {"verified": VERIFIED}, {**CHECKED, "verified": VERIFIED, "wrong_sums": None})
    result = run(double, "fsck", "--verify")
    assert lines(result) == ["2,000 files are read, 3.0 MiB.", "All is right."]
    assert result.stderr.startswith("The sums are not compared: the cache changed all the while.")


def test_fsck_finds_something(double: Double) -> None:
    sums = [{"group": None, "kept": 1007, "counted": 1000}, {"group": "acme", "kept": 1, "counted": 2}]
    tell(double, DAMAGED, {**CHECKED, "clean": False, "wrong_sums": sums})
    result = run(double, "fsck", "--verify")
    assert (result.exit_code, result.stdout.splitlines()) == (
        1,
        [
            f"{DIGEST} has other bytes than its digest says",
            "The sum of all sizes is 1,007 in the index, and 1,000 by its entries",
            "The sum of the sizes of group acme is 1 in the index, and 2 by its entries",
            "3 things are wrong; --repair puts them right.",
        ],
    )


def test_fsck_repairs(double: Double) -> None:
    """Some of many findings are shown, the others counted; and what could not be repaired is said."""
    found = [{**DAMAGED, "repaired": True}] * 22
    last = {**CHECKED, "clean": False, "repair": True}
    tell(double, *found, last)
    result = run(double, "fsck", "--repair", "--verify")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        *[f"{DIGEST} has other bytes than its digest says: repaired"] * 20,
        "2 others: has other bytes than its digest says",
        "22 things were wrong, and are repaired.",
    ]
    assert asked(double)[1] == {"verify": True, "repair": True}
    tell(double, DAMAGED, last)
    result = run(double, "fsck", "--repair", "--verify")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (1, "1 thing is wrong; see the service's log.")


@pytest.mark.parametrize("clean", [True, False])
def test_fsck_for_programs(double: Double, clean: bool) -> None:
    steps = [DAMAGED, {"verified": VERIFIED}, {**CHECKED, "clean": clean, "done": True}]
    tell(double, *steps)
    result = run(double, "fsck", "--json")
    assert result.exit_code == (0 if clean else 1)
    assert [json.loads(line) for line in result.stdout.splitlines()] == steps


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("application/vnd.docker.distribution.manifest.list.v2+json", "index"),
        ("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8", "manifest"),
        ("application/vnd.docker.container.image.v1+json", "config"),
        ("application/vnd.oci.image.config.v1+json", "config"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "layer"),
        (LAYER, "layer"),
        ("application/vnd.in-toto+json", "application/vnd.in-toto+json"),
    ],
)
def test_words_for_media_types(text: str, word: str) -> None:
    assert media_type(text) == word


GROUPS = ("user", "token", "keys")


@pytest.mark.parametrize("command", ["ls", "du", "inspect", "purge", "pin", "unpin", "pins", "gc", "fsck", *GROUPS])
def test_help_has_an_example(command: str) -> None:
    assert f"depproxy {command}" in CliRunner().invoke(main, [command, "--help"]).stdout.partition("example")[2]


def test_status_names_refusals(double: Double) -> None:
    requests = {"hit": 3, "joined": 0, "stale": 0, "miss": 1, "error": 2, "hit_ratio": 0.75}
    document = {
        "version": "1",
        "uptime": 1,
        "pid": 1,
        "state": "serving",
        "listeners": [],
        "cache": {"bytes": 1, "max_bytes": None, "blobs": 1},
        "index": {"reachable": True, "error": None},
        "requests": {"manifest": requests, "blob": requests},
        "fills": [],
        "upstreams": [],
    }
    answer(double, document)
    said = lines(run(double, "status"))
    assert "cache      1 B of unlimited, 1 blob" in said
    assert "manifests  75 % from the cache: 3 hit, 1 miss, 2 refused or failed" in said
    assert json.loads(run(double, "status", "--json").stdout) == document

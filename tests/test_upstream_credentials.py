"""Where a password may be sent, and what errors and answers say."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.oci.manifest import DOCKER_LIST, MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST
from depproxy.upstream.answers import ContentRange, content_range, manifest_type
from depproxy.upstream.credentials import realm_trouble, registrable_parent
from depproxy.upstream.http import complaint
from depproxy.upstream.interface import Credential
from depproxy.upstream.redirects import Url

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)
HOST = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


@pytest.mark.parametrize(
    ("host", "parent"),
    [
        ("registry-1.docker.io", "docker.io"),
        ("auth.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry.example.co.uk", "example.co.uk"),
        ("example.co.uk", "example.co.uk"),
        ("co.uk", None),
        ("a.com.au", "a.com.au"),
        ("gcr.io", None),
        ("eu.gcr.io", "eu.gcr.io"),
        ("registry.gitlab.com.", "gitlab.com"),
        ("localhost", None),
        ("127.0.0.1", None),
        ("10.0.0.1", None),
        ("1.2.3", None),
        ("2001:db8::1", None),
        ("a..example", None),
        ("", None),
    ],
)
def test_registrable_parents(host: str, parent: str | None) -> None:
    assert registrable_parent(host) == parent


def trouble(realm: str, upstream: str, *hosts: str, password: bool = True) -> str | None:
    return realm_trouble(Url.parse(realm.encode()), Url.parse(upstream.encode()), hosts, password=password)


@pytest.mark.parametrize(
    ("realm", "upstream"),
    [
        ("https://auth.docker.io/token", "https://registry-1.docker.io"),
        ("https://gitlab.example.com/jwt/auth", "https://registry.example.com:5050"),
        ("https://registry.example.com:5001/auth", "https://registry.example.com:5000"),
        ("https://10.0.0.1:5001/auth", "https://10.0.0.1:5000"),
        ("http://localhost:5001/auth", "http://localhost:5000"),
        ("https://auth.example.com/token", "http://registry.example.com"),
        ("https://[::1]:5001/auth", "https://[::1]"),
    ],
)
def test_realms_that_get_the_password(realm: str, upstream: str) -> None:
    assert trouble(realm, upstream) is None


@pytest.mark.parametrize(
    ("realm", "upstream", "hosts"),
    [
        ("https://auth.example.org/token", "https://registry.example.com", ("auth.example.com",)),
        ("https://evil.co.uk/token", "https://registry.co.uk", ()),
        ("https://10.0.0.2/token", "https://10.0.0.1", ()),
        ("https://a.10.0.0.1/token", "https://10.0.0.1", ()),
        ("https://localhost/token", "https://127.0.0.1", ()),
        ("https://evil.io/token", "https://gcr.io", ()),
        ("https://registry.example.com.evil.org/", "https://registry.example.com", ()),
        ("https://auth.example.org:8443/token", "https://registry.example.com", ("auth.example.org:443",)),
        ("https://auth.example.org/token", "https://registry.example.com", ("example.org",)),
        ("https://docker.io.evil.net/", "https://docker.io", ()),
    ],
)
def test_realms_that_do_not(realm: str, upstream: str, hosts: tuple[str, ...]) -> None:
    said = trouble(realm, upstream, *hosts)
    assert said is not None
    assert "token_hosts" in said
    assert trouble(realm, upstream, *hosts, password=False) is None


def test_configured_hosts() -> None:
    for name in ("auth.example.org", "auth.example.org:8443"):
        assert trouble("https://auth.example.org:8443/", "https://registry.example.com", name) is None
    assert trouble("https://[::2]/", "https://[::1]", "[::2]") is None
    assert trouble("https://[::2]/", "https://[::1]", "[::2]:443") is None


def test_a_plain_realm_of_an_https_upstream_gets_nothing() -> None:
    for password in (True, False):
        said = trouble("http://r.example.com/", "https://r.example.com", "r.example.com", password=password)
        assert said is not None
        assert "not https" in said


@given(HOST, HOST)
def test_hosts_that_share_no_domain_share_no_password(host: str, other: str) -> None:
    if trouble(f"https://{host}/", f"https://{other}") is None:
        assert host == other or host.split(".")[-2:] == other.split(".")[-2:]


@given(HOST)
def test_a_host_may_have_its_own_password(host: str) -> None:
    assert trouble(f"https://{host}:1234/x?y", f"https://{host}") is None


def test_basic_and_its_secrecy() -> None:
    credential = Credential("alice", "pass:wörd")
    assert credential.basic == "Basic YWxpY2U6cGFzczp3w7ZyZA=="
    assert "pass" not in repr(credential)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"errors": [{"code": "DENIED", "message": "no"}]}, "DENIED: no"),
        ({"errors": [{"code": "DENIED"}, {"code": "X"}]}, "DENIED"),
        ({"errors": [{"code": "SAME", "message": "SAME"}]}, "SAME"),
        ({"details": "incorrect username or password"}, "incorrect username or password"),
        ({"error": "denied", "message": "why"}, "denied: why"),
        ({"errors": [], "token": "s3cret"}, ""),
        ({"errors": [7]}, ""),
        ({"errors": [{"message": "a\nb\x1b[31m"}]}, "a b [31m"),
        ({"errors": [{"message": "x" * 1000}]}, "x" * 300),
        ([], ""),
    ],
)
def test_complaints(document: object, said: str) -> None:
    assert complaint(json.dumps(document).encode()) == said


@given(st.binary(max_size=50) | st.text('[]{}":,1ae \\', max_size=50).map(str.encode))
def test_no_body_breaks_it(body: bytes) -> None:
    assert complaint(body).isprintable()
    manifest_type(None, body)


@pytest.mark.parametrize(
    ("claimed", "body", "expected"),
    [
        (OCI_INDEX, b"not looked at", OCI_INDEX),
        ("application/vnd.example+json", b"", "application/vnd.example+json"),
        (None, json.dumps({"mediaType": DOCKER_LIST}).encode(), DOCKER_LIST),
        ("text/plain", b'{"mediaType": "text/evil", "manifests": []}', OCI_INDEX),
        ("application/json", b'{"layers": []}', OCI_MANIFEST),
        ("application/json", b'{"mediaType": 7}', None),
        ("text/html", b"<html>", None),
    ],
)
def test_manifest_types(claimed: str | None, body: bytes, expected: str | None) -> None:
    assert manifest_type(claimed, body) == expected
    assert set(MANIFEST_TYPES) >= {OCI_INDEX, OCI_MANIFEST, DOCKER_LIST}


@given(st.integers(0, 10**12), st.integers(0, 10**6), st.integers(1, 10**6))
def test_content_ranges(start: int, length: int, rest: int) -> None:
    last = start + length
    assert content_range(f"bytes {start}-{last}/{last + rest}") == ContentRange(start, last, last + rest)
    assert content_range(f"bytes {start}-{last}/*") == ContentRange(start, last, None)
    assert content_range(f"bytes {start}-{last}/{last}") is None
    assert content_range(f"bytes {last + 1}-{start}/*") is None


@given(st.none() | st.text(max_size=30))
def test_no_content_range_breaks_it(text: str | None) -> None:
    content_range(text)

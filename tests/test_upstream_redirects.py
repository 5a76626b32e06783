"""URLs byte for byte, and where redirects lead."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from depproxy.upstream.redirects import BadUrl, Url

VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "#")
targets = st.builds(
    lambda path, query: "/" + path.replace("?", "") + query,
    st.text(VISIBLE, max_size=40),
    st.one_of(st.just(""), st.text(VISIBLE, max_size=60).map("?{}".format)),
)
# No colon: a relative path's first segment must not have one (RFC 3986 section 4.2).
SEGMENT = st.text("ab1-~%2F+", min_size=1, max_size=4)


@given(targets)
@example("/a%2Fb?X-Amz-Signature=%2B+%2F~&empty&also=&|{}^`\"<>[]'")
@example("/x?")
@example("/x;")
@example("//x//y/")
@example("/%zz?%")
@example("/a/../b/./c?%7e%7E")
def test_a_target_is_kept_byte_for_byte(target: str) -> None:
    for url in ("https://cdn.example", "http://cdn.example:8080"):
        assert Url.parse((url + target).encode()).target == target.encode()
        assert Url.parse(b"https://registry.example/v2/a").join((url + target).encode()).raw == (url + target).encode()


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        ("HTTPS://Cdn.Example/A", ("https", "cdn.example", 443), "/A"),
        ("http://cdn.example:80", ("http", "cdn.example", 80), "/"),
        ("http://cdn.example?a=1", ("http", "cdn.example", 80), "/?a=1"),
        ("http://cdn.example/a?b#c?d", ("http", "cdn.example", 80), "/a?b"),
        ("https://user:secret@cdn.example/a@b", ("https", "cdn.example", 443), "/a@b"),
        ("https://[2001:db8::1]:8443/", ("https", "2001:db8::1", 8443), "/"),
        (" https://cdn.example/a b\xe4 ", ("https", "cdn.example", 443), "/a%20b%E4"),
    ],
)
def test_the_origin_is_taken_apart(text: str, origin: tuple[str, str, int], target: str) -> None:
    url = Url.parse(text.encode("latin-1"))
    assert (url.origin, url.target) == (origin, target.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/a",
        "ftp://cdn.example/",
        "https:///a",
        "https://cdn.example:0/",
        "https://cdn.example:65536/",
        "https://cdn.example:99999999/",
        "https://cdn example/",
        "https://cdn.example\\@evil.example/",
        "https://[::1/",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_http_url_is_refused(text: str) -> None:
    with pytest.raises(BadUrl):
        Url.parse(text.encode())


@given(st.binary(max_size=60))
def test_no_location_breaks_it(location: bytes) -> None:
    base = Url.parse(b"https://registry.example/v2/a/blobs/b")
    try:
        url = base.join(location)
    except BadUrl:
        return
    assert all(0x21 <= byte <= 0x7E for byte in url.raw)
    assert Url.parse(url.raw) == url


@given(
    st.lists(SEGMENT | st.just(".."), min_size=1, max_size=4).map("/".join),
    st.lists(SEGMENT | st.sampled_from(["..", "."]), min_size=1, max_size=4).map("/".join),
    st.sampled_from(["", "?a=b/../c"]),
)
@example("v2/a", "../b", "")
@example("v2/a", "..", "")
def test_a_relative_location_is_resolved_as_the_standard_library_does(base: str, relative: str, query: str) -> None:
    clean = urljoin("http://registry.example/x/", base)
    assert Url.parse(clean.encode()).join((relative + query).encode()).raw.decode() == urljoin(clean, relative + query)


def test_locations_without_scheme_host_or_path() -> None:
    base = Url.parse(b"https://registry.example:5000/v2/a?b=c")
    assert base.join(b"//cdn.example/d").raw == b"https://cdn.example/d"
    assert base.join(b"/d?e").raw == b"https://registry.example:5000/d?e"
    assert base.join(b"?d").raw == b"https://registry.example:5000/v2/a?d"
    assert base.join(b"").raw == base.raw
    assert base.join(b"#d").raw == base.raw


def test_an_origin_is_scheme_host_and_port() -> None:
    origin = Url.parse(b"https://registry.example/").origin
    assert Url.parse(b"https://REGISTRY.example:443/x").origin == origin
    for other in (b"http://registry.example/", b"https://registry.example:444/", b"https://b.example/"):
        assert Url.parse(other).origin != origin

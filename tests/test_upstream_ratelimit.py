"""What upstream says about pulls that it still allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.web.http_headers import Headers

from depproxy.metrics import Metrics
from depproxy.oci.reference import Name, Tag
from depproxy.upstream.errors import Throttled
from depproxy.upstream.interface import RateLimit
from depproxy.upstream.ratelimit import MAX_SOURCES, RateLimits, parse_quota
from tests.upstream_fake import UpstreamCase, answers

REPOSITORY = Name("library/alpine")
TAG = Tag("3.20")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("100;w=21600", (100, 21600)),
        (" 99 ; w=21600 ", (99, 21600)),
        ("100", (100, None)),
        ("100, 100;w=60", (100, None)),
        ('100;burst=1000;w=60;comment="x"', (100, 60)),
        ("100;w=x", (100, None)),
        ("-1;w=60", None),
        ("", None),
        ("many", None),
        ("9" * 16, None),
    ],
)
def test_quotas(header: str, expected: object) -> None:
    assert parse_quota(header) == expected


@given(st.text(max_size=30))
def test_no_header_breaks_it(header: str) -> None:
    parse_quota(header)


def headers(source: str | None, limit: str | None, remaining: str | None) -> Headers:
    made = Headers()
    given_headers = {"Docker-RateLimit-Source": source, "RateLimit-Limit": limit, "RateLimit-Remaining": remaining}
    for name, value in given_headers.items():
        if value is not None:
            made.addRawHeader(name, value)
    return made


def test_the_last_word_counts_per_source() -> None:
    limits = RateLimits("docker.io", Metrics())
    limits.note(headers("192.0.2.1", "100;w=21600", "76;w=21600"))
    limits.note(headers("192.0.2.1", "100;w=21600", "75;w=21600"))
    limits.note(headers(None, None, "7"))
    limits.note(headers("192.0.2.2", None, None))
    limits.note(headers("192.0.2.3", "x", "y"))
    assert limits.sources == {"192.0.2.1": RateLimit(100, 75, 21600), "": RateLimit(None, 7, None)}


def test_sources_are_bounded_also_in_the_metrics() -> None:
    metrics = Metrics()
    limits = RateLimits("docker.io", metrics)
    for number in range(MAX_SOURCES):
        limits.note(headers(f"s{number}", "100", "1"))
    limits.note(headers("s0", "100", "2"))
    limits.note(headers("new", "100", "3"))
    assert len(limits.sources) == MAX_SOURCES
    # s1 has been silent for longest.
    assert "s1" not in limits.sources
    assert {"s0", "new"} <= set(limits.sources)
    exposition = metrics.exposition().decode()
    assert 'depproxy_upstream_ratelimit_remaining{source="s0",upstream="docker.io"} 2.0' in exposition
    assert 'source="s1"' not in exposition


def test_a_source_is_printable_and_short() -> None:
    limits = RateLimits("docker.io", Metrics())
    limits.note(headers("a\x07" + "b" * 100, "1", None))
    (source,) = limits.sources
    assert source.isprintable()
    assert len(source) <= 64


class OnTheWire(UpstreamCase):
    async def test_success_and_refusal_tell_it_a_cdn_does_not(self) -> None:
        registry = self.registry()
        registry.put_manifest(TAG, b'{"layers": []}')
        client = self.client(registry)
        registry.headers = {
            "RateLimit_Limit": "100;w=21600",
            "RateLimit_Remaining": "5;w=21600",
            "Docker_RateLimit_Source": "192.0.2.1",
        }
        await client.head_manifest(REPOSITORY, TAG)
        assert client.rate_limits == {"192.0.2.1": RateLimit(100, 5, 21600)}
        gauge = self.metrics.ratelimit_remaining.labels("fake", "192.0.2.1")
        assert gauge._value.get() == 5
        path = f"/v2/{REPOSITORY}/manifests/{TAG}"
        told = {**registry.headers, "RateLimit_Remaining": "0;w=21600"}
        registry.paths[path] = answers(429, b"", **told)
        await self.fails(Throttled, client.get_manifest(REPOSITORY, TAG))
        assert client.rate_limits == {"192.0.2.1": RateLimit(100, 0, 21600)}
        other = self.registry()
        other.paths["/"] = answers(200, b"", **registry.headers)
        registry.paths[path] = answers(307, Location=f"{other.url}/")
        await client.head_manifest(REPOSITORY, TAG)
        assert client.rate_limits == {"192.0.2.1": RateLimit(100, 0, 21600)}

"""The numbers, as Prometheus reads them."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from depproxy.cache.removal import Why
from depproxy.metrics import KINDS, OUTCOMES, Metrics

# What dashboards and alerts may name; a name that goes breaks them.
NAMES = {
    "depproxy_requests",
    "depproxy_served_bytes",
    "depproxy_tokens",
    "depproxy_fetched_bytes",
    "depproxy_upstream_requests",
    "depproxy_fills_active",
    "depproxy_fills",
    "depproxy_fill_followers",
    "depproxy_upstream_ratelimit_limit",
    "depproxy_upstream_ratelimit_remaining",
    "depproxy_errors",
    "depproxy_cache_blobs",
    "depproxy_cache_bytes",
    "depproxy_cache_max_bytes",
    "depproxy_group_blobs",
    "depproxy_group_bytes",
    "depproxy_removed_blobs",
    "depproxy_removed_bytes",
    "depproxy_warmed_images",
    "depproxy_warm_runs",
}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by name and label values."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(sample.name, tuple(sample.labels.values())): sample.value for f in families for sample in f.samples}


def test_names() -> None:
    assert {f.name for f in text_string_to_metric_families(Metrics().exposition().decode())} == NAMES


def test_every_number_is_explained() -> None:
    for family in text_string_to_metric_families(Metrics().exposition().decode()):
        assert re.fullmatch(r"[A-Z].*\.", family.documentation, re.DOTALL), family.name


def test_requests_are_there_before_the_first_one() -> None:
    """A rate needs the zero before the first one."""
    found = samples(Metrics())
    for kind in KINDS:
        assert found["depproxy_served_bytes_total", (kind,)] == 0
        for outcome in OUTCOMES:
            assert found["depproxy_requests_total", (kind, outcome)] == 0
    assert found["depproxy_warmed_images_total", ("failed",)] == 0
    assert found["depproxy_warm_runs_total", ("skipped",)] == 0
    for why in Why:
        assert found["depproxy_removed_blobs_total", (why,)] == found["depproxy_removed_bytes_total", (why,)] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_bound_counters_are_the_counters(kind: str) -> None:
    metrics = Metrics()
    metrics.answered[kind, "stale"].inc()
    metrics.served[kind].inc(7)
    found = samples(metrics)
    assert found["depproxy_requests_total", (kind, "stale")] == 1
    assert found["depproxy_served_bytes_total", (kind,)] == 7
    assert sum(value for (name, _), value in found.items() if name == "depproxy_requests_total") == 1


def test_two_services_share_no_number() -> None:
    one, other = Metrics(), Metrics()
    one.fills_active.inc()
    assert samples(one)["depproxy_fills_active", ()] == 1
    assert samples(other)["depproxy_fills_active", ()] == 0


def test_content_type_names_the_format() -> None:
    assert Metrics().content_type.startswith("text/plain; version=0.0.4")

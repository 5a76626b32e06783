"""The numbers that depproxy keeps, by name, in one place.

Every instance has a registry of its own, so that two services in one process (tests) never share a counter.
The names follow the Prometheus conventions: base units, ``_total`` on counters.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

KINDS = ("manifest", "blob", "document")
ENDS = ("done", "failed")
REMOVALS = ("evicted", "expired", "purged", "damaged")
OUTCOMES = ("hit", "miss", "joined", "stale", "error")

# A second series per counter, which no dashboard reads: when it was made.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counters and gauges of one running service."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "depproxy_requests",
            "Requests answered, by kind and outcome: hit (from the cache), miss (this request caused the upstream"
            " fetch), joined (it shares another one's fetch), stale (upstream failed, a copy was served), error.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.tokens = Counter(
            "depproxy_tokens",
            "Answers of the token endpoint, by status: 200 a token, 401 a wrong login, 429 too many of them.",
            ["status"],
            registry=registry,
        )
        self.bytes_served = Counter("depproxy_served_bytes", "Body bytes sent to clients.", ["kind"], registry=registry)
        self.bytes_fetched = Counter(
            "depproxy_fetched_bytes", "Blob bytes received from upstreams.", ["upstream"], registry=registry
        )
        self.upstream_requests = Counter(
            "depproxy_upstream_requests",
            "HTTP requests sent to upstreams, by method and status; status 0: no answer.",
            ["upstream", "method", "status"],
            registry=registry,
        )
        self.fills_active = Gauge("depproxy_fills_active", "Upstream downloads under way.", registry=registry)
        self.fills = Counter(
            "depproxy_fills",
            "Upstream downloads ended, by outcome: stored, failed, stopped.",
            ["outcome"],
            registry=registry,
        )
        self.followers = Gauge(
            "depproxy_fill_followers", "Requests that follow a download under way.", registry=registry
        )
        self.ratelimit_limit = Gauge(
            "depproxy_upstream_ratelimit_limit",
            "Pulls that the upstream allows per window (RateLimit-Limit).",
            ["upstream", "source"],
            registry=registry,
        )
        self.ratelimit_remaining = Gauge(
            "depproxy_upstream_ratelimit_remaining",
            "Pulls left in the window (RateLimit-Remaining).",
            ["upstream", "source"],
            registry=registry,
        )
        self.errors = Counter(
            "depproxy_errors",
            "Failures by place: index, storage, fill, internal. Clients were served all the same, but for a fill.",
            ["where"],
            registry=registry,
        )
        self.blobs = Gauge("depproxy_cache_blobs", "Blobs and manifests in the cache.", registry=registry)
        self.blob_bytes = Gauge("depproxy_cache_bytes", "Bytes in the cache.", registry=registry)
        self.group_blobs = Gauge(
            "depproxy_group_blobs", "Blobs and manifests that a group holds.", ["group"], registry=registry
        )
        self.group_bytes = Gauge(
            "depproxy_group_bytes",
            "Bytes that a group holds; what several hold counts for each.",
            ["group"],
            registry=registry,
        )
        self.max_bytes = Gauge(
            "depproxy_cache_max_bytes", "Bytes that the cache may hold before it evicts; +Inf: any.", registry=registry
        )
        self.removed_blobs = Counter(
            "depproxy_removed_blobs",
            "Blobs and manifests removed: evicted (to make room), expired (by a group's TTL policy), purged (by"
            " command), damaged (found by a check).",
            ["why"],
            registry=registry,
        )
        self.removed_bytes = Counter("depproxy_removed_bytes", "Bytes removed.", ["why"], registry=registry)
        for why in REMOVALS:
            # A rate needs the zero before the first one.
            self.removed_blobs.labels(why)
            self.removed_bytes.labels(why)
        self.warmed = Counter(
            "depproxy_warmed_images", "Images warmed, by outcome: done, failed.", ["outcome"], registry=registry
        )
        self.warm_runs = Counter(
            "depproxy_warm_runs",
            "Runs of the lists of [[warm]], by outcome: done, failed (an image of them), skipped (the list's last run"
            " was still under way).",
            ["outcome"],
            registry=registry,
        )
        for counter, outcomes in ((self.warmed, ENDS), (self.warm_runs, (*ENDS, "skipped"))):
            for outcome in outcomes:
                counter.labels(outcome)
        # Bound once: looking labels up costs more than counting.
        self.answered = {(kind, outcome): self.requests.labels(kind, outcome) for kind in KINDS for outcome in OUTCOMES}
        self.served = {kind: self.bytes_served.labels(kind) for kind in KINDS}

    def answers(self) -> dict[str, dict[str, int]]:
        """How many requests were answered since the start, by kind and outcome."""
        found = {kind: dict.fromkeys(OUTCOMES, 0) for kind in KINDS}
        for metric in self.requests.collect():
            for sample in metric.samples:
                found[sample.labels["kind"]][sample.labels["outcome"]] = round(sample.value)
        return found

    def exposition(self) -> bytes:
        """Everything in the Prometheus text format 0.0.4."""
        return generate_latest(self.registry)

"""``depproxy status``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from depproxy.cli.client import Answer, Service, service_options
from depproxy.cli.command import Command, example
from depproxy.cli.output import count, json_option, percent, print_json, print_pairs, print_table, size, span, things
from depproxy.config.errors import one_line

# The last one counts all that was no content: whoever is asked to log in, and what upstream does not have, too.
_OUTCOMES = {"hit": "hit", "joined": "joined", "stale": "stale", "miss": "miss", "error": "refused or failed"}


@click.command(cls=Command, epilog=example("depproxy status", "depproxy status --json"))
@service_options
@json_option
def status(service: Service, as_json: bool) -> None:
    """Say how the running service is.

    What it serves, how much of it from the cache, what is being downloaded, and how its upstreams are.
    """
    answer = service.get("status")
    if as_json:
        print_json(answer)
        return
    print_pairs(list(_summary(answer)))
    if answer["fills"]:
        click.echo()
        print_table(
            ("DOWNLOAD", "DONE", "SIZE", "", "TIME", "WAITERS", "DIGEST"),
            [_fill(fill) for fill in answer["fills"]],
            right=("DONE", "SIZE", "", "TIME", "WAITERS"),
        )
    click.echo()
    now = datetime.now(UTC)
    print_table(
        ("UPSTREAM", "CONNECTIONS", "LAST ANSWER", "LAST FAILURE", "PULLS LEFT", "LEFT ALONE"),
        [_upstream(upstream, now) for upstream in answer["upstreams"]],
    )
    for upstream in answer["upstreams"]:
        if upstream["failure"]:
            click.echo(one_line(f"{upstream['name']} failed last with: {upstream['failure']}"))


def _summary(answer: Answer) -> Iterator[tuple[str, str]]:
    state = "" if answer["state"] == "serving" else f", {answer['state']}"
    yield "depproxy", f"{answer['version']}, up {span(answer['uptime'])}, process {answer['pid']}{state}"
    yield "listeners", ", ".join(answer["listeners"])
    cache = answer["cache"]
    if answer["index"]["reachable"]:
        full = "" if cache["max_bytes"] is None else f" ({percent(cache['bytes'], cache['max_bytes'])})"
        yield "cache", f"{size(cache['bytes'])} of {size(cache['max_bytes'])}{full}, {things(cache, 'blobs', 'blob')}"
    else:
        yield "cache", f"at most {size(cache['max_bytes'])}"
        yield "index", f"cannot be reached: {answer['index']['error']}"
    for kind in ("manifest", "blob"):
        found = answer["requests"][kind]
        ratio = "none yet" if found["hit_ratio"] is None else f"{percent(found['hit_ratio'], 1)} from the cache"
        counts = ", ".join(f"{found[outcome]:,} {words}" for outcome, words in _OUTCOMES.items() if found[outcome])
        yield f"{kind}s", f"{ratio}: {counts}" if counts else ratio
    yield "downloads", str(len(answer["fills"]) or "none")


def _fill(fill: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{fill['upstream']}/{fill['repository']}",
        size(fill["bytes"]),
        "?" if fill["size"] is None else size(fill["size"]),
        percent(fill["bytes"], fill["size"] or 0),
        span(fill["seconds"]),
        str(fill["waiters"]),
        fill["digest"],
    )


def _upstream(upstream: dict[str, Any], now: datetime) -> tuple[str, ...]:
    alone = span(upstream["held_off"]) if upstream["held_off"] else "-"
    if upstream["held_off_repositories"] and not upstream["held_off"]:
        alone = f"{upstream['held_off_repositories']} of its repositories"
    return (
        upstream["name"],
        f"{upstream['connections']} of {upstream['max_connections']}",
        _ago(upstream["last_success"], now),
        _ago(upstream["last_failure"], now),
        ", ".join(f"{count(limit, 'remaining')} of {count(limit, 'limit')}" for limit in upstream["rate_limits"])
        or "-",
        alone,
    )


def _ago(moment: str | None, now: datetime) -> str:
    return "-" if moment is None else f"{span(max(0.0, (now - datetime.fromisoformat(moment)).total_seconds()))} ago"

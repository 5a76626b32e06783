"""The benchmarks' own sums: ratios, verdicts, tables, wrk's output, and the counting of downloads."""

import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Iterator

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report, wrk
from benchmarks.figures import (
    DIRECT,
    NGINX,
    REGISTRY,
    US,
    Figure,
    Target,
    judge,
    list_table,
    number,
    plain,
    ratio,
    ratio_text,
    tables,
)
from benchmarks.load import HEAD_LIMIT, Crowd, Download
from benchmarks.plan import FULL, MIB
from benchmarks.rows import ROWS
from benchmarks.source import content

WRK = """\
Running 10s test @ http://127.0.0.1:8080/v2/library/bench/manifests/latest
  2 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   694.38us    1.17ms  33.68ms   93.70%
    Req/Sec    29.87k     4.34k   39.94k    70.00%
  Latency Distribution
     50%  402.00us
     75%  650.00us
     90%    1.32ms
     99%    5.21ms
  594837 requests in 10.01s, 0.86GB read
Requests/sec:  59425.70
Transfer/sec:     88.17MB
"""

positive = st.floats(min_value=0.001, max_value=1e9)
rounds = st.lists(positive, min_size=1, max_size=9)


class TestFigures:
    def test_ratio_is_of_medians(self) -> None:
        figure = Figure("tag", "cached tag", "1/s", {US: [10, 3000, 2000], REGISTRY: [200, 100, 9000]})
        assert ratio(figure, REGISTRY) == 10
        assert ratio(figure, NGINX) is None

    def test_no_ratio_to_nothing(self) -> None:
        figure = Figure("tag", "cached tag", "1/s", {US: [10], REGISTRY: [0], NGINX: []})
        assert ratio(figure, REGISTRY) is None
        assert ratio(figure, NGINX) is None

    @pytest.mark.parametrize(
        ("target", "word"),
        [
            (Target(10, at_least=True, peer=REGISTRY), "met"),
            (Target(10.1, at_least=True, peer=REGISTRY), "short"),
            (Target(0.5, peer=NGINX), "met"),
            (Target(0.49, peer=NGINX), "short"),
            (Target(50), "met"),
            (Target(49), "short"),
            (Target(1.1, peer=DIRECT), "not measured"),
        ],
    )
    def test_verdicts(self, target: Target, word: str) -> None:
        figure = Figure("x", "x", "", {US: [50], REGISTRY: [5], NGINX: [100]}, (target,))
        assert [verdict.word for verdict in judge(figure)] == [word]

    @given(ours=rounds, theirs=rounds, bound=positive)
    def test_the_two_directions_share_the_bound(self, ours: list[float], theirs: list[float], bound: float) -> None:
        targets = Target(bound, peer=NGINX), Target(bound, at_least=True, peer=NGINX)
        most, least = judge(Figure("x", "x", "", {US: ours, NGINX: theirs}, targets))
        assert most.value is not None
        assert (most.word == "met") == (most.value <= bound)
        assert (least.word == "met") == (most.value >= bound)

    def test_a_failed_round_is_never_met(self) -> None:
        targets = Target(1), Target(1, peer=NGINX)
        figure = Figure("x", "x", "", {US: [1], NGINX: [1]}, targets)
        ours = attrs.evolve(figure, failed=frozenset([US]))
        assert [verdict.word for verdict in judge(ours)] == ["failed", "failed"]
        theirs = attrs.evolve(figure, failed=frozenset([NGINX]))
        assert [verdict.word for verdict in judge(theirs)] == ["met", "failed"]

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "-"),
            (1, "1"),
            (0, "0"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (57604.7, "57,605"),
            (-3, "-3"),
        ],
    )
    def test_numbers(self, value: float | None, text: str) -> None:
        assert number(value) == text

    def test_ratios_show_three_digits(self) -> None:
        assert [ratio_text(value) for value in (None, 1.149, 0.898, 23.46, 123.4)] == [
            "-", "1.15", "0.898", "23.5", "123",
        ]  # fmt: skip


class TestTable:
    figures = [
        Figure(
            "blobs",
            "cached blobs",
            "1/s",
            {US: [1800], REGISTRY: [450], NGINX: [2400]},
            (Target(3.5, at_least=True, peer=REGISTRY), Target(0.9, at_least=True, peer=NGINX)),
        ),
        Figure("tag", "cached tag", "1/s", {US: [5000]}),
    ]

    def test_a_line_for_each_target(self) -> None:
        ((header, first, second, bare),) = tables(self.figures)
        assert first == (
            "cached blobs", "1/s", "1,800", "450", "2,400", "-", "at least 3.5 x docker-registry", "4", "met",
        )  # fmt: skip
        assert second == ("", "", "", "", "", "", "at least 0.9 x nginx", "0.75", "short")
        assert bare == ("cached tag", "1/s", "5,000", "-", "-", "-", "", "", "")
        assert len({len(line) for line in (header, first, second, bare)}) == 1

    def test_a_curve_has_a_table_of_its_own(self) -> None:
        values = {"1,000": [1.0], "1,000,000": [4.0, 6.0]}
        curve = Figure("scale", "start", "s", values, (Target(4),), columns=tuple(values), judged="1,000,000")
        both, one = tables([self.figures[0], curve, self.figures[1]]), tables([curve])
        assert [len(lines) for lines in both] == [4, 2]
        assert both[1] == one[0]
        assert one[0][0] == ("what", "unit", "1,000", "1,000,000", "to reach", "reached", "verdict")
        assert one[0][1] == ("start", "s", "1", "5", "at most 4", "5", "short")

    def test_columns_stand_under_each_other(self) -> None:
        lines = plain(*tables(self.figures)).splitlines()
        place = lines[0].index("to reach")
        assert lines[2][place:].startswith("at least 3.5")
        assert lines[3][place:].startswith("at least 0.9")
        assert not any(line != line.rstrip() for line in lines)

    def test_list_table_has_each_cell(self) -> None:
        (lines,) = tables(self.figures)
        text = list_table(lines)
        assert text.count("\n   * -") == len(lines)
        assert not any(line.endswith("- -") for line in text.splitlines())
        assert text.count("     -") == len(lines) * (len(lines[0]) - 1)

    def test_json_and_page(self) -> None:
        programs = {"docker-registry": "true", "nginx": "true"}
        document = json.loads(json.dumps(report.document(self.figures, FULL, programs, 0.5)))
        assert document["figures"][0]["medians"] == {US: 1800, REGISTRY: 450, NGINX: 2400}
        assert [one["verdict"] for one in document["figures"][0]["verdicts"]] == ["met", "short"]
        page = report.page(self.figures, FULL, "2000-01-01", "nginx 1", 0.25)
        assert "0.25 cores" in page
        assert "at least 3.5 x docker-registry" in page
        assert "/v2/" not in page


class TestWrk:
    def test_parse(self) -> None:
        result = wrk.parse(WRK)
        assert result == wrk.WrkResult(59425.70, 594837, median=0.402, p99=5.21)

    def test_parse_errors(self) -> None:
        told = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 12\n"
        result = wrk.parse(WRK.replace("Requests/sec", told + "Requests/sec"))
        assert (result.socket_errors, result.refused) == (10, 12)

    @given(st.floats(0.01, 999).map(lambda value: round(value, 2)), st.sampled_from(["us", "ms", "s", "m"]))
    def test_latency_units(self, value: float, unit: str) -> None:
        factor = {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[unit]
        result = wrk.parse(WRK.replace("   99%    5.21ms", f"   99%  {value:.2f}{unit}"))
        assert result.p99 == pytest.approx(value * factor)

    @given(st.text(max_size=200))
    def test_no_figures(self, text: str) -> None:
        with pytest.raises(ValueError, match="no figures"):
            wrk.parse(text)


class TestDownload:
    HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-LENGTH: 10\r\n\r\n"

    @given(cuts=st.lists(st.integers(0, 60), max_size=8), body=st.binary(max_size=10))
    def test_head_in_any_pieces(self, cuts: list[int], body: bytes) -> None:
        data = self.HEAD + body
        download = Download("/x")
        edges = [0, *sorted(min(cut, len(self.HEAD) - 1) for cut in cuts)]
        for start, stop in itertools.pairwise(edges):
            assert not download.headers_in(data[start:stop])
        assert download.headers_in(data[edges[-1] :])
        assert (download.status, download.length, download.got) == (200, 10, len(body))
        assert download.complete == (len(body) == 10)

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nxyz",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"rubbish here\r\n\r\n",
            b"x" * (HEAD_LIMIT + 1),
        ],
    )
    def test_bad_heads(self, head: bytes) -> None:
        with pytest.raises(ValueError, match=r".+"):
            Download("/x").headers_in(head)


@pytest.fixture
def port() -> Iterator[int]:
    """A server that answers /N with N bytes, and breaks off "/short" half way."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        # The slow reader leaves before the end.
        with contextlib.suppress(ConnectionError), connection:
            path = connection.recv(4096).split(b" ")[1].decode().strip("/")
            size = 1000 if path == "short" else int(path)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            connection.sendall(b"x" * (500 if path == "short" else size))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=[connection], daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


class TestCrowd:
    @pytest.mark.parametrize("parallel", [1, 3, 20])
    def test_counts_bytes(self, port: int, parallel: int) -> None:
        downloads = [Download(f"/{size}") for size in (1, 100, 3 * MIB, 64 * 1024, 5)]
        wall = Crowd(port).run(downloads, parallel=parallel, limit=30)
        assert all(download.complete for download in downloads)
        assert all(download.sent <= download.first <= download.done for download in downloads)
        assert 0 < wall < 30

    def test_a_short_body_is_no_success(self, port: int) -> None:
        good, bad = Download("/10"), Download("/short")
        Crowd(port).run([bad, good], parallel=2, limit=30)
        assert good.complete
        assert not bad.complete
        assert bad.error == "closed after 500 of 1000 bytes"

    def test_slow_readers_are_cut_off_when_the_others_are_done(self, port: int) -> None:
        slow, fast = Download(f"/{8 * MIB}", pace=1024), Download(f"/{MIB}")
        ticks: list[int] = []
        Crowd(port).run([slow, fast], parallel=2, limit=30, tick=lambda: ticks.append(1))
        assert fast.complete
        assert slow.error == "cut off"
        assert slow.got < 8 * MIB
        assert len(ticks) >= 2

    def test_first_byte_alone(self, port: int) -> None:
        probe = Download(f"/{8 * MIB}", first_only=True)
        Crowd(port).run([probe], parallel=1, limit=30)
        assert probe.first == probe.done >= probe.sent
        assert 0 < probe.got < 8 * MIB


class TestContent:
    @given(size=st.integers(1, 3 * MIB))
    def test_size_and_sameness(self, size: int) -> None:
        pieces = list(content("a", size))
        assert sum(map(len, pieces)) == size
        assert pieces == list(content("a", size))
        assert len(set(pieces)) == len(pieces)

    def test_names_differ(self) -> None:
        assert list(content("a", 100)) != list(content("b", 100))


def test_every_row_says_what_it_is() -> None:
    assert all(row.__doc__ for row in ROWS.values())

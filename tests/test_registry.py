"""The registry face over the real cache: every layout, headers, errors, and blobs that come while they are sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import cast

import pytest
from attrs import frozen
from twisted.internet.defer import Deferred

from depproxy.access.gate import Gate
from depproxy.access.interface import ICaller
from depproxy.config import MirrorSettings
from depproxy.index.interface import Home
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import OCI_INDEX, OCI_MANIFEST
from depproxy.oci.reference import Name, Tag
from depproxy.upstream.errors import Invalid, Refused, Throttled, Unavailable, UpstreamError
from depproxy.upstream.interface import Document
from tests.strategies import write_descriptor
from tests.test_metrics import samples
from tests.web_support import Answer, Cache, Client, CutShort, FlowingUpstream, WebTestCase, addresses, until

MARK = "dependency_proxy/containers"
ALPINE = Name("library/alpine")
APP = Name("org/app")
UNKNOWN = Digest.of(b"nobody has this")


@frozen
class Layout:
    """One way in which a client writes the address of a repository, with an optional query."""

    prefix: str
    upstream: str
    query: str = ""

    def url(self, name: str, rest: str) -> str:
        return f"{self.prefix.replace('NAME', name)}/{rest}{self.query}"


HUB, GITHUB = "docker.io", "ghcr.io"
LAYOUTS = [
    Layout("/v2/NAME", HUB),
    Layout("/v2/acme/dependency_proxy/containers/NAME", HUB),
    Layout("/v2/Acme/TOOLS/dependency_proxy/containers/NAME", HUB),
    Layout("/v2/acme/tools/dependency_proxy/containers/ghcr.io/NAME", GITHUB),
    Layout("/v2/acme%2Ftools/dependency_proxy/containers/NAME", HUB),
    Layout("/v2/docker.io/NAME", HUB),
    Layout("/v2/hub/NAME", HUB),
    Layout("/v2/ghcr.io/NAME", GITHUB),
    Layout("/ghcr.io/v2/NAME", GITHUB),
    Layout("/github/v2/NAME", GITHUB),
    Layout("/localhost:5001/v2/NAME", "localhost:5001"),
    Layout("/v2/localhost:5001/NAME", "localhost:5001"),
    Layout("/v2/NAME", HUB, "?ns=docker.io"),
    Layout("/v2/NAME", HUB, "?ns=registry-1.docker.io"),
    Layout("/v2/NAME", GITHUB, "?ns=ghcr.io"),
    Layout("/github/v2/NAME", GITHUB, "?ns=ghcr.io"),
    Layout("/v2/acme/dependency_proxy/containers/NAME", GITHUB, "?x=1&ns=ghcr.io"),
    Layout("/v2/localhost:5001/NAME", "localhost:5001", "?ns=localhost%3A5001"),
]


class Doorman:
    """What the registry face needs of `Gate`: it lets everybody in, once `opened` has fired."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.opened: Deferred[None] = Deferred()

    async def admit(self, group: str, caller: ICaller) -> None:
        self.asked.append(group)
        await self.opened


class RegistryTestCase(WebTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.cache = Cache(self.directory / "data")
        self.addCleanup(lambda: Deferred.fromCoroutine(self.cache.settle()))
        self.hub = self.cache.hub
        self.registry = self.cache.registry()
        self.port = self.listen(self.faces(self.registry))

    async def get(self, path: str, method: str = "GET", client: Client | None = None, **headers: str) -> Answer:
        client = client or await self.client(self.port)
        client.ask(path, method, **headers)
        return await client.answer(method)

    def counted(self) -> dict[tuple[str, ...], float]:
        """The requests counted so far, by kind and outcome."""
        found = samples(self.cache.metrics).items()
        return {labels: value for (name, labels), value in found if name == "depproxy_requests_total" and value}


def image(upstream: FlowingUpstream, repository: Name, layer: bytes, tag: str = "1") -> tuple[bytes, Digest]:
    """An image with one layer; its manifest and the layer's digest."""
    digest = upstream.put_blob(repository, layer)
    descriptor = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": len(layer)}
    manifest = json.dumps({"schemaVersion": 2, "config": descriptor, "layers": [descriptor]}).encode()
    upstream.put_manifest(repository, manifest, Tag(tag))
    return manifest, digest


class Addressing(RegistryTestCase):
    async def test_every_layout(self) -> None:
        """Manifests, blobs, tags and referrers; each from the upstream that is meant."""
        for number, layout in enumerate(LAYOUTS):
            upstream = self.cache.upstreams[layout.upstream]
            repository = Name(f"org/app{number}")
            body, layer = image(upstream, repository, b"layer %d" % number)
            manifest = Digest.of(body)
            query = "x=1" if "x=1" in layout.query else ""
            upstream.documents[repository, "tags/list", query] = Document(b"{}", "application/json", {})
            upstream.documents[repository, f"referrers/{manifest}", query] = Document(b'{"r": 1}', OCI_INDEX, {})
            client = await self.client(self.port)
            for rest, expected in (
                ("manifests/1", body),
                (f"manifests/{manifest}", body),
                (f"blobs/{layer}", b"layer %d" % number),
                ("tags/list", b"{}"),
                (f"referrers/{manifest}", b'{"r": 1}'),
            ):
                answer = await self.get(layout.url(repository, rest), client=client)
                assert (answer.status, answer.body) == (200, expected), layout
                namespace = layout.query.partition("ns=")[2].replace("%3A", ":")
                assert answer.headers.get("oci-namespace", "") == namespace
            others = [other for name, other in self.cache.upstreams.items() if name != layout.upstream]
            assert not any(f" {repository} " in line for other in others for line in other.asked)

    async def test_library(self) -> None:
        """Hub's alone: `alpine` is `library/alpine` there."""
        self.hub.put_manifest(ALPINE, b"{}", Tag("3"))
        self.cache.upstreams[GITHUB].put_manifest(Name("alpine"), b"[]", Tag("3"))
        for path in ("/v2/alpine", "/v2/docker.io/alpine", "/hub/v2/alpine", f"/v2/acme/{MARK}/alpine"):
            assert (await self.get(f"{path}/manifests/3")).body == b"{}", path
        for path in ("/v2/ghcr.io/alpine", "/github/v2/alpine", f"/v2/acme/{MARK}/ghcr.io/alpine"):
            assert (await self.get(f"{path}/manifests/3")).body == b"[]", path

    async def test_what_is_wrong_is_said_in_every_layout(self) -> None:
        client = await self.client(self.port)
        for layout in LAYOUTS:
            for name in ("UPPER/case", "a..b", "under/_score", "x" * 256, "a%2F..%2Fb", "%C3%A9", "a%0Ab", "a//b"):
                for rest in ("manifests/1", f"blobs/{UNKNOWN}", "tags/list", f"referrers/{UNKNOWN}"):
                    answer = await self.get(layout.url(name, rest), client=client)
                    assert (answer.status, answer.error) == (400, "NAME_INVALID"), (layout, name)
            for tag in (".hidden", "-dash", "x" * 129, "sp%20ace", "%C3%A9", "a%0A", "1%0A"):
                answer = await self.get(layout.url("org/app", f"manifests/{tag}"), client=client)
                assert (answer.status, answer.error) == (400, "TAG_INVALID"), (layout, tag)
            for digest in ("sha256:abc", f"sha256:{'A' * 64}", f"md5:{'0' * 32}", ":", f"{UNKNOWN}%0A"):
                for kind in ("manifests", "blobs", "referrers"):
                    answer = await self.get(layout.url("org/app", f"{kind}/{digest}"), client=client)
                    assert (answer.status, answer.error) == (400, "DIGEST_INVALID"), (layout, digest)
            answer = await self.get(layout.url("org/app", "blobs/latest"), client=client)
            assert (answer.status, answer.error) == (400, "DIGEST_INVALID")
        assert not any(upstream.asked for upstream in self.cache.upstreams.values())

    async def test_addresses_that_mean_nothing(self) -> None:
        for path, status, code in (
            ("/v2/org/app/manifests/1?ns=quay.io", 404, "NAME_UNKNOWN"),
            ("/v2/org/app/manifests/1?ns=%FF", 404, "NAME_UNKNOWN"),
            ("/v2/ghcr.io/org/app/manifests/1?ns=docker.io", 404, "NAME_UNKNOWN"),
            ("/quay.io/v2/org/app/manifests/1", 404, "NAME_UNKNOWN"),
            ("/quay.io/v2/", 404, "NAME_UNKNOWN"),
            (f"/ghcr.io/v2/acme/{MARK}/app/manifests/1", 404, "NAME_UNKNOWN"),
            (f"/v2/nobody/{MARK}/app/manifests/1", 401, "UNAUTHORIZED"),
            (f"/v2/a%20b/{MARK}/app/manifests/1", 400, "NAME_INVALID"),
            (f"/v2/closed/{MARK}/app/manifests/1", 403, "DENIED"),
        ):
            answer = await self.get(path)
            assert (answer.status, answer.error) == (status, code), path
        assert not any(upstream.asked for upstream in self.cache.upstreams.values())

    async def test_names_made_of_the_words_of_addresses(self) -> None:
        for text in ("v2/v2", "manifests/manifests", "a/blobs", "blobs/tags/list", "x/v2/y", "dependency_proxy/x"):
            name = Name(text)
            body, layer = image(self.hub, name, text.encode(), "manifests")
            self.hub.documents[name, "tags/list", ""] = Document(b"{}", "application/json", {})
            assert (await self.get(f"/v2/{name}/manifests/manifests")).body == body, name
            assert (await self.get(f"/v2/{name}/blobs/{layer}")).body == text.encode(), name
            assert (await self.get(f"/v2/{name}/tags/list")).body == b"{}", name

    async def test_addresses_may_be_replaced(self) -> None:
        self.hub.put_manifest(APP, b"{}", Tag("1"))
        assert (await self.get("/v2/org/app/manifests/1")).status == 200
        self.registry.addresses = self.cache.registry(MirrorSettings(group="nobody")).addresses
        assert (await self.get("/v2/org/app/manifests/1")).error == "UNAUTHORIZED"


class ManifestsFace(RegistryTestCase):
    BODY = b'{"schemaVersion": 2,   "mediaType": "as upstream wrote it"}'

    def setUp(self) -> None:
        super().setUp()
        self.digest = self.hub.put_manifest(APP, self.BODY, Tag("1"), OCI_INDEX)

    async def test_headers(self) -> None:
        for reference in ("1", self.digest, "1"):
            for method in ("GET", "HEAD"):
                answer = await self.get(f"/v2/{APP}/manifests/{reference}", method)
                assert answer.status == 200
                assert answer.body == (self.BODY if method == "GET" else b"")
                assert answer.headers["content-type"] == OCI_INDEX
                assert answer.headers["content-length"] == str(len(self.BODY))
                assert answer.headers["docker-content-digest"] == self.digest
                assert answer.headers["etag"] == f'"{self.digest}"'
                assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
                assert "warning" not in answer.headers
        assert answer.headers["x-cache"] == "hit"

    async def test_a_head_causes_no_get(self) -> None:
        for reference in ("1", self.digest):
            answer = await self.get(f"/v2/{APP}/manifests/{reference}", "HEAD")
            assert (answer.status, answer.headers["x-cache"]) == (200, "miss")
        assert not [line for line in self.hub.asked if line.startswith("GET")]

    async def test_not_modified(self) -> None:
        for _ in range(2):
            for condition in (f'"{self.digest}"', f'W/"{self.digest}"', "*"):
                answer = await self.get(f"/v2/{APP}/manifests/1", If_None_Match=condition)
                assert answer.status == 304
                assert answer.headers["docker-content-digest"] == self.digest
                assert "content-length" not in answer.headers
        assert (await self.get(f"/v2/{APP}/manifests/1", If_None_Match='"other"')).body == self.BODY

    async def test_stale_is_marked(self) -> None:
        await self.get(f"/v2/{APP}/manifests/1")
        self.hub.fail(Unavailable(HUB, "it is down"))
        answer = await self.get(f"/v2/{APP}/manifests/1")
        assert (answer.status, answer.body) == (200, self.BODY)
        assert answer.headers["x-cache"] == "stale"
        assert answer.headers["warning"].startswith("110 ")
        assert self.counted() == {("manifest", "miss"): 1, ("manifest", "stale"): 1}

    async def test_joined(self) -> None:
        self.hub.held = True
        clients = [await self.client(self.port) for _ in range(5)]
        for client in clients:
            client.ask(f"/v2/{APP}/manifests/{self.digest}")
        await until(lambda: self.hub.asked)
        await self.get("/v2/")
        self.hub.answer()
        answers = [await client.answer() for client in clients]
        assert [answer.body for answer in answers] == [self.BODY] * 5
        assert sorted(answer.headers["x-cache"] for answer in answers) == ["joined"] * 4 + ["miss"]
        assert len(self.hub.asked) == 1

    async def test_who_leaves_does_not_spoil_it_for_others(self) -> None:
        self.hub.held = True
        leaver, stayer = await self.client(self.port), await self.client(self.port)
        leaver.ask(f"/v2/{APP}/manifests/1")
        await until(lambda: self.hub.asked)
        stayer.ask(f"/v2/{APP}/manifests/1")
        await self.get("/v2/")
        leaver.leave()
        await leaver.end()
        await self.get("/v2/")
        self.hub.answer()
        assert (await stayer.answer()).body == self.BODY

    async def test_counted(self) -> None:
        client = await self.client(self.port)
        for path in (f"/v2/{APP}/manifests/1", f"/v2/{APP}/manifests/1", f"/v2/{APP}/manifests/none"):
            await self.get(path, client=client)
        assert self.counted() == {("manifest", "miss"): 1, ("manifest", "hit"): 1, ("manifest", "error"): 1}
        assert samples(self.cache.metrics)["depproxy_served_bytes_total", ("manifest",)] == 2 * len(self.BODY)

    async def test_a_media_type_that_is_no_latin_1(self) -> None:
        digest = self.hub.put_manifest(APP, b"[]", Tag("odd"), "application/vnd.é+json")
        answer = await self.get(f"/v2/{APP}/manifests/{digest}")
        assert (answer.status, answer.body) == (200, b"[]")


UPSTREAM_ERRORS: list[tuple[UpstreamError, int, str]] = [
    (Refused(HUB, "no", 403), 403, "DENIED"),
    (Throttled(HUB, "slowly", 429, retry_after=17.2), 429, "TOOMANYREQUESTS"),
    (Unavailable(HUB, "down"), 504, "UNAVAILABLE"),
    (Unavailable(HUB, "broken", 503), 504, "UNAVAILABLE"),
    (Invalid(HUB, "wrong digest"), 502, "UNAVAILABLE"),
]


class UpstreamTrouble(RegistryTestCase):
    def paths(self) -> Iterator[tuple[str, str]]:
        """One of each kind, and the code that says that upstream does not have it."""
        yield f"/v2/{APP}/manifests/1", "MANIFEST_UNKNOWN"
        yield f"/v2/{APP}/manifests/{UNKNOWN}", "MANIFEST_UNKNOWN"
        yield f"/v2/{APP}/blobs/{UNKNOWN}", "BLOB_UNKNOWN"
        yield f"/v2/{APP}/tags/list", "NAME_UNKNOWN"

    async def test_what_upstream_does_not_have(self) -> None:
        for path, code in self.paths():
            for _ in range(2):
                answer = await self.get(path)
                assert (answer.status, answer.error) == (404, code)
            assert (await self.get(path, "HEAD")).status == 404

    async def test_trouble_is_never_a_404(self) -> None:
        for error, status, code in UPSTREAM_ERRORS:
            self.hub.fail(error)
            for path, _ in (*self.paths(), (f"/v2/{APP}/referrers/{UNKNOWN}", "")):
                answer = await self.get(path)
                assert (answer.status, answer.error) == (status, code), path
                assert json.loads(answer.body)["errors"][0]["detail"]["upstream"] == HUB
                assert answer.headers.get("retry-after") == ("17" if status == 429 else None)


class DocumentsFace(RegistryTestCase):
    LINK = {"Link": f'</v2/{APP}/tags/list?last=b&n=2>; rel="next"'}

    async def test_tags(self) -> None:
        document = Document(b'{"tags": []}', "application/json; charset=utf-8", self.LINK)
        self.hub.documents[APP, "tags/list", "n=2&last=a"] = document
        answer = await self.get(f"/v2/{APP}/tags/list?n=2&last=a")
        assert (answer.status, answer.body) == (200, b'{"tags": []}')
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.headers["x-cache"] == "miss"
        assert (await self.get(f"/v2/{APP}/tags/list?n=2&last=a")).headers["x-cache"] == "hit"
        assert self.hub.asked == [f"GET {APP} tags/list?n=2&last=a"]
        assert self.counted() == {("document", "miss"): 1, ("document", "hit"): 1}

    async def test_the_next_page_is_here(self) -> None:
        """Whatever the layout, a client that follows Link comes back to the same repository."""
        for layout in LAYOUTS:
            upstream = self.cache.upstreams[layout.upstream]
            for query in ("", "x=1", "last=b&n=2"):
                upstream.documents[APP, "tags/list", query] = Document(b"{}", "application/json", self.LINK)
            answer = await self.get(layout.url(APP, "tags/list"))
            target, _, parameters = answer.headers["link"].partition(">")
            assert parameters == '; rel="next"'
            path, _, query = target.removeprefix("<").partition("?")
            assert path == layout.url(APP, "tags/list").partition("?")[0]
            self.cache.documents._recent.clear()
            upstream.asked.clear()
            assert (await self.get(f"{path}?{query}")).status == 200, layout
            assert upstream.asked == [f"GET {APP} tags/list?last=b&n=2"], layout

    async def test_absolute_links_too(self) -> None:
        link = {"Link": '<https://registry.example/v2/x/tags/list?n=1&last=z>; rel="next"', "OCI-Filters-Applied": "a"}
        self.hub.documents[APP, "tags/list", "n=1"] = Document(b"{}", "application/json", link)
        answer = await self.get(f"/v2/{APP}/tags/list?n=1")
        assert answer.headers["link"] == f'</v2/{APP}/tags/list?n=1&last=z>; rel="next"'
        assert answer.headers["oci-filters-applied"] == "a"

    async def test_referrers(self) -> None:
        document = Document(b'{"r": 1}', OCI_INDEX, {})
        self.hub.documents[APP, f"referrers/{UNKNOWN}", "artifactType=a%2Fb"] = document
        answer = await self.get(f"/v2/{APP}/referrers/{UNKNOWN}?artifactType=a%2Fb")
        assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b'{"r": 1}', OCI_INDEX)
        assert self.hub.asked == [f"GET {APP} referrers/{UNKNOWN}?artifactType=a%2Fb"]

    async def test_referrers_where_there_is_no_such_api(self) -> None:
        answer = await self.get(f"/v2/{APP}/referrers/{UNKNOWN}")
        assert (answer.status, answer.headers["content-type"]) == (200, OCI_INDEX)
        assert json.loads(answer.body) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}

    async def test_head(self) -> None:
        self.hub.documents[APP, "tags/list", ""] = Document(b"{}", "application/json", {})
        client = await self.client(self.port)
        for _ in range(2):
            answer = await self.get(f"/v2/{APP}/tags/list", "HEAD", client)
            assert (answer.status, answer.headers["content-length"]) == (200, "2")

    async def test_what_a_query_may_hold(self) -> None:
        """Only what a URL may hold goes upstream, and never `ns`."""
        for query, sent in (
            ("n=5&ns=docker.io", "n=5"),
            ("ns=docker.io&n=5", "n=5"),
            ("nsx=1", "nsx=1"),
            ("n=\x85", "n=%85"),
            ("last=%C3%A9", "last=%C3%A9"),
            ("", ""),
        ):
            self.hub.documents[APP, "tags/list", sent] = Document(b"{}", "application/json", {})
            assert (await self.get(f"/v2/{APP}/tags/list?{query}")).status == 200, query
            assert self.hub.asked.pop() == f"GET {APP} tags/list?{sent}"
            self.cache.documents._recent.clear()


class BlobsFace(RegistryTestCase):
    LAYER = bytes(range(256)) * 1000

    async def start(self, gate: int | None = None, *, undeclared: bool = False) -> tuple[Client, str]:
        """A client, and the address of a blob that is cold."""
        manifest, self.digest = image(self.hub, APP, self.LAYER)
        self.hub.gate = gate
        if not undeclared:
            assert (await self.get(f"/v2/{APP}/manifests/1")).body == manifest
        self.hub.sizes = not undeclared
        return await self.client(self.port), f"/v2/{APP}/blobs/{self.digest}"

    async def test_miss_then_hit(self) -> None:
        client, path = await self.start()
        for outcome in ("miss", "hit"):
            answer = await self.get(path, client=client)
            assert (answer.status, answer.body, answer.headers["x-cache"]) == (200, self.LAYER, outcome)
            assert answer.headers["content-length"] == str(len(self.LAYER))
        assert [line for line in self.hub.asked if self.digest in line] == [f"GET {APP} blobs/{self.digest}"]
        counted = self.counted()
        assert counted["blob", "miss"] == counted["blob", "hit"] == 1

    async def test_bytes_come_while_the_blob_is_fetched(self) -> None:
        """The head at once, every byte that is in, and never the last one before the digest is verified."""
        client, path = await self.start(gate=0)
        client.ask(path)
        status, headers = await client.head()
        assert (status, headers["x-cache"]) == (200, "miss")
        stream = self.hub.streams[-1]
        stream.send(1000)
        assert await client.take(999) == self.LAYER[:999]
        stream.send()
        assert await client.take(len(self.LAYER) - 1000) == self.LAYER[999:-1]
        assert client.data == b""
        stream.close()
        assert await client.take(1) == self.LAYER[-1:]

    async def test_joiners(self) -> None:
        """Whole and in parts, before and in the middle: one fetch."""
        client, path = await self.start(gate=1000)
        client.ask(path)
        await client.head()
        whole, middle, tail = [await self.client(self.port) for _ in range(3)]
        whole.ask(path)
        middle.ask(path, Range="bytes=500-1999")
        tail.ask(path, Range="bytes=-10")
        assert (await middle.head())[1]["x-cache"] == "joined"
        assert await middle.take(499) == self.LAYER[500:999]
        assert samples(self.cache.metrics)["depproxy_fill_followers", ()] == 4
        self.hub.streams[-1].finish()
        assert await middle.take(1001) == self.LAYER[999:2000]
        assert (await whole.answer()).body == self.LAYER
        answer = await tail.answer()
        assert (answer.status, answer.body) == (206, self.LAYER[-10:])
        assert await client.take(len(self.LAYER)) == self.LAYER
        await until(lambda: samples(self.cache.metrics)["depproxy_fill_followers", ()] == 0)
        assert len(self.hub.streams) == 1

    async def test_wrong_bytes_are_never_a_whole_blob(self) -> None:
        client, path = await self.start(gate=0)
        self.hub.put_blob(APP, self.LAYER[:-1] + b"?", self.digest)
        client.ask(path)
        await client.head()
        self.hub.streams[-1].finish()
        with pytest.raises(CutShort):
            await client.take(len(self.LAYER))
        assert not await client.end()
        self.hub.gate = None
        self.hub.put_blob(APP, self.LAYER)
        assert (await self.get(path)).body == self.LAYER

    async def test_a_failure_before_the_head_is_a_document(self) -> None:
        client, path = await self.start()
        self.hub.fail(Unavailable(HUB, "down"))
        answer = await self.get(path, client=client)
        assert (answer.status, answer.error) == (504, "UNAVAILABLE")
        self.hub.fail(None)
        assert (await self.get(path, client=client)).body == self.LAYER

    async def test_the_fill_goes_on_without_its_first_client(self) -> None:
        client, path = await self.start(gate=1000)
        client.ask(path)
        await client.head()
        client.leave()
        await until(lambda: samples(self.cache.metrics)["depproxy_fill_followers", ()] == 0)
        self.hub.streams[-1].finish()
        answer = await self.get(path)
        assert (answer.body, answer.headers["x-cache"]) == (self.LAYER, "hit")

    async def test_stopping_cuts_followers(self) -> None:
        client, path = await self.start(gate=1000)
        client.ask(path)
        await client.head()
        await self.cache.blobs.stop()
        assert not await client.end()

    async def test_a_size_that_upstream_does_not_tell(self) -> None:
        client, path = await self.start(gate=1000, undeclared=True)
        client.ask(path)
        await client.until(lambda: len(client.data) > 999)
        self.hub.streams[-1].finish()
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, self.LAYER)
        assert answer.headers["transfer-encoding"] == "chunked"
        assert (await self.get(path, "HEAD", client)).headers["content-length"] == str(len(self.LAYER))

    async def test_a_head_fetches_nothing(self) -> None:
        client, path = await self.start()
        answer = await self.get(path, "HEAD", client)
        assert (answer.status, answer.headers["content-length"]) == (200, str(len(self.LAYER)))
        assert (answer.headers["x-cache"], answer.headers["docker-content-digest"]) == ("miss", self.digest)
        assert self.hub.streams == []
        answer = await self.get(path, client=client, If_None_Match=f'"{self.digest}"')
        assert answer.status == 304
        assert self.hub.streams == []

    async def test_permission_is_not_shared(self) -> None:
        client, path = await self.start()
        await self.get(path, client=client)
        answer = await self.get(f"/v2/other/app/blobs/{self.digest}", client=client)
        assert (answer.status, answer.error) == (404, "BLOB_UNKNOWN")
        self.hub.put_blob(Name("other/app2"), self.LAYER)
        answer = await self.get(f"/v2/other/app2/blobs/{self.digest}", client=client)
        assert (answer.body, answer.headers["x-cache"]) == (self.LAYER, "hit")


def test_descriptors_as_upstreams_write_them() -> None:
    """`image` writes what `children` reads, or links would never be made above."""
    from depproxy.oci.manifest import Descriptor, children  # noqa: PLC0415

    upstream = FlowingUpstream(HUB)
    manifest, layer = image(upstream, APP, b"layer")
    found = children(OCI_MANIFEST, manifest)
    assert set(found) == {Descriptor("application/vnd.oci.image.layer.v1.tar", layer, 5)}
    assert write_descriptor(found[0])["digest"] == layer


class Reloading(RegistryTestCase):
    async def test_between_the_gate_and_the_address(self) -> None:
        """Who may pull from the mirror's old group does not come into the new one, and is served from the old one."""
        doorman = Doorman()
        registry = self.cache.registry(gate=cast(Gate, doorman))
        client = await self.client(self.listen(self.faces(registry)))
        digest = self.hub.put_manifest(APP, b"{}", Tag("1"))
        client.ask(f"/v2/{APP}/manifests/1")
        await until(lambda: doorman.asked)
        registry.addresses = addresses(MirrorSettings(group="acme", upstream=GITHUB))
        doorman.opened.callback(None)
        assert (await client.answer()).status == 200
        assert doorman.asked == ["local"]
        assert self.cache.upstreams[GITHUB].asked == []
        assert await self.cache.index.get_link(Home("local", HUB, APP), digest) is not None
        client.ask(f"/v2/{APP}/manifests/1")
        assert (await client.answer()).error == "MANIFEST_UNKNOWN"
        assert doorman.asked == ["local", "acme"]

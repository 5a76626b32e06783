"""The service as a whole, in this process: start, reload, stop; what it tells its supervisor, and what it needs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactor
from twisted.logger import LogEvent

from depproxy.access.passwords import hash_token
from depproxy.config import ConfigError, Settings, load
from depproxy.oci.digest import Digest
from depproxy.service import Depproxy
from depproxy.web.listen import BACKLOG, with_backlog
from tests.certificates import CLIENT, Authority
from tests.index_tools import alive
from tests.upstream_fake import Call, Registry
from tests.web_support import REACTOR, Answer, Client, WebTestCase, until

LISTEN = ("tcp:0:interface=127.0.0.1",)
# Nobody listens there: the port is privileged, and reserved.
NOWHERE = "http://127.0.0.1:1"


class ServiceTestCase(WebTestCase):
    """Starts depproxy on a configuration file, with a short path for its sockets."""

    timeout = 60

    def setUp(self) -> None:
        super().setUp()
        self.data = Path(tempfile.mkdtemp(prefix="dp-"))
        self.addCleanup(shutil.rmtree, self.data, ignore_errors=True)
        self.file = self.directory / "depproxy.toml"
        self.environ: dict[str, str] = {"PATH": os.environ["PATH"], "TMPDIR": str(self.data)}
        self.listening: list[str] = []
        self.fatal: list[str] = []
        # The number of listeners that there were when the service was told to be complete.
        self.settled: list[int] = []
        # A service that does not handle it must not end the test run.
        self.addCleanup(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_IGN))

    def _observe(self, event: LogEvent) -> None:
        super()._observe(event)
        if event.get("log_format") == "listening on {address}":
            self.listening.append(event["address"])

    def configure(self, text: str = "", url: str = NOWHERE) -> None:
        self.file.write_text(f'[storage]\npath = "{self.data}"\n[upstreams."docker.io"]\nurl = "{url}"\n{text}')

    def load(self) -> Settings:
        return load(self.file, listen=self.listen_strings, environ=self.environ)

    def make(self, listen: tuple[str, ...] = LISTEN) -> Depproxy:
        self.listen_strings = listen

        def settled() -> None:
            self.settled.append(len(self.listening))

        self.service = Depproxy(self.load(), self.load, REACTOR, self.environ, self.fatal.append, settled)
        self.addCleanup(self.release, self.service)
        self.addCleanup(self.stop)
        return self.service

    async def start(self, listen: tuple[str, ...] = LISTEN) -> Depproxy:
        service = self.make(listen)
        service.startService()
        await until(lambda: self.has_logged("is ready: http") or self.fatal)
        assert self.fatal == []
        assert self.settled[-1] == 0
        return service

    def stop(self) -> Deferred[None] | None:
        return self.service.stopService() if self.service.running else None

    def release(self, service: Depproxy) -> None:
        """Threads of a service that did not stop as it should would keep the whole test run from ending."""
        service.house.threads.stop()

    @property
    def port(self) -> int:
        """That of the first listener."""
        return int(self.listening[0].rpartition(":")[2])

    async def get(self, path: str, method: str = "GET", client: Client | None = None) -> Answer:
        client = client or await self.client(self.port)
        client.ask(path, method)
        answer = await client.answer(method)
        client.leave()
        return answer

    def registry(self) -> Registry:
        registry = Registry(REACTOR)
        self.addCleanup(registry.close)
        return registry

    def hang_up(self) -> None:
        """SIGHUP, as an operator sends it."""
        os.kill(os.getpid(), signal.SIGHUP)


class Starting(ServiceTestCase):
    async def test_with_upstreams_down(self) -> None:
        """They are asked when somebody asks for something, and not before."""
        self.configure()
        await self.start()
        answer = await self.get("/readyz")
        report = json.loads(answer.body)
        assert (answer.status, report["status"], report["index"]) == (200, "ok", "ok")
        answer = await self.get("/v2/team/app/manifests/1")
        assert (answer.status, answer.error) == (504, "UNAVAILABLE")

    async def test_on_several_listeners(self) -> None:
        self.configure("[mirror]\nunix_sockets = true\n")
        path = str(self.data / "http.sock")
        await self.start((*LISTEN, f"unix:{path}", *("tcp:0:interface=\\:\\:1",)))
        assert len(self.listening) == 3
        client = await self.client(path)
        client.ask("/v2/")
        assert (await client.answer()).status == 200
        assert (await self.get("/v2/")).status == 200

    async def test_a_whole_pull(self) -> None:
        registry = self.registry()
        layer = os.urandom(300_000)
        digest = registry.put_blob(layer)
        body = json.dumps({"layers": [{"mediaType": "x/y", "digest": digest, "size": len(layer)}]}).encode()
        registry.put_manifest("1", body)
        self.configure(url=registry.url)
        await self.start()
        for outcome in ("miss", "hit"):
            assert (await self.get("/v2/team/app/manifests/1")).body == body
            answer = await self.get(f"/v2/team/app/blobs/{digest}")
            assert (answer.body, answer.headers["x-cache"]) == (layer, outcome)
            await until(lambda: self.service.house.blobs.filling() == 0)
        assert [line for line in registry.asked("GET") if digest in line] == [f"GET /v2/team/app/blobs/{digest}"]

    async def test_a_taken_port(self) -> None:
        self.configure()
        taken = REACTOR.listenTCP(0, self.faces_of_nobody(), interface="127.0.0.1")
        self.addCleanup(taken.stopListening)
        port = taken.getHost().port
        self.make((*LISTEN, f"tcp:{port}:interface=127.0.0.1")).startService()
        await until(lambda: self.fatal)
        (message,) = self.fatal
        assert message.startswith("depproxy cannot start: ")
        assert str(port) in message
        assert "\n" not in message
        assert self.has_logged(message)
        assert not self.has_logged("Traceback")
        # What was started is stopped in order all the same.
        await self.service.stopService()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port))

    def faces_of_nobody(self) -> Any:
        from twisted.internet.protocol import ServerFactory  # noqa: PLC0415

        return ServerFactory()

    async def test_a_storage_in_use(self) -> None:
        self.configure()
        first = await self.start()
        self.make().startService()
        assert "in use by another depproxy" in self.fatal[0]
        assert len(self.settled) == 1
        await self.service.stopService()
        self.service = first

    async def test_a_defect_is_logged_as_one(self) -> None:
        self.configure()
        service = self.make(("systemd:domain=INET:index=77",))
        service.startService()
        await until(lambda: self.fatal)
        assert self.fatal[0].startswith("depproxy cannot start: ")
        assert len(self.flushLoggedErrors()) == 1  # type: ignore[no-untyped-call]


class Indexes(ServiceTestCase):
    async def test_embedded(self) -> None:
        self.configure()
        await self.start()
        pids = self.redis_pids()
        assert len(pids) == 1
        await self.service.stopService()
        await until(lambda: not any(map(alive, pids)))

    def redis_pids(self) -> list[int]:
        """The redis-servers that run on this data."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    command, cwd = (entry / "cmdline").read_bytes(), os.readlink(entry / "cwd")
                except OSError:
                    continue
                if b"redis-server" in command and (str(self.data) in cwd or str(self.data).encode() in command):
                    found.append(int(entry.name))
        return found

    async def test_external(self) -> None:
        from depproxy.index.server import EmbeddedRedis  # noqa: PLC0415

        server = EmbeddedRedis(REACTOR, self.data / "elsewhere", self.environ)
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        await server.start()
        registry = self.registry()
        registry.put_manifest("1", b"{}")
        self.configure(f'[index]\nurl = "unix://{server.socket}"\n', registry.url)
        await self.start()
        assert json.loads((await self.get("/readyz")).body)["index"] == "ok"
        assert (await self.get("/v2/team/app/manifests/1")).body == b"{}"
        # Its own is not started beside it.
        assert len(self.redis_pids()) == 1

    async def test_external_and_down(self) -> None:
        """It starts, says so, and serves."""
        registry = self.registry()
        registry.put_manifest("1", b"{}")
        self.configure(f'[index]\nurl = "redis://{NOWHERE.removeprefix("http://")}"\n', registry.url)
        await self.start()
        answer = await self.get("/readyz")
        assert answer.status == 200
        assert json.loads(answer.body)["index"].startswith("unavailable")
        assert (await self.get("/v2/team/app/manifests/1")).body == b"{}"


class Reloading(ServiceTestCase):
    async def reload(self, text: str, url: str = NOWHERE) -> None:
        before = len(self.logged)
        self.configure(text, url)
        self.hang_up()
        await until(lambda: any("reloaded" in line for line in self.logged[before:]))

    async def test_networks(self) -> None:
        self.configure()
        await self.start()
        assert (await self.get("/v2/")).status == 200
        await self.reload('[mirror]\nanonymous = ["192.0.2.0/24"]\n')
        assert (await self.get("/v2/")).status == 401
        await self.reload("")
        assert (await self.get("/v2/")).status == 200
        assert self.has_logged("configuration reloaded")

    async def test_groups(self) -> None:
        path = "/v2/acme/dependency_proxy/containers/app/manifests/1"
        self.configure()
        await self.start()
        assert (await self.get(path)).error == "UNAUTHORIZED"
        await self.reload('[groups.acme]\nanonymous = ["127.0.0.0/8"]\n')
        assert (await self.get(path)).error == "UNAVAILABLE"
        await self.reload('[groups.acme]\nanonymous = ["127.0.0.0/8"]\nenabled = false\n')
        assert b"turned off" in (await self.get(path)).body

    async def test_the_ttl_of_a_group(self) -> None:
        self.configure('[groups.acme]\nttl = "30d"\n')
        await self.start()
        owners = self.service.house.owners
        assert (owners.ttl("acme/tools"), owners.ttl("local")) == (30 * 86400.0, None)
        await self.reload('[groups.acme]\nttl = "7d"\n')
        assert owners.ttl("acme/tools") == 7 * 86400.0
        await self.reload("")
        assert owners.ttl("acme/tools") is None

    async def test_a_wrong_file_changes_nothing(self) -> None:
        self.configure()
        await self.start()
        await self.reload('[mirror]\nanonymous = ["192.0.2.0/24", "nonsense"]\n')
        assert self.has_logged(f"configuration not reloaded, the old one stays: {self.file}: mirror.anonymous[1]")
        assert (await self.get("/v2/")).status == 200
        self.file.unlink()
        self.hang_up()
        await until(lambda: self.has_logged(f"the old one stays: {self.file}: cannot be read"))
        assert (await self.get("/v2/")).status == 200

    async def test_what_needs_a_restart_is_named(self) -> None:
        """And the rest is taken over all the same, a new upstream beside it or not."""
        self.configure()
        await self.start()
        await self.reload(
            '[index]\nurl = "redis://127.0.0.1"\n[upstreams."ghcr.io"]\n[groups.acme]\nanonymous = ["127.0.0.1"]\n'
        )
        assert self.has_logged('a restart is needed for what changed in: index.url, upstreams."ghcr.io"')
        path = "/v2/acme/dependency_proxy/containers"
        assert (await self.get(f"{path}/app/manifests/1")).error == "UNAVAILABLE"
        # The new upstream is not there yet: no address may lead to it.
        assert (await self.get(f"{path}/app/manifests/1?ns=ghcr.io")).error == "NAME_UNKNOWN"

    async def test_limits_of_connections(self) -> None:
        self.configure()
        await self.start()
        await self.reload("[server]\nmax_connections = 1\n")
        first = await self.client(self.port)
        first.ask("/v2/")
        assert (await first.answer()).status == 200
        second = await self.client(self.port)
        assert await second.end()
        first.ask("/v2/")
        assert (await first.answer()).status == 200
        await self.reload("")
        third = await self.client(self.port)
        third.ask("/v2/")
        assert (await third.answer()).status == 200

    async def test_the_stall_timeout(self) -> None:
        """Of downloads that begin from now on."""
        registry = self.registry()
        digest = registry.put_blob(bytes(50_000_000))
        self.configure(url=registry.url)
        await self.start()
        await self.reload('[server]\nstall_timeout = "1s"\n', registry.url)
        client = await self.client(self.port)
        client.ask(f"/v2/team/app/blobs/{digest}")
        await client.enough(1)
        client.stop_reading()
        # Only the stall timer ends it: nobody else does.
        await until(lambda: not self.service.house.site.channels)

    async def test_how_long_answers_are_good_for(self) -> None:
        """A 404 and a list are asked for again at once, and a tag is not, when the new configuration says so."""
        registry = self.registry()
        registry.put_manifest("1", b'{"layers": []}')
        self.configure(url=registry.url)
        await self.start()

        async def cost(path: str) -> int:
            before = len(registry.seen)
            for _ in range(2):
                await self.get(path)
            return len(registry.seen) - before

        lists, tag, missing = (f"/v2/team/app/{path}" for path in ("tags/list", "manifests/1", "manifests/2"))
        assert [await cost(lists), await cost(tag), await cost(missing)] == [1, 3, 1]
        await self.reload(
            'freshness = { "*" = "forever" }\n[cache]\ndocuments_ttl = 0\nnegative_ttl = 0\n', registry.url
        )
        # What was remembered before keeps its time.
        assert [await cost(f"{lists}?n=2"), await cost(tag), await cost("/v2/team/app/manifests/3")] == [2, 0, 2]

    async def test_a_mirror_of_what_is_not_there_yet(self) -> None:
        self.configure()
        await self.start()
        await self.reload('[upstreams."ghcr.io"]\n[mirror]\nupstream = "ghcr.io"\n')
        assert self.has_logged("the old one stays: mirror.upstream")
        assert (await self.get("/v2/team/app/manifests/1")).error == "UNAVAILABLE"

    async def test_a_wrong_certificate_keeps_no_token_alive(self) -> None:
        """What was revoked is, whatever is wrong with files beside the configuration."""
        pair = Authority(str(self.directory / "tls")).issue()
        htpasswd = self.directory / "htpasswd"
        htpasswd.write_text("")
        access = f'[access]\nhtpasswd = "{htpasswd}"\n'
        token = f'[users.alice.tokens.t]\nhash = "{hash_token("dpp_secret")}"\n'
        self.configure(f'{access}[users.alice]\n{token}[groups.acme]\nmembers = {{ alice = "guest" }}\n')
        await self.start((*LISTEN, f"ssl:0:{pair.listener}:interface=127.0.0.1"))
        client = await self.client(self.port)

        async def login() -> int:
            basic = b64encode(b"alice:dpp_secret").decode()
            client.ask("/jwt/auth?service=dependency_proxy", Authorization=f"Basic {basic}")
            return (await client.answer()).status

        assert await login() == 200
        pair.certificate.write_text("no certificate")
        htpasswd.write_text("alice:no hash\n")
        await self.reload(f'{access}[users.alice]\n[groups.acme]\nmembers = {{ alice = "guest" }}\n')
        assert await login() == 401
        assert self.has_logged(f"the certificates of listeners stay as they were: {pair.certificate}: must hold")
        assert self.has_logged(f"the users of the htpasswd file stay as they were: {htpasswd}: line 1")

    async def test_another_authority_of_clients(self) -> None:
        """What a connection was opened with counts no more, nor does a token that was got by it."""
        ours, other = (Authority(str(self.directory / name)) for name in ("ours", "other"))
        access = '[users.ci]\ncertificates = ["runner one"]\n[groups.acme]\nmembers = { ci = "guest" }\n'
        self.configure(f'retries = 0\n[server]\nclient_ca = "{ours.file}"\n{access}')
        await self.start((*LISTEN, f"ssl:0:{ours.issue().listener}:interface=127.0.0.1"))
        runner = ours.issue("runner", "runner one", (), use=CLIENT).client()
        port = int(self.listening[1].rpartition(":")[2])
        client = await self.tls_client(port, ours.trust, certificate=runner)
        client.ask("/jwt/auth?service=dependency_proxy")
        token = json.loads((await client.answer()).body)["token"]

        async def pull(**headers: str) -> str:
            client.ask("/v2/acme/dependency_proxy/containers/app/manifests/1", **headers)
            return (await client.answer()).error

        by_token = {"Authorization": f"Bearer {token}"}
        # Let in, and nothing is there.
        assert (await pull(), await pull(**by_token)) == ("UNAVAILABLE", "UNAVAILABLE")
        await self.reload(f'retries = 0\n[server]\nclient_ca = "{ours.file}"\n{access}')
        assert (await pull(), await pull(**by_token)) == ("UNAVAILABLE", "UNAVAILABLE")
        await self.reload(f'retries = 0\n[server]\nclient_ca = "{other.file}"\n{access}')
        assert (await pull(), await pull(**by_token)) == ("UNAUTHORIZED", "UNAUTHORIZED")

    async def test_who_was_taken_out_with_a_file_does_not_come_back_with_a_wrong_one(self) -> None:
        files = [self.directory / name for name in ("first", "second")]
        files[0].write_text(f"mallory:{bcrypt.hashpw(b'password', bcrypt.gensalt(4)).decode()}\n")
        files[1].write_text("no line of an htpasswd file\n")
        self.configure(f'[access]\nhtpasswd = "{files[0]}"\n')
        await self.start()
        await self.reload("")
        await self.reload(f'[access]\nhtpasswd = "{files[1]}"\n')
        assert self.has_logged(f"configuration not reloaded, the old one stays: {files[1]}: line 1")
        client = await self.client(self.port)
        client.ask("/jwt/auth", Authorization=f"Basic {b64encode(b'mallory:password').decode()}")
        assert (await client.answer()).status == 401

    async def test_who_stands_in_the_configuration_has_no_password_elsewhere(self) -> None:
        """Or `password_login = false` would mean little."""
        htpasswd = self.directory / "htpasswd"
        hashed = bcrypt.hashpw(b"password", bcrypt.gensalt(4)).decode()
        htpasswd.write_text(f"alice:{hashed}\nhank:{hashed}\n")
        self.configure(
            f'[access]\nhtpasswd = "{htpasswd}"\n[users.alice]\npassword_login = false\n'
            '[groups.acme]\nmembers = { alice = "guest", hank = "guest" }\n'
        )
        await self.start()
        client = await self.client(self.port)
        for name, status in (("alice", 401), ("hank", 200)):
            basic = b64encode(f"{name}:password".encode()).decode()
            client.ask("/jwt/auth", Authorization=f"Basic {basic}")
            assert (await client.answer()).status == status
        assert self.has_logged("alice cannot log in by this file")

    async def test_a_defect_does_not_end_it(self) -> None:
        self.configure()
        await self.start()

        def broken() -> Settings:
            raise ZeroDivisionError("a defect")

        self.service._load = broken
        self.hang_up()
        await until(lambda: self.has_logged("the old one stays"))
        assert self.failures(ZeroDivisionError) == 1
        assert (await self.get("/v2/")).status == 200


class Stopping(ServiceTestCase):
    SIZE = 3_000_000

    async def pull(self, text: str = "") -> tuple[Client, bytes, Call]:
        """A client in the middle of a blob, and upstream's request, which waits for its second half."""
        registry = self.registry()
        layer = os.urandom(self.SIZE)
        digest = registry.put_blob(layer)
        calls: list[Call] = []

        def half(call: Call) -> object:
            if call.seen.method == "HEAD":
                return call.answer(200, layer)
            calls.append(call)
            done = call.begin(200, length=len(layer))
            call.request.write(layer[: self.SIZE // 2])
            return done

        registry.paths[f"/v2/team/app/blobs/{digest}"] = half
        self.configure(text, registry.url)
        await self.start()
        client = await self.client(self.port)
        client.ask(f"/v2/team/app/blobs/{digest}")
        await client.enough(self.SIZE // 2)
        return client, layer, calls[0]

    async def test_a_blob_under_way_may_end(self) -> None:
        client, layer, call = await self.pull()
        stopped = self.service.stopService()
        assert stopped is not None
        await until(lambda: not self.listens())
        assert not stopped.called
        call.request.write(layer[self.SIZE // 2 :])
        call.request.finish()
        assert (await client.answer()).body == layer
        await stopped
        assert await client.end()
        assert self.has_logged("depproxy has stopped")
        # It was stored on the way out.
        digest = Digest.of(layer)
        assert len(list(self.data.rglob(digest.encoded))) == 1

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    async def test_a_blob_that_takes_too_long_is_cut(self) -> None:
        client, layer, _ = await self.pull('[server]\ndrain_timeout = "0s"\n')
        await self.service.stopService()
        assert not await client.end()
        assert client.received < len(layer)
        assert self.has_logged("requests are cut off")

    async def test_nothing_is_left(self) -> None:
        """And it may be had again. The first time the reactor itself opens some files, for good."""
        self.configure()
        await self.start()
        await self.service.stopService()
        before = open_files()
        self.logged.clear()
        self.listening.clear()
        await self.start()
        await self.get("/v2/team/app/manifests/1")
        await self.service.stopService()
        await until(lambda: open_files() <= before)

    async def test_while_it_starts(self) -> None:
        """That is no failure, and nothing is begun any more."""
        self.configure()
        service = self.make()
        service.startService()
        await service.stopService()
        assert self.fatal == []
        assert self.listening == []
        assert not self.has_logged("is ready: http")


class Notifying(ServiceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.supervisor.close)
        self.supervisor.bind(str(self.data / "notify"))
        self.supervisor.setblocking(False)
        self.environ["NOTIFY_SOCKET"] = str(self.data / "notify")

    def told(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.supervisor.recv(4096).decode())
            except BlockingIOError:
                return found

    async def test_start_reload_stop(self) -> None:
        self.configure()
        await self.start()
        assert self.told() == ["READY=1"]
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        for text in ("", "[nonsense]\n"):
            self.configure(text)
            self.hang_up()
            await until(lambda: any("reloaded" in line for line in self.logged))
            self.logged.clear()
            reloading, ready = self.told()
            assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert ready == "READY=1"
        await self.service.stopService()
        assert self.told() == ["STOPPING=1"]

    async def test_no_ready_before_it_listens(self) -> None:
        """Whatever signal comes meanwhile."""
        self.configure()
        # The reactor runs from here on, and the signal is handled.
        await deferLater(REACTOR, 0)
        self.make().startService()
        self.hang_up()
        await until(lambda: self.has_logged("is ready: http"))
        assert self.told() == ["READY=1"]
        assert self.listening

    async def test_no_ready_when_it_cannot_start(self) -> None:
        self.configure()
        (self.data / "blobs").write_text("a file where a directory should be")
        self.make().startService()
        assert len(self.fatal) == 1
        assert self.told() == []

    async def test_an_abstract_socket(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.bind(f"\0{self.data}")
            supervisor.settimeout(5)
            self.environ["NOTIFY_SOCKET"] = f"@{self.data}"
            self.configure()
            await self.start()
            assert supervisor.recv(100) == b"READY=1"
            await self.service.stopService()
            assert supervisor.recv(100) == b"STOPPING=1"

    async def test_a_supervisor_that_is_gone(self) -> None:
        """It is served on, and stopped in order."""
        self.environ["NOTIFY_SOCKET"] = str(self.data / "gone")
        self.configure()
        await self.start()
        assert (await self.get("/v2/")).status == 200
        self.hang_up()
        await until(lambda: self.has_logged("configuration reloaded"))
        await self.service.stopService()
        assert self.has_logged("depproxy has stopped")


# with_backlog


def open_files() -> set[str]:
    """What this process has open."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        # The descriptor that listdir used is gone.
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{entry}"))
    return found


def endpoint_strings() -> st.SearchStrategy[str]:
    """Listen strings that the configuration takes, but for ssl, which needs files."""
    backlog = st.none() | st.integers(1, 9999)
    interface = st.none() | st.sampled_from(["127.0.0.1", "\\:\\:1", "0.0.0.0", ""])
    path = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=30)

    def option(name: str, value: object) -> str:
        return "" if value is None else f":{name}={value}"

    def escaped(text: str) -> str:
        return "".join(f"\\{letter}" if letter in "\\:=" else letter for letter in text)

    tcp = st.builds(
        lambda port, at, size: f"tcp:{port}{option('interface', at)}{option('backlog', size)}",
        st.integers(0, 65535),
        interface,
        backlog,
    )
    unix = st.builds(
        lambda at, mode, size: f"unix:{escaped(at)}{option('mode', mode)}{option('backlog', size)}",
        path | st.just("/run/x:backlog=5") | st.just("a\\"),
        st.none() | st.just("660"),
        backlog,
    )
    return tcp | unix


def backlog_of(description: str) -> tuple[int, str]:
    """What Twisted makes of an endpoint string: the backlog, and where it listens."""
    memory: Any = MemoryReactor()
    serverFromString(memory, description).listen(None)
    if memory.tcpServers:
        port, _, backlog, interface = memory.tcpServers[0]
        return backlog, f"{port} {interface}"
    path, _, backlog, mode, _ = memory.unixServers[0]
    return backlog, f"{path} {mode}"


@given(endpoint_strings())
def test_every_listener_has_a_backlog(description: str) -> None:
    """Ours, or the one that was asked for; and nothing else is changed."""
    backlog, place = backlog_of(with_backlog(description))
    original, same = backlog_of(description)
    assert place == same
    assert backlog == (original if original != 50 or description.endswith(":backlog=50") else BACKLOG)


@pytest.mark.parametrize(
    "description",
    ["systemd:domain=INET:index=0", "systemd:domain=UNIX:name=web", "tcp:80:backlog=7", "unix:/a:backlog=7"],
)
def test_what_has_one_is_left_alone(description: str) -> None:
    assert with_backlog(description) == description


def test_tls_has_a_backlog() -> None:
    # In a file's name it is no option.
    for key in ("/k.pem", "/k\\:backlog=5.pem"):
        description = f"ssl:443:privateKey={key}:certKey=/c.pem"
        assert with_backlog(description) == f"{description}:backlog={BACKLOG}"


def test_a_configuration_error_is_what_a_reload_expects(tmp_path: Path) -> None:
    """`load` as the service uses it: nothing else comes out of a wrong file."""
    file = tmp_path / "c.toml"
    environ: Mapping[str, str] = {"STATE_DIRECTORY": "/var/lib/depproxy"}
    for text in ("[", "a = 1", "[mirror]\nanonymous = 5", "\0", "[groups]\nacme = 1", "x = " + "[" * 5000):
        file.write_text(text)
        with pytest.raises(ConfigError):
            load(file, environ=environ)

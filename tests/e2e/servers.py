"""The servers of the end-to-end tests: the registry, the Hub double before it, depproxy itself."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.e2e import images, wire
from tests.e2e.processes import Process, answers, free_port, program, wait_until

ROOT = Path(__file__).parents[2]
REGISTRY_CONFIG = """\
version: 0.1
log: {{level: info}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:0"}}
{auth}
"""


class Registry:
    """Debian's docker-registry over ``directory``; ``htpasswd`` is a file that makes it ask for Basic."""

    def __init__(self, directory: Path, htpasswd: Path | None = None, storage: Path | None = None) -> None:
        directory.mkdir()
        self.storage = storage or directory / "storage"
        auth = "" if htpasswd is None else f"auth: {{htpasswd: {{realm: double, path: {htpasswd}}}}}"
        config = directory / "config.yml"
        config.write_text(REGISTRY_CONFIG.format(storage=self.storage, auth=auth))
        argv = [program("docker-registry"), "serve", str(config)]
        self.process = Process("docker-registry", argv, directory / "log")
        pattern = re.compile(r"listening on (127\.0\.0\.1:\d+)")
        found = self.process.wait_for(lambda: pattern.search(self.process.log), "its port")
        self.host = found[1]
        self.url = f"http://{self.host}"
        self.process.wait_for(lambda: answers(f"{self.url}/v2/", 401 if htpasswd else 200), "/v2/")

    def push(self, repository: str, manifest: images.Manifest, tag: str | None = None) -> images.Manifest:
        """Put an image there; returns it for brevity."""
        images.push(self.url, repository, manifest, tag)
        return manifest

    def stop(self) -> None:
        self.process.stop()


class Hub:
    """The Hub double and the way to tell it things."""

    def __init__(self, directory: Path, registry: Registry, *options: str) -> None:
        directory.mkdir()
        argv = [sys.executable, "-m", "tests.e2e.hub", "--registry", registry.url]
        argv += ["--storage", str(registry.storage), *options]
        self.process = Process("hub", argv, directory / "log", {"PYTHONPATH": str(ROOT)})
        pattern = re.compile(r"^\{.*\}$", re.MULTILINE)
        line = self.process.wait_for(lambda: pattern.search(self.process.log), "its ports")[0]
        urls = json.loads(line)
        self.url: str = urls["registry"]
        self.cdn: str = urls["cdn"]
        self._control: str = urls["control"]
        self.host = self.url.removeprefix("http://")

    def _post(self, path: str, document: Any = None) -> Any:
        body = b"" if document is None else json.dumps(document).encode()
        answer = wire.fetch(f"{self._control}{path}", "POST", body=body)
        assert answer.status == 200, answer.body
        return answer.document

    def fault(self, kind: str, **fault: Any) -> None:
        """Tell the double to misbehave; the words are those of ``hubstate.Fault``."""
        self._post("/faults", {"kind": kind, **fault})

    def release(self) -> int:
        """Open the gates; returns the number of bodies that had been held."""
        released: int = self._post("/release")["released"]
        return released

    def reset(self) -> None:
        """Forget requests, faults, tokens, and the rate limit's state."""
        self._post("/reset")

    def forget_tokens(self) -> None:
        """No token issued so far is good any more."""
        self._post("/forget-tokens")

    def down(self) -> None:
        """Drop each connection that brings a request, until ``reset``."""
        for kind in ("ping", "token", "manifest", "blob", "document", "cdn"):
            self.fault(kind, drop=True)

    def requests(self) -> list[dict[str, Any]]:
        """All requests since the last reset, oldest first, as ``hubstate.Seen`` has them."""
        seen: list[dict[str, Any]] = wire.fetch(f"{self._control}/requests").document
        return seen

    def counts(self) -> Counter[str]:
        """The number of requests by ``METHOD kind``; those answered 401 are counted as ``challenge``.

        A registry charges nothing for a challenge, and a client may get one or none before its first token.
        """
        return Counter(
            "challenge" if seen["status"] == 401 else f"{seen['method']} {seen['kind']}" for seen in self.requests()
        )

    def cost(self) -> dict[str, int]:
        """The counts without challenges and tokens: what the pull cost in manifests and blobs."""
        counts = self.counts()
        return {what: n for what, n in counts.items() if what not in ("challenge", "GET token", "GET ping")}

    def stop(self) -> None:
        self.process.stop()


@frozen
class Sample:
    """One line of a Prometheus text exposition."""

    name: str
    labels: Mapping[str, str]
    value: float


class Proxy:
    """depproxy by twistd on a data directory of its own. Config text is TOML; the listener is added to it.

    ``server`` goes into the table of that name, ``listen`` is one more endpoint string.
    """

    def __init__(self, directory: Path, config: str = "", *, server: str = "", listen: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self._config = directory / "depproxy.toml"
        self._listen = [f"tcp:{self.port}:interface=127.0.0.1", *([listen] if listen else [])]
        self.configure(config, server=server)
        self.process = self._start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def configure(self, config: str, *, server: str = "") -> None:
        """Write the configuration for the next start; ``server`` goes into the table of that name."""
        listen = f"[server]\nlisten = {self._listen}\n{server}\n"
        self._config.write_text(f'{listen}[storage]\npath = "{self.data}"\n{config}')

    def _start(self) -> Process:
        twistd = Path(sys.executable).with_name("twistd")
        argv = [str(twistd), "--nodaemon", "--pidfile=", "depproxy", "--config", str(self._config)]
        environment = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::RuntimeWarning"}
        process = Process("depproxy", argv, self.directory / "log", environment)
        process.wait_for(lambda: answers(f"{self.url}/readyz"), "/readyz")
        return process

    @property
    def log(self) -> str:
        return self.process.log

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return self.process.stop()

    def terminate(self) -> None:
        """SIGTERM, without waiting for the end."""
        self.process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Like a power cut, for the process and its private redis-server."""
        self.process.kill()

    def restart(self) -> None:
        """Stop if it runs, and start on the same data, port and configuration file."""
        self.process.stop()
        self.process = self._start()

    def repository(self, name: str) -> str:
        """The base URL of a repository in the mirror layout."""
        return f"{self.url}/v2/{name}"

    def group(self, name: str, group: str = "local") -> str:
        """The base URL of a repository in GitLab's layout."""
        return f"{self.url}/v2/{group}/dependency_proxy/containers/{name}"

    def samples(self) -> list[Sample]:
        """All that /metrics says."""
        text = wire.fetch(f"{self.url}/metrics").body.decode()
        pattern = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
        pair = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
        return [
            Sample(name, dict(pair.findall(labels or "")), float(value))
            for name, labels, value in pattern.findall(text)
        ]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that carry these labels."""
        return sum(
            sample.value for sample in self.samples() if sample.name == name and labels.items() <= sample.labels.items()
        )

    def idle(self) -> None:
        """Wait until no fill is under way."""
        wait_until(lambda: self.metric("depproxy_fills_active") == 0, "no fill under way")

    def resident(self) -> int:
        """Bytes of memory that the process holds (VmRSS)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def redis_pid(self) -> int | None:
        """The id of the private redis-server."""
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                text = status.read_text()
                if text.startswith("Name:\tredis-server") and f"PPid:\t{self.process.pid}\n" in text:
                    return int(status.parent.name)
        return None

"""The house of one run: source registry, front, and the three caches, each with its configuration."""

import collections
import hashlib
import os
import re
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from .figures import NGINX, REGISTRY, US
from .plan import BenchError, Plan
from .process import Server, free_port
from .source import CROWD_REPOSITORY, FRESH_TAG

PROJECT = Path(__file__).resolve().parent.parent

_REGISTRY = """\
version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: {storage}
http:
  addr: 127.0.0.1:{port}
  secret: benchmark
"""

_NGINX = """\
{user}
daemon off;
worker_processes {workers};
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
  sendfile on;
  tcp_nopush on;
  keepalive_requests 10000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  upstream above {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 10000000; }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $http_host;
  proxy_read_timeout 600s;
{http}
}}
"""

# The status page counts the requests that are not over yet, and their log lines come before that changes.
_FRONT = """
  map $uri $rate {{ default {rate}; ~^/v2/{crowd}/ {crowd_rate}; }}
  log_format counted "$request_method $status $uri";
  access_log {folder}/access.log counted;
  proxy_buffers 16 128k;
  proxy_buffer_size 64k;
  proxy_busy_buffers_size 512k;
  proxy_max_temp_file_size 0;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    limit_rate $rate;
    location / {{ proxy_pass http://above; }}
    location = /front-status {{ access_log off; stub_status; }}
  }}
"""

_CACHE = """
  access_log off;
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=blobs:16m max_size=20g inactive=1h use_temp_path=off;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /ready {{ return 200; }}
    location / {{
      proxy_pass http://above;
      proxy_cache blobs;
      proxy_cache_key $request_uri;
      proxy_cache_valid 200 1h;
      proxy_cache_lock on;
      proxy_cache_lock_timeout 600s;
      proxy_cache_lock_age 600s;
    }}
  }}
"""

_DEPPROXY = """\
[server]
listen = ["tcp:{port}:interface=127.0.0.1"]
[storage]
path = "{folder}/data"
max_size = "{max_size}"
[upstreams."docker.io"]
url = "http://127.0.0.1:{upstream}"
freshness = {{ "{fresh}" = "1h" }}
[groups.{group}.deploy_tokens.bench]
username = "{user}"
hash = "sha256:{hash}"
{more}
"""
CONFIG = "depproxy.toml"
# A group that only an account may pull from.
GROUP = "bench"
ACCOUNT = "bench-runner", "no secret: this server listens on loopback, and for minutes"


def _registry(name: str, program: str, folder: Path, remote: str = "") -> Server:
    folder.mkdir()
    port = free_port()
    config = folder / "config.yml"
    config.write_text(_REGISTRY.format(storage=folder / "storage", port=port))
    environ = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
    if remote:
        environ["REGISTRY_PROXY_REMOTEURL"] = remote
    command = [program, "serve", str(config)]
    return Server(name, command, port=port, ready="/v2/", log=folder / "log", environ=environ)


def _nginx(name: str, program: str, folder: Path, *, ready: str, **values: object) -> Server:
    folder.mkdir()
    port = free_port()
    # Started by root, nginx would change to a user who cannot read our folder.
    user = "user root;" if os.geteuid() == 0 else ""
    values |= {"folder": folder, "port": port}
    http = str(values.pop("http")).format(**values)
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(user=user, http=http, **values))
    command = [program, "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(config)]
    return Server(name, command, port=port, ready=ready, log=folder / "log")


class Front:
    """nginx before the source registry: caps each connection's rate, counts the requests."""

    _STATUS = "/front-status"

    def __init__(self, program: str, folder: Path, source: Server, plan: Plan) -> None:
        self.server = _nginx(
            "front",
            program,
            folder,
            ready=self._STATUS,
            http=_FRONT,
            workers=1,
            upstream=source.port,
            rate=plan.rate,
            crowd=CROWD_REPOSITORY,
            crowd_rate=plan.crowd_rate,
        )
        self._log = folder / "access.log"

    def mark(self) -> int:
        """The place in the log where what comes next is counted from."""
        self._settle()
        return self._log.stat().st_size

    def since(self, mark: int, path: str = "") -> Mapping[str, int]:
        """How many HEADs and GETs the source has had since the mark, of this path or of all."""
        self._settle()
        with self._log.open("rb") as log:
            log.seek(mark)
            lines = log.read().decode().splitlines()
        seen = (line.split(" ", 2) for line in lines)
        return collections.Counter(method for method, _, uri in seen if path in ("", uri))

    def _settle(self) -> None:
        """Return when no request is under way but the look itself; BenchError after a minute."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with urllib.request.urlopen(self.server.base + self._STATUS, timeout=10) as response:
                text = response.read().decode()
            busy = re.search(r"Reading: (\d+) Writing: (\d+)", text)
            if busy and int(busy[1]) == 0 and int(busy[2]) <= 1:
                return
            time.sleep(0.02)
        raise BenchError("the front still has requests under way")


class House:
    """Source and front, and caches before them; each start is a fresh and empty cache."""

    def __init__(self, programs: Mapping[str, str], folder: Path, plan: Plan) -> None:
        self._programs = programs
        self._folder = folder
        self._starts = 0
        self._running: list[Server] = []
        self.source = self._keep(_registry("source", programs["docker-registry"], folder / "source"))
        self.front = Front(programs["nginx"], folder / "front", self.source, plan)
        self._keep(self.front.server)

    def folder(self) -> Path:
        """Where the next server may keep what it has."""
        self._starts += 1
        return self._folder / f"{US}-{self._starts}"

    def _keep(self, server: Server) -> Server:
        self._running.append(server)
        return server

    def start(self, name: str) -> Server:
        """Start the cache of that name with nothing in it."""
        self._starts += 1
        folder = self._folder / f"{name}-{self._starts}"
        front = self.front.server
        if name == REGISTRY:
            return self._keep(_registry(name, self._programs["docker-registry"], folder, front.base))
        if name == NGINX:
            # As Debian ships it: one worker for each core.
            return self._keep(
                _nginx(
                    name,
                    self._programs["nginx"],
                    folder,
                    ready="/ready",
                    http=_CACHE,
                    workers="auto",
                    upstream=front.port,
                )
            )
        if name == US:
            return self._keep(self._depproxy(folder))
        raise ValueError(name)

    def _depproxy(self, folder: Path) -> Server:
        folder.mkdir()
        return self.restarted(folder)

    def restarted(self, folder: Path, more: str = "") -> Server:
        """A depproxy on what another one has left in its folder; `more` is appended to its configuration. It is not
        kept: who starts it stops it."""
        port = free_port()
        self.configure(folder, port, more=more)
        twistd = Path(sys.executable).with_name("twistd")
        command = [str(twistd), "--nodaemon", "--pidfile=", "depproxy", "--config", str(folder / CONFIG)]
        python_path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
        return Server(
            US,
            command,
            port=port,
            ready="/readyz",
            log=folder / "log",
            cwd=folder,
            environ={**os.environ, "PYTHONPATH": python_path},
        )

    def configure(self, folder: Path, port: int, max_size: str = "unlimited", more: str = "") -> None:
        """Write the configuration of the depproxy in this folder."""
        user, password = ACCOUNT
        text = _DEPPROXY.format(
            port=port,
            folder=folder,
            max_size=max_size,
            upstream=self.front.server.port,
            fresh=FRESH_TAG,
            group=GROUP,
            user=user,
            hash=hashlib.sha256(password.encode()).hexdigest(),
            more=more,
        )
        (folder / CONFIG).write_text(text)

    def end(self, server: Server) -> None:
        """Stop one cache."""
        self._running.remove(server)
        server.stop()

    def close(self) -> None:
        """Stop everything, the last started first."""
        while self._running:
            self._running.pop().stop()

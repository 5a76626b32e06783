"""The configuration: what a file, the command line and the environment mean."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import get_args

import pytest
from attrs import NOTHING, fields
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from depproxy.config import (
    AccessSettings,
    CacheSettings,
    ConfigError,
    DeployTokenSettings,
    GroupSettings,
    GroupTokenSettings,
    IndexSettings,
    MirrorSettings,
    Role,
    Schedule,
    ServerSettings,
    Settings,
    StorageSettings,
    TokenSettings,
    UpstreamSettings,
    UserSettings,
    WarmSettings,
    format_duration,
    format_size,
    load,
)
from depproxy.config.keys import readers
from depproxy.config.settings import OnMissing
from depproxy.oci.platform import Platform
from tests import configurations
from tests.configurations import HOME, HUB, LOOPBACK, load_text, to_toml

ROOT = Path(__file__).parent.parent


def test_no_file_is_a_mirror_of_docker_hub_on_loopback() -> None:
    assert load(None, environ=HOME) == Settings(
        server=ServerSettings(
            listen=("tcp:5000:interface=127.0.0.1",),
            public_url="http://127.0.0.1:5000",
            drain_timeout=30,
            stall_timeout=60,
            max_connections=10_000,
            trusted_proxies=(),
            client_ca=None,
            metrics=LOOPBACK,
            admin_socket=Path("/home/ci/.local/state/depproxy/admin.sock"),
        ),
        storage=StorageSettings(Path("/home/ci/.local/state/depproxy"), max_size=50 * 1024**3),
        index=IndexSettings("embedded"),
        cache=CacheSettings(serve_stale=604800, revalidate_timeout=3, negative_ttl=30, documents_ttl=30),
        upstreams={
            "docker.io": UpstreamSettings(
                name="docker.io",
                url="https://registry-1.docker.io",
                token_hosts=("auth.docker.io",),
                max_connections=64,
                on_404="follow",
                connect_timeout=10,
                first_byte_timeout=30,
                silence_timeout=60,
                retries=3,
            )
        },
        mirror=MirrorSettings("local", "docker.io", LOOPBACK, unix_sockets=False),
        groups={"local": GroupSettings("local", enabled=True, ttl=None, quota=None, anonymous=(), members={})},
        access=AccessSettings(
            token_lifetime=900,
            refresh_lifetime=0,
            algorithm="HS256",
            require_write_registry=False,
            guesses_per_account=10,
            guesses_per_address=30,
            htpasswd=None,
            gitlab=None,
            oidc=(),
        ),
        users={},
    )


@given(st.data())
def test_any_correct_file_loads_to_what_is_written(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        document, expected = data.draw(configurations.settings(Path(directory)))
        path = Path(directory, "depproxy.toml")
        path.write_text(to_toml(document), encoding="utf-8", newline="")
        found = load(path, environ={})
        assert found == expected
        for name, upstream in expected.upstreams.items():
            assert found.upstreams[name].freshness == upstream.freshness


def test_byte_order_mark_and_windows_line_ends_are_no_mistakes() -> None:
    assert load_text('\ufeff[index]\r\nurl = "redis://h"\r\n').index.url == "redis://h"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/depproxy", "XDG_STATE_HOME": "/s", **HOME}, "/var/lib/depproxy"),
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/s", **HOME}, "/s/depproxy"),
        ({"XDG_STATE_HOME": "relative", **HOME}, "/home/ci/.local/state/depproxy"),
        (HOME, "/home/ci/.local/state/depproxy"),
    ],
)
def test_data_goes_where_the_environment_says(environ: Mapping[str, str], expected: str) -> None:
    assert load(None, environ=environ).storage.path == Path(expected)


def test_without_a_home_the_data_goes_to_the_users_own() -> None:
    assert load(None, environ={}).storage.path.parts[-3:] == (".local", "state", "depproxy")


@pytest.mark.parametrize("environ", [{"STATE_DIRECTORY": "lib"}, {"HOME": "ci"}])
def test_relative_directories_in_the_environment_are_refused(environ: Mapping[str, str]) -> None:
    with pytest.raises(ConfigError, match=rf"^environment: {next(iter(environ))} = .* absolute path"):
        load(None, environ=environ)


def test_the_command_line_wins(tmp_path: Path) -> None:
    found = load_text(
        'server.listen = ["tcp:1"]\nstorage.path = "/a"\n[upstreams."ghcr.io"]\nurl = "http://a"\nretries = 7',
        listen=["tcp:2:interface=127.0.0.1", r"tcp:2:interface=\:\:1"],
        data=tmp_path,
        upstreams={"ghcr.io": "http://b/", "quay.io": "http://c"},
    )
    assert found.server.listen == ("tcp:2:interface=127.0.0.1", r"tcp:2:interface=\:\:1")
    assert found.server.public_url == "http://127.0.0.1:2"
    assert found.storage.path == tmp_path
    assert found.upstreams["ghcr.io"] == UpstreamSettings("ghcr.io", "http://b", retries=7)
    assert found.upstreams["quay.io"] == UpstreamSettings("quay.io", "http://c")
    assert found.upstreams["docker.io"] == HUB


def test_a_hub_elsewhere_sends_no_password_to_docker() -> None:
    found = load(None, upstreams={"docker.io": "http://127.0.0.1:7000"}, environ=HOME)
    assert found.upstreams["docker.io"].token_hosts == ()


def test_relative_data_starts_at_the_working_directory() -> None:
    assert load(None, data=Path("x"), environ={}).storage.path == Path(os.path.abspath("x"))


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("tcp:80:interface=192.0.2.1", "http://192.0.2.1:80"),
        (r"tcp:5000:interface=\:\:1", "http://[::1]:5000"),
        ("tcp:0:interface=127.0.0.1", "http://127.0.0.1"),
        ("unix:/run/x.sock", "http://localhost"),
    ],
)
def test_public_url_is_the_first_listener(listen: str, expected: str) -> None:
    assert load(None, listen=["systemd:domain=INET:name=web", listen], environ=HOME).server.public_url == expected


def test_public_url_of_a_tls_listener_is_https(tmp_path: Path) -> None:
    pem = tmp_path / "key.pem"
    pem.touch()
    found = load(None, listen=[f"ssl:5443:privateKey={pem}:certKey={pem}:interface=127.0.0.1"], environ=HOME)
    assert found.server.public_url == "https://127.0.0.1:5443"


def test_public_url_of_all_interfaces_has_a_host_name() -> None:
    assert re.fullmatch(r"http://[^/:]+:5000", load(None, listen=["tcp:5000"], environ=HOME).server.public_url)


def test_accounts() -> None:
    hashed = "sha256:" + "0" * 63
    found = load_text(
        f"""
        [users.alice]
        password = "$scrypt$ln=15,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        certificates = ["runner.example"]
        [users.alice.tokens.laptop]
        hash = "{hashed}1"
        expires = 2027-01-31
        [users."bob@example.org"]
        password_login = false
        tokens = {{ phone = {{ hash = "{hashed}2", scopes = ["api"], expires = 2027-01-31T12:00:00+01:00 }} }}
        [groups."Acme/Tools"]
        members = {{ alice = "owner", "bob@example.org" = "guest" }}
        [groups."Acme/Tools".deploy_tokens.ci]
        hash = "{hashed}3"
        username = "ci"
        [groups."Acme/Tools".access_tokens.scanner]
        hash = "{hashed}4"
        role = "developer"
        """
    )
    midnight = 1_801_353_600  # `date -ud 2027-01-31 +%s`
    assert found.users["alice"].tokens == {
        "laptop": TokenSettings("laptop", hashed + "1", ("read_registry",), midnight)
    }
    assert found.users["alice"].certificates == ("runner.example",)
    assert found.users["bob@example.org"] == UserSettings(
        "bob@example.org",
        password_login=False,
        tokens={"phone": TokenSettings("phone", hashed + "2", ("api",), midnight + 11 * 3600)},
    )
    group = found.groups["acme/tools"]
    assert group.members == {"alice": Role.OWNER, "bob@example.org": Role.GUEST}
    assert group.deploy_tokens == {"ci": DeployTokenSettings("ci", hashed + "3", username="ci")}
    assert group.access_tokens == {"scanner": GroupTokenSettings("scanner", hashed + "4", role=Role.DEVELOPER)}
    assert "sha256" not in repr(found)
    assert "scrypt" not in repr(found)


def test_users_may_be_in_an_htpasswd_file(tmp_path: Path) -> None:
    (tmp_path / "htpasswd").touch()
    found = load_text(f'access.htpasswd = "{tmp_path}/htpasswd"\ngroups.acme.members = {{ carol = "guest" }}')
    assert found.groups["acme"].members == {"carol": Role.GUEST}
    assert found.access.htpasswd == tmp_path / "htpasswd"


def test_proxies_and_client_certificates(tmp_path: Path, certificate: bytes) -> None:
    (tmp_path / "ca.pem").write_bytes(certificate)
    found = load_text(f'[server]\ntrusted_proxies = ["10.0.0.1"]\nclient_ca = "{tmp_path}/ca.pem"').server
    assert (found.trusted_proxies, found.client_ca) == ((ip_network("10.0.0.1/32"),), tmp_path / "ca.pem")


def test_lists_of_images() -> None:
    here, arm = Platform.of("linux", os.uname().machine), Platform("linux", "arm", "v7")
    found = load_text(
        '[mirror]\ngroup = "Runners"\n[upstreams."ghcr.io"]\n'
        '[[warm]]\nimages = ["alpine", "ghcr.io/org/app:1"]\nschedule = "0 4 * * *"\n'
        '[[warm]]\nimages = ["alpine"]\nschedule = "0 5 * * SUN"\ngroup = "Acme"\nplatforms = ["linux/arm", "all"]\n'
        '[[warm]]\nimages = ["alpine"]\nschedule = "0 6 * * *"\nplatforms = ["linux/arm"]\n'
    )
    assert found.warm == (
        WarmSettings(("alpine", "ghcr.io/org/app:1"), Schedule("0 4 * * *"), "runners", frozenset({here})),
        WarmSettings(("alpine",), Schedule("0 5 * * SUN"), "acme", None),
        WarmSettings(("alpine",), Schedule("0 6 * * *"), "runners", frozenset({arm})),
    )


def test_upstream_knows_its_host_and_its_first_matching_freshness() -> None:
    upstream = UpstreamSettings(
        "x.io", "https://x.io:5000/path", freshness=(("v1.*", math.inf), ("v*", 60.0), ("[ab]?", 5.0))
    )
    assert upstream.host == "x.io:5000"
    ages = [upstream.freshness_of(tag) for tag in ("v1.2", "v2", "b1", "V2", "c1", "")]
    assert ages == [math.inf, 60, 5, 0, 0, 0]


def test_files_are_found_beside_the_configuration(tmp_path: Path, certificate: bytes) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    (tmp_path / "ca.pem").write_bytes(certificate)
    path = tmp_path / "depproxy.toml"
    path.write_text('upstreams."x.io" = { username = "ci", password_file = "token", ca_file = "ca.pem" }')
    found = load(path, environ=HOME).upstreams["x.io"]
    assert (found.username, found.password_file, found.ca_file) == (
        "ci",
        tmp_path / "token",
        tmp_path / "ca.pem",
    )


@pytest.fixture(scope="module")
def certificate() -> bytes:
    """A self-signed certificate in PEM form."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    start = datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=36500))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_the_example_for_runner_hosts_loads() -> None:
    found = load(ROOT / "systemd" / "depproxy.toml", environ={"STATE_DIRECTORY": "/var/lib/depproxy"})
    assert found.storage.path == Path("/var/lib/depproxy")
    assert found.upstreams["docker.io"] == HUB
    assert found.mirror == MirrorSettings()


def _documented() -> dict[str, str]:
    """The reference's text of each key, by table and key."""
    found = {}
    text = (ROOT / "docs" / "configuration.rst").read_text()
    for table, section in re.findall(r"\n``\[([^\n]+)\]``\n-+\n(.*?)(?=\n``\[[^\n]+\]``\n-|\Z)", text, re.DOTALL):
        for keys, body in re.findall(r"(?m)^(``[^\n]+)\n((?:    [^\n]*\n|\n)+)", section):
            found.update({f"{table}.{key}": body for key in re.findall(r"``(\w+)``", keys)})
    return found


TABLES = {
    "server": ServerSettings,
    "storage": StorageSettings,
    "index": IndexSettings,
    "cache": CacheSettings,
    'upstreams."NAME"': UpstreamSettings,
    "mirror": MirrorSettings,
    "access": AccessSettings,
    "users.NAME": UserSettings,
    "users.NAME.tokens.NAME": TokenSettings,
    'groups."PATH"': GroupSettings,
    'groups."PATH".deploy_tokens.NAME': DeployTokenSettings,
    'groups."PATH".access_tokens.NAME': GroupTokenSettings,
    "[warm]": WarmSettings,
}
# These tables are on pages of their own.
ELSEWHERE = {"access.gitlab", "access.oidc"}


def test_every_key_and_its_default_is_in_the_reference() -> None:
    documented = _documented()
    keys = set()
    for table, settings in TABLES.items():
        # What the tokens of groups have in common with those of users is said there.
        common = readers(TokenSettings) if settings in (DeployTokenSettings, GroupTokenSettings) else {}
        keys |= {f"{table}.{key}" for key in readers(settings) if key not in common}
    assert documented.keys() == keys - ELSEWHERE
    for table, settings in TABLES.items():
        for field in fields(settings):
            key = f"{table}.{field.name}"
            if key not in documented or key == "server.public_url" or field.default in (NOTHING, None, ""):
                continue
            size = field.name == "max_size"
            written = f'"{format_size(field.default)}"' if size else _written(field.name, field.default)
            assert not written or f"``{written}``" in documented[key], key


def _written(name: str, default: object) -> str:
    """A default as the reference writes it; empty for tables with a section of their own."""
    if isinstance(default, Role):
        return f'"{default.name.lower()}"'
    if isinstance(default, float):
        return '"60s"' if default == 60 else f'"{format_duration(default)}"'
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "{}" if name == "freshness" else "[" + ", ".join(f'"{item}"' for item in default) + "]"
    if isinstance(default, Mapping | frozenset):
        return "" if name.endswith(("tokens", "platforms")) else "{}"
    return f'"{default}"' if isinstance(default, str) else str(default)


def test_every_example_of_the_reference_loads(tmp_path: Path, certificate: bytes) -> None:
    text = (ROOT / "docs" / "configuration.rst").read_text()
    examples = re.findall(r"::\n\n((?: {4,8}[^\n]*\n|\n)+)", text)
    assert len(examples) > 45
    (tmp_path / "token").write_text("x")
    (tmp_path / "ca").write_bytes(certificate)
    for number, example in enumerate(examples):
        if "$ depproxy" in example:
            continue
        toml = re.sub(r"(?m)^ +", "", example).replace("/run/credentials/depproxy.service/hub-token", "token")
        toml = toml.replace("/etc/depproxy/company-ca.pem", "ca").replace("/etc/depproxy/htpasswd", "token")
        header = "" if "[" in toml.split("=")[0] else '[upstreams."x.io"]\n'
        (tmp_path / f"{number}.toml").write_text(header + toml)
        load(tmp_path / f"{number}.toml", environ=HOME)


def test_importing_the_configuration_installs_no_reactor() -> None:
    program = "import depproxy.config, sys; sys.exit('twisted.internet.reactor' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_choices() -> None:
    assert get_args(OnMissing) == ("follow", "keep")
    assert load_text('mirror.anonymous = ["10.0.0.1"]').mirror.anonymous == (ip_network("10.0.0.1/32"),)

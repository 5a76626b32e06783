"""``depproxy ci-variables``: GitLab's variables, for each way in which a CI takes them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from depproxy.cli.variables import _runner, addresses
from depproxy.config.names import group_path
from tests.configurations import GROUPS, HOSTS
from tests.test_cli import call, misused, refused

CONFIG = """\
[server]
public_url = "https://Cache.Example"
[groups.acme]
[groups."acme/tools"]
[groups."beta/x"]
[users.acme-ci]
password = "$scrypt$ln=14,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g"
"""
SERVER = "CI_DEPENDENCY_PROXY_SERVER=cache.example:443"
TOP = "CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX=cache.example:443/acme/dependency_proxy/containers"
DIRECT = "CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX=cache.example:443/acme/tools/dependency_proxy/containers"
MISSING = (
    "# set CI_DEPENDENCY_PROXY_USER and CI_DEPENDENCY_PROXY_PASSWORD as variables of the CI, the password masked\n"
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "depproxy.toml"
    path.write_text(CONFIG)
    return path


def test_dotenv(config: Path) -> None:
    found = call("ci-variables", "--group", "Acme/Tools", config=config)
    assert (found.exit_code, found.stdout.splitlines(), found.stderr) == (0, [SERVER, TOP, DIRECT], MISSING)


def test_all_five(config: Path) -> None:
    """Nothing is left to say then. A password is written only where one is given."""
    arguments = ("ci-variables", "--group", "acme/tools", "--user", "acme-ci", "--password-stdin")
    found = call(*arguments, config=config, stdin="dppd_x=$1 y\n")
    both = ["CI_DEPENDENCY_PROXY_USER=acme-ci", "CI_DEPENDENCY_PROXY_PASSWORD=dppd_x=$1 y"]
    assert (found.exit_code, found.stdout.splitlines(), found.stderr) == (0, [SERVER, TOP, DIRECT, *both], "")


def test_the_line_of_a_runner(config: Path) -> None:
    arguments = ("ci-variables", "--group", "acme/tools", "--user", "acme-ci", "--format", "gitlab-runner")
    found = call(*arguments, config=config)
    assert found.stdout.count("\n") == 1
    variables = [SERVER, TOP, DIRECT, "CI_DEPENDENCY_PROXY_USER=acme-ci"]
    assert tomllib.loads(found.stdout) == {"environment": variables}
    assert found.stderr == "# set CI_DEPENDENCY_PROXY_PASSWORD as variables of the CI, the password masked\n"


@given(st.text(min_size=1).filter(str.isprintable))
@example("$x $$1")
def test_any_password_survives_the_runner(password: str) -> None:
    """What it makes of the line: TOML, and then $$ for one $."""
    (line,) = _runner({"X": password})
    assert tomllib.loads(line)["environment"] == ["X=" + password.replace("$", "$$")]


def test_github(config: Path) -> None:
    found = call("ci-variables", "--group", "acme", "--format", "github", config=config)
    images = "dependency_proxy/containers"
    assert found.stdout.splitlines() == [
        "env:",
        '  CI_DEPENDENCY_PROXY_SERVER: "cache.example:443"',
        f'  CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX: "cache.example:443/acme/{images}"',
        f'  CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX: "cache.example:443/acme/{images}"',
        '  CI_DEPENDENCY_PROXY_USER: "${{ vars.CI_DEPENDENCY_PROXY_USER }}"',
        '  CI_DEPENDENCY_PROXY_PASSWORD: "${{ secrets.CI_DEPENDENCY_PROXY_PASSWORD }}"',
    ]
    assert "CI_DEPENDENCY_PROXY_PASSWORD" in found.stderr
    arguments = ("ci-variables", "--group", "acme", "--format", "github", "--password-stdin")
    assert "make it a secret" in misused(call(*arguments, config=config, stdin="hunter2\n"))


def test_a_group_that_is_not_here(config: Path) -> None:
    said = refused(call("ci-variables", "--group", "acme/tool", config=config))
    assert said == f'{config}: groups."acme/tool": is not there; did you mean "acme/tools"?'
    said = refused(call("ci-variables", "--group", "nope", config=config))
    assert said == f"{config}: groups.nope: is not there; name another group, or add [groups.nope] to the file"
    assert "must be a group path" in misused(call("ci-variables", "--group", "/acme", config=config))
    assert "Missing option '--group'" in misused(call("ci-variables", config=config))


def test_a_top_group_that_is_not_here(config: Path) -> None:
    found = call("ci-variables", "--group", "beta/x", config=config)
    assert found.exit_code == 0
    assert found.stderr.startswith(
        "# there is no group beta: images are to be named by CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX\n"
    )


def test_the_groups_of_a_gitlab(config: Path) -> None:
    config.write_text(CONFIG + '[access.gitlab]\nurl = "https://gitlab.example"\n')
    found = call("ci-variables", "--group", "elsewhere/x", config=config)
    assert (found.exit_code, found.stderr) == (0, MISSING)


def test_the_hash_of_a_password_is_not_shown(config: Path) -> None:
    for form in ("dotenv", "gitlab-runner", "github"):
        assert "scrypt" not in call("ci-variables", "--group", "acme", "--format", form, config=config).output


@given(st.sampled_from(("http", "https")), HOSTS, GROUPS)
def test_addresses(scheme: str, host: str, group: str) -> None:
    """The port is always there, and docker would take no upper case."""
    path = group_path(group)
    found = addresses(f"{scheme}://{host}", path)
    server = found["CI_DEPENDENCY_PROXY_SERVER"]
    written = host.rpartition(":")[2]
    has_port = written.isdecimal() and "]" not in written and ":" in host
    assert server == (host if has_port else f"{host}:{443 if scheme == 'https' else 80}")
    direct = found["CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX"]
    assert direct == direct.lower() == f"{server}/{path}/dependency_proxy/containers"
    top = found["CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX"]
    assert top == f"{server}/{path.split('/')[0]}/dependency_proxy/containers"

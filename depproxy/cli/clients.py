"""``depproxy configure``: what a client's own configuration wants, for this service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import click
from attrs import frozen

from depproxy.cli.command import Command, config_option, example
from depproxy.cli.file import settings_of
from depproxy.config import Settings
from depproxy.config.names import HUB, HUB_URL, host_port, is_loopback


@frozen
class Address:
    """How clients reach the service, and what they find at which path there."""

    scheme: str
    host: str
    # By upstream: what stands behind the host, "" for nothing.
    paths: Mapping[str, str]

    @classmethod
    def of(cls, settings: Settings) -> Address:
        """Upstreams that have a port in their names need a prefix, because clients refuse colons in a path."""
        scheme, _, host = settings.server.public_url.partition("://")
        paths = {settings.mirror.upstream: ""}
        for name, upstream in settings.upstreams.items():
            prefix = next(iter(upstream.prefixes), name)
            if ":" not in prefix:
                paths.setdefault(name, f"/{prefix}")
        return cls(scheme, host, paths)

    @property
    def plain(self) -> bool:
        """Whether it is http."""
        return self.scheme == "http"

    def url(self, upstream: str) -> str:
        """The mirror of an upstream as a URL."""
        return f"{self.scheme}://{self.host}{self.paths[upstream]}"


@frozen
class Snippet:
    """What goes into a file, and what to do with it."""

    text: str
    then: str


def _docker(address: Address) -> Snippet:
    # Docker knows mirrors of Docker Hub alone, and http is good enough for it on loopback.
    content: dict[str, list[str]] = {"registry-mirrors": [address.url(HUB)]}
    if address.plain and not is_loopback(host_port(address.host)[0]):
        content["insecure-registries"] = [address.host]
    return Snippet(
        json.dumps(content, indent=2) + "\n",
        "into /etc/docker/daemon.json, beside what is there already; then: systemctl reload docker",
    )


def _containerd(address: Address) -> Snippet:
    def files() -> Iterator[str]:
        for upstream in address.paths:
            server = HUB_URL if upstream == HUB else f"https://{upstream}"
            # Which registry is meant, containerd says itself (?ns=).
            yield (
                f"# /etc/containerd/certs.d/{upstream}/hosts.toml\n"
                f'server = "{server}"\n'
                f'[host."{address.scheme}://{address.host}"]\n'
                '  capabilities = ["pull", "resolve"]\n'
                '  dial_timeout = "2s"\n'
            )

    return Snippet(
        "\n".join(files()),
        "each part into its own file (Docker 29: below /etc/docker/certs.d), which is read with the next pull;"
        ' containerd looks there if config_path of its registry plugin is "/etc/containerd/certs.d"',
    )


def _podman(address: Address) -> Snippet:
    def registries() -> Iterator[str]:
        for upstream, path in address.paths.items():
            insecure = "insecure = true\n" if address.plain else ""
            yield (
                f'[[registry]]\nlocation = "{upstream}"\n'
                f'[[registry.mirror]]\nlocation = "{address.host}{path}"\n{insecure}'
            )

    return Snippet(
        "\n".join(registries()),
        "into /etc/containers/registries.conf.d/depproxy.conf, for podman, skopeo and buildah from their next pull on,"
        " and for CRI-O; then: systemctl reload crio",
    )


def _buildkit(address: Address) -> Snippet:
    parts = [
        f'[registry."{upstream}"]\n  mirrors = ["{address.host}{path}"]\n' for upstream, path in address.paths.items()
    ]
    if address.plain:
        parts.append(f'[registry."{address.host}"]\n  http = true\n')
    return Snippet(
        "".join(parts),
        "into /etc/buildkit/buildkitd.toml, then: systemctl restart buildkit;"
        " or: docker buildx create --buildkitd-config FILE",
    )


def _kaniko(address: Address) -> Snippet:
    options = [
        f"--registry-mirror={address.host}{path}"
        if upstream == HUB
        else f"--registry-map={upstream}={address.host}{path}"
        for upstream, path in address.paths.items()
    ]
    if address.plain:
        options.append(f"--insecure-registry={address.host}")
    return Snippet("\n".join(options) + "\n", "options of /kaniko/executor")


_CLIENTS: Final[Mapping[str, Callable[[Address], Snippet]]] = {
    "docker": _docker,
    "containerd": _containerd,
    "podman": _podman,
    "buildkit": _buildkit,
    "kaniko": _kaniko,
}


@click.command(
    cls=Command,
    short_help="Print what a client's configuration wants.",
    epilog=example("depproxy configure docker", "depproxy configure podman > /etc/containers/registries.conf.d/x.conf"),
)
@click.pass_context
@click.argument("client", type=click.Choice(tuple(_CLIENTS)))
@config_option
def configure(context: click.Context, client: str, config: Path) -> None:
    """Print the configuration that makes a client pull through this service.

    It follows from public_url, the upstreams and the mirror in the configuration. Where it belongs, and what to
    restart, is told on standard error.
    """
    address = Address.of(settings_of(context, config))
    snippet = _CLIENTS[client](address)
    click.echo(snippet.text, nl=False)
    click.echo(f"# {snippet.then}", err=True)

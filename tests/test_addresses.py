"""From addresses to homes: every layout that clients write."""

from collections.abc import Callable

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from depproxy.config import MirrorSettings, UpstreamSettings
from depproxy.index.interface import Home
from depproxy.oci.errors import Code, OCIError
from depproxy.oci.reference import MAX_NAME, Name
from depproxy.web.addresses import Addresses
from tests.strategies import names
from tests.web_support import GROUPS, UPSTREAMS, addresses, upstream_settings

HUB = "docker.io"
ALIASES = ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO"]
MARK = "dependency_proxy/containers"


def home(path: str, prefix: str = "", namespace: str = "") -> tuple[str, str, str]:
    found = addresses().home(path, prefix, namespace)
    return found.group, found.upstream, found.repository


def refusal(path: str, prefix: str = "", namespace: str = "") -> OCIError:
    with pytest.raises(OCIError) as raised:
        addresses().home(path, prefix, namespace)
    return raised.value


# A mirror's layout


@pytest.mark.parametrize(
    ("path", "upstream", "repository"),
    [
        ("library/alpine", HUB, "library/alpine"),
        ("alpine", HUB, "library/alpine"),
        ("team/sub/app", HUB, "team/sub/app"),
        # A first segment that names an upstream, by name, by host and port, by prefix.
        ("ghcr.io/org/app", "ghcr.io", "org/app"),
        ("github/org/app", "ghcr.io", "org/app"),
        ("localhost:5001/app", "localhost:5001", "app"),
        ("docker.io/library/alpine", HUB, "library/alpine"),
        ("docker.io/alpine", HUB, "library/alpine"),
        ("hub/alpine", HUB, "library/alpine"),
        # One segment alone is a name, whatever it is called.
        ("hub", HUB, "library/hub"),
        ("docker.io", HUB, "library/docker.io"),
        # Only the first segment counts.
        ("team/ghcr.io/app", HUB, "team/ghcr.io/app"),
        # The rule of library/ is Hub's alone.
        ("ghcr.io/app", "ghcr.io", "app"),
    ],
)
def test_mirror(path: str, upstream: str, repository: str) -> None:
    assert home(path) == ("local", upstream, repository)


@pytest.mark.parametrize("alias", ALIASES[:3])
def test_hub_has_several_names(alias: str) -> None:
    assert home(f"{alias}/alpine") == ("local", HUB, "library/alpine")
    assert home("alpine", alias) == ("local", HUB, "library/alpine")


@pytest.mark.parametrize(
    ("prefix", "path", "upstream", "repository"),
    [
        ("hub", "alpine", HUB, "library/alpine"),
        ("github", "org/app", "ghcr.io", "org/app"),
        ("ghcr.io", "app", "ghcr.io", "app"),
        ("localhost:5001", "app", "localhost:5001", "app"),
        # Where the prefix stands before /v2/ the path is all name.
        ("ghcr.io", "hub/app", "ghcr.io", "hub/app"),
    ],
)
def test_prefix_before(prefix: str, path: str, upstream: str, repository: str) -> None:
    assert home(path, prefix) == ("local", upstream, repository)


@pytest.mark.parametrize("prefix", ["nobody", "hub/more", "HUB", "v2", "quay.io"])
def test_unknown_prefix(prefix: str) -> None:
    error = refusal("alpine", prefix)
    assert (error.code, error.status) == (Code.NAME_UNKNOWN, 404)
    assert prefix in error.message


def test_the_mirror_may_be_another_upstreams() -> None:
    mirror = MirrorSettings(group="acme", upstream="ghcr.io")
    found = addresses(mirror)
    assert found.home("app") == Home("acme", "ghcr.io", Name("app"))
    assert found.home("hub/app") == Home("acme", HUB, Name("library/app"))
    assert found.home("app", namespace=HUB) == Home("acme", HUB, Name("library/app"))


# GitLab's layout


@pytest.mark.parametrize(
    ("group", "found"),
    [("acme", "acme"), ("acme/tools", "acme/tools"), ("Acme/TOOLS", "acme/tools"), ("a.b/c_d", "a.b/c_d")],
)
@pytest.mark.parametrize(
    ("image", "upstream", "repository"),
    [
        ("alpine", HUB, "library/alpine"),
        ("team/app", HUB, "team/app"),
        ("ghcr.io/org/app", "ghcr.io", "org/app"),
        ("hub/alpine", HUB, "library/alpine"),
    ],
)
def test_gitlab(group: str, found: str, image: str, upstream: str, repository: str) -> None:
    assert home(f"{group}/{MARK}/{image}") == (found, upstream, repository)


def test_groups_are_not_looked_up() -> None:
    """Whether they are there, or turned on, is for those to say who know who asks."""
    for path in ("nobody", "acme/nobody", "ghcr.io", "closed"):
        assert home(f"{path}/{MARK}/alpine") == (path, HUB, "library/alpine")


@pytest.mark.parametrize("path", ["", "acme/", "/acme", "a//b", "a b", "a\nb", "a\x1bb", "\xfc", 'a"b'])
def test_what_can_be_no_group(path: str) -> None:
    error = refusal(f"{path}/{MARK}/alpine")
    assert (error.code, error.status) == (Code.NAME_INVALID, 400)
    assert error.message.isprintable()


def test_no_prefix_before_gitlabs_layout() -> None:
    assert refusal(f"acme/{MARK}/alpine", "ghcr.io").code is Code.NAME_UNKNOWN


def test_an_image_may_be_called_like_the_mark() -> None:
    assert home(f"acme/{MARK}/{MARK}/app") == ("acme", HUB, f"{MARK}/app")
    # Nothing before it: there is no group.
    assert home(f"{MARK}/app") == ("local", HUB, f"{MARK}/app")


# ns


@pytest.mark.parametrize("alias", ALIASES)
def test_namespace_is_hub(alias: str) -> None:
    assert home("alpine", namespace=alias) == ("local", HUB, "library/alpine")


@pytest.mark.parametrize(("namespace", "upstream"), [("ghcr.io", "ghcr.io"), ("localhost:5001", "localhost:5001")])
def test_namespace(namespace: str, upstream: str) -> None:
    assert home("org/app", namespace=namespace) == ("local", upstream, "org/app")
    assert home("app", namespace=namespace) == ("local", upstream, "app")
    assert home(f"acme/{MARK}/app", namespace=namespace) == ("acme", upstream, "app")


def test_namespace_and_prefix_may_agree() -> None:
    assert home("ghcr.io/org/app", namespace="ghcr.io") == ("local", "ghcr.io", "org/app")
    assert home("org/app", "github", "ghcr.io") == ("local", "ghcr.io", "org/app")
    assert home("hub/alpine", namespace="registry-1.docker.io") == ("local", HUB, "library/alpine")


@pytest.mark.parametrize(
    ("path", "prefix"), [("ghcr.io/org/app", ""), ("org/app", "github"), (f"acme/{MARK}/ghcr.io/app", "")]
)
def test_namespace_and_prefix_in_conflict(path: str, prefix: str) -> None:
    error = refusal(path, prefix, HUB)
    assert (error.code, error.status) == (Code.NAME_UNKNOWN, 404)
    assert "ghcr.io" in error.message
    assert HUB in error.message


@pytest.mark.parametrize("namespace", ["quay.io", "hub", "docker.io:443", "\x00", "ghcr.io/", "é"])
def test_unknown_namespace(namespace: str) -> None:
    error = refusal("alpine", namespace=namespace)
    assert (error.code, error.status) == (Code.NAME_UNKNOWN, 404)
    assert error.detail == {"upstreams": list(UPSTREAMS)}


# Names


LAYOUTS: list[Callable[[str], dict[str, str]]] = [
    lambda image: {"path": image},
    lambda image: {"path": f"acme/tools/{MARK}/{image}"},
    lambda image: {"path": f"ghcr.io/{image}"},
    lambda image: {"path": image, "prefix": "ghcr.io"},
    lambda image: {"path": image, "namespace": "ghcr.io"},
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "name", ["UPPER", "a..b", "a//b", "-a", "a/", "é", "x" * 256, "a b", "a\nb", "a/../b", ".", " "]
)
def test_bad_names(layout: Callable[[str], dict[str, str]], name: str) -> None:
    error = refusal(**layout(name))
    assert (error.code, error.status) == (Code.NAME_INVALID, 400)


def test_a_name_that_is_too_long_as_hub_means_it() -> None:
    assert refusal("x" * MAX_NAME).code is Code.NAME_INVALID
    assert home(f"ghcr.io/{'x' * MAX_NAME}") == ("local", "ghcr.io", "x" * MAX_NAME)


# Properties


@frozen
class Written:
    """A home, and one way in which a client writes it."""

    home: Home
    path: str
    prefix: str
    namespace: str


@st.composite
def written(draw: st.DrawFn) -> Written:
    """Homes of the configuration at hand, in every layout that can name them."""
    upstream = draw(st.sampled_from(list(UPSTREAMS)))
    # At Hub every repository has at least two components, and no first segment is an upstream's name.
    names_there = names(min_components=2 if upstream == HUB else 1).filter(
        lambda name: name.partition("/")[0] not in {*UPSTREAMS, *ALIASES, "hub", "github"} and f"/{MARK}/" not in name
    )
    image: str = draw(names_there)
    repository = Name(image)
    group = draw(st.sampled_from([path for path, settings in GROUPS.items() if settings.enabled]))
    aliases = [upstream, *UPSTREAMS[upstream].prefixes, *(ALIASES[:3] if upstream == HUB else [])]
    before, prefix, namespace = "", "", ""
    if group != "local":
        spelt = "".join(draw(st.sampled_from([letter, letter.upper()])) for letter in group)
        before = f"{spelt}/{MARK}/"
    ways = ["inside", "namespace", *(["before"] if group == "local" else []), *(["default"] if upstream == HUB else [])]
    way = draw(st.sampled_from(ways))
    if way == "inside":
        image = f"{draw(st.sampled_from(aliases))}/{image}"
    elif way == "before":
        prefix = draw(st.sampled_from(aliases))
    looks_like_a_host = way == "default" and "." in image.partition("/")[0]
    if way == "namespace" or looks_like_a_host or draw(st.booleans()):
        namespace = draw(st.sampled_from(ALIASES)) if upstream == HUB else upstream
    if upstream == HUB and image == repository and image.startswith("library/") and image.count("/") == 1:
        image = draw(st.sampled_from([image, image.removeprefix("library/")]))
    return Written(Home(group, upstream, repository), before + image, prefix, namespace)


def test_a_registry_that_is_not_configured() -> None:
    """The first mistake of a new user: its name is none of Docker Hub's business."""
    for path in ("gcr.io/org/app", f"acme/{MARK}/gcr.io/org/app"):
        with pytest.raises(OCIError, match=r"gcr\.io is no configured upstream: .*--upstream gcr\.io=") as caught:
            addresses().home(path)
        assert (caught.value.code, caught.value.status) == (Code.NAME_UNKNOWN, 404)
    # Whoever says that it is Hub's is taken at his word.
    assert addresses().home("gcr.io/app", namespace="docker.io").repository == "gcr.io/app"


@given(written())
def test_the_group_alone(example: Written) -> None:
    assert addresses().group(example.path) == example.home.group


@given(written())
def test_home_is_read_back_from_every_layout(example: Written) -> None:
    found = addresses().home(example.path, example.prefix, example.namespace)
    assert found == example.home


PIECES = st.sampled_from(
    [*UPSTREAMS, *ALIASES, *GROUPS, "hub", "github", MARK, f"/{MARK}/", "/", "//", "library", "alpine", "A", "..", ""]
)
TEXTS = st.one_of(st.text(), st.text(st.characters()), st.lists(PIECES | st.text(max_size=4)).map("".join))


def outcome(resolver: Addresses, path: str, prefix: str, namespace: str) -> Home | tuple[int, bytes]:
    """The home, or status and document of the refusal; nothing else may be raised."""
    try:
        return resolver.home(path, prefix, namespace)
    except OCIError as error:
        return error.status, error.document()


@given(TEXTS, TEXTS, TEXTS)
def test_any_text_is_a_home_or_an_error_document(path: str, prefix: str, namespace: str) -> None:
    """Both times: the second answer may come from memory."""
    resolver = addresses()
    found = outcome(resolver, path, prefix, namespace)
    assert isinstance(found, Home) or found[0] in (400, 403, 404)
    assert outcome(resolver, path, prefix, namespace) == found


def test_what_is_remembered_is_bounded() -> None:
    """More names than are kept; the first is still found afterwards."""
    resolver = addresses()
    found = [resolver.home(f"team/a{number}") for number in range(10_000)]
    assert resolver.home("team/a0") == found[0]
    assert len(set(found)) == 10_000


def test_configurations_share_no_memory() -> None:
    other: dict[str, UpstreamSettings] = {"quay.io": upstream_settings("quay.io")}
    assert addresses().home("alpine").upstream == HUB
    found = Addresses(MirrorSettings(upstream="quay.io"), other).home("alpine")
    assert found == Home("local", "quay.io", Name("alpine"))

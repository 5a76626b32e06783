"""Which scopes of a token are enough to pull, by GitLab's names."""

from collections.abc import Collection
from typing import Final

_STRICT: Final = (
    frozenset({"api"}),
    frozenset({"read_registry", "write_registry"}),
    frozenset({"read_virtual_registry", "write_virtual_registry"}),
)
_PULLING: Final = (frozenset({"api"}), frozenset({"read_registry"}), _STRICT[2])


def enough(scopes: Collection[str], *, strict: bool) -> bool:
    """Whether a token with these scopes may pull; `strict`: as GitLab's own dependency proxy wants it."""
    return any(wanted <= {*scopes} for wanted in needed(strict=strict))


def needed(*, strict: bool) -> tuple[frozenset[str], ...]:
    """Sets of scopes of which each is enough, in the order in which messages name them."""
    return _STRICT if strict else _PULLING


def in_words(*, strict: bool) -> str:
    """The same for people."""
    return ", or ".join(" and ".join(sorted(each)) for each in needed(strict=strict))

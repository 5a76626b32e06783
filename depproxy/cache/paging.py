"""Going through what the index gives page by page."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def pages(step: Callable[[str], Awaitable[tuple[str, T]]]) -> AsyncIterator[T]:
    """All pages; `step` gives the one at a cursor, with the next cursor, as `IGroupIndex` does."""
    cursor = "0"
    while True:
        cursor, page = await step(cursor)
        yield page
        if cursor == "0":
            return

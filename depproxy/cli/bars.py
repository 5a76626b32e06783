"""Bars of progress on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final

from depproxy.config.errors import one_line

# Of a digest, as docker shows it.
_SHORT: Final = 12


class Bars:
    """One bar for each layer that is on its way, below lines that stay. Use it as a context manager."""

    def __init__(self) -> None:
        # A tenth of a second, which only those who look at bars need to spend.
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

        self._progress = Progress(
            TextColumn("{task.fields[image]}", markup=False),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
        )
        self._tasks: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for image in tuple(self._tasks):
            self._remove(image)
        self._progress.stop()

    def layer(self, step: dict[str, Any]) -> None:
        """A layer has come further."""
        image, digest = one_line(str(step["image"])), str(step["digest"])
        tasks = self._tasks.setdefault(image, {})
        if digest not in tasks:
            short = one_line(digest.partition(":")[2][:_SHORT])
            tasks[digest] = self._progress.add_task(short, image=image, total=step["size"])
        self._progress.update(tasks[digest], completed=step["here"])

    def ended(self, image: str, line: str) -> None:
        """An image has come to its end: a line takes the place of its bars."""
        self._remove(image)
        self._progress.console.print(line, markup=False, highlight=False)

    def _remove(self, image: str) -> None:
        for task in self._tasks.pop(image, {}).values():
            self._progress.remove_task(task)

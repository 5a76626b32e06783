"""How far a long command is, on a terminal's standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Meter:
    """A bar of bytes; elsewhere than on a terminal nothing. Use it as a context manager."""

    def __init__(self, title: str, total: int) -> None:
        self._progress: Any = None
        if sys.stderr.isatty():
            # A tenth of a second, which only those who look at it need to spend.
            from rich.console import Console  # noqa: PLC0415
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                console=Console(stderr=True),
            )
            self._task = self._progress.add_task(title, total=total or None)

    def __enter__(self) -> Meter:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def add(self, size: int) -> None:
        """So many bytes more."""
        if self._progress is not None:
            self._progress.update(self._task, advance=size)

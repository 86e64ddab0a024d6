"""Progress on a terminal: a bar with remaining time; silence where nobody watches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from rich.progress import TaskID


class TerminalEvents:
    """Draws on stderr; without a terminal only notes are printed."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, task: str, total: int) -> None:
        """Start a bar."""
        if not self._console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task(task, total=total, figures="")
        self._progress.start()

    def advance(self, done: int, **values: float) -> None:
        """Move the bar."""
        if self._progress is not None and self._task is not None:
            figures = " ".join(f"{name} {value:.4g}" for name, value in values.items())
            self._progress.update(self._task, completed=done, figures=figures)

    def end(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = None

    def note(self, line: str) -> None:
        """Print a line."""
        print(f"gpusq: {line}", file=sys.stderr)  # noqa: T201  a person reads this

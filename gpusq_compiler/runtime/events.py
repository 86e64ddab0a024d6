"""Progress: what long work tells whoever watches it."""

from __future__ import annotations

from typing import Protocol


class Events(Protocol):
    """Receives progress; the command line draws it, tests record it."""

    def begin(self, task: str, total: int) -> None:
        """Work named ``task`` starts; it has ``total`` steps."""
        ...

    def advance(self, done: int, **values: float) -> None:
        """``done`` steps of the task are finished; ``values`` are its current figures."""
        ...

    def end(self) -> None:
        """The task is over."""
        ...

    def note(self, line: str) -> None:
        """Something that a person should read once."""
        ...


class Silent:
    """Watches nothing."""

    def begin(self, task: str, total: int) -> None:
        """Ignore."""

    def advance(self, done: int, **values: float) -> None:
        """Ignore."""

    def end(self) -> None:
        """Ignore."""

    def note(self, line: str) -> None:
        """Ignore."""

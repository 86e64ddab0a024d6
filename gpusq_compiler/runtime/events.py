"""Progress: what long work tells whoever watches it."""

from __future__ import annotations

from typing import Protocol


class Events(Protocol):
    """Receives progress; the command line draws it, tests record it.

    A compile is passes, one after the other; within a pass come tasks of many steps. Whoever
    wants only some of it inherits from `Silent`.
    """

    def enter(self, step: str, number: int, total: int) -> None:
        """The pass ``step`` starts, the ``number``-th of ``total``."""
        ...

    def leave(self, step: str, *, changed: int, left_alone: int, seconds: float) -> None:
        """The pass is over: how many things it changed and left, and how long it took."""
        ...

    def score(self, step: str, metric: str, value: float) -> None:
        """The model scored ``value`` after the pass."""
        ...

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

    def enter(self, step: str, number: int, total: int) -> None:
        """Ignore."""

    def leave(self, step: str, *, changed: int, left_alone: int, seconds: float) -> None:
        """Ignore."""

    def score(self, step: str, metric: str, value: float) -> None:
        """Ignore."""

    def begin(self, task: str, total: int) -> None:
        """Ignore."""

    def advance(self, done: int, **values: float) -> None:
        """Ignore."""

    def end(self) -> None:
        """Ignore."""

    def note(self, line: str) -> None:
        """Ignore."""

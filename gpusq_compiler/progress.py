"""Progress, live: a moving line on a terminal, plain lines elsewhere, JSON for programs.

All three show the same things: pass, step, loss, metric, time left, memory.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.text import Text

from gpusq_compiler.runtime import memory
from gpusq_compiler.runtime.events import Events, Silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Task

    Clock = Callable[[], float]

Figure: TypeAlias = str | int | float | None

PLAIN_SECONDS, JSON_SECONDS = 10.0, 1.0
"""Between two lines about the steps of one task; the last step always has its line."""


class Pace:
    """How long a task goes on, from the time that its steps took so far.

    Args:
        total: Steps of the task.
        clock: Seconds that only rise.
    """

    def __init__(self, total: int, clock: Clock) -> None:
        self.total = total
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._spoken = clock()

    def left(self, done: int) -> float | None:
        """Seconds; None before there were two reports, for a resumed task starts anywhere."""
        now = self._clock()
        if self._first is None:
            self._first = (done, now)
        start, since = self._first
        if done >= self.total:
            return 0.0
        return (now - since) / (done - start) * (self.total - done) if done > start else None

    def due(self, done: int, every: float) -> bool:
        """Whether a line is due: at the last step, and when the last one is old enough."""
        now = self._clock()
        if done < self.total and now - self._spoken < every:
            return False
        self._spoken = now
        return True


class _Watcher(Silent):
    """Knows where the run is."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._where = ""
        self._step = ""
        self._task = ""
        self._pace = Pace(0, clock)

    def enter(self, step: str, number: int, total: int) -> None:
        self._step, self._where = step, f"[{number}/{total}] "

    def begin(self, task: str, total: int) -> None:
        self._task, self._pace = task, Pace(total, self._clock)

    def close(self) -> None:
        """Leave the terminal as it was."""


class PlainEvents(_Watcher):
    """Lines on stderr, as a log file takes them."""

    def leave(self, step: str, *, changed: int, left_alone: int, seconds: float) -> None:
        """Say what the pass did."""
        did = (f"{changed} changed, {left_alone} left alone", f"{seconds:.1f} s", *_held())
        self._say(f"{self._where}{step}: {', '.join(did)}")

    def score(self, step: str, metric: str, value: float) -> None:
        """Say how good the model is now."""
        self._say(f"{self._where}{step}: {metric} {value:.4f}")

    def advance(self, done: int, **values: float) -> None:
        """Say how far the task is, now and then."""
        left = self._pace.left(done)
        if not self._pace.due(done, PLAIN_SECONDS) or (not left and not values):
            return
        told = [f"{done} of {self._pace.total}", *_named(values)]
        told += [f"{left:.0f} s left"] if left else []
        self._say(f"{self._where}{self._task}: {', '.join((*told, *_held()))}")

    def note(self, line: str) -> None:
        """Print a line."""
        self._say(line)

    def _say(self, line: str) -> None:
        print(f"gpusq: {line}", file=sys.stderr, flush=True)  # noqa: T201  a person reads this


class JsonEvents(_Watcher):
    """One JSON object a line on stderr."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        super().__init__(clock)
        self._started = clock()

    def enter(self, step: str, number: int, total: int) -> None:
        """Say that a pass starts."""
        super().enter(step, number, total)
        self._say("pass-start", number=number, of=total)

    def leave(self, step: str, *, changed: int, left_alone: int, seconds: float) -> None:
        """Say what the pass did."""
        self._step = step
        self._say(
            "pass-end",
            changed=changed,
            left_alone=left_alone,
            seconds=seconds,
            peak_memory_mb=_megabytes(memory.peak()),
        )

    def score(self, step: str, metric: str, value: float) -> None:
        """Say how good the model is now."""
        self._say("score", after=step, metric=metric, value=value)

    def begin(self, task: str, total: int) -> None:
        """Say that a task starts."""
        super().begin(task, total)
        self._say("task-start", task=task, of=total)

    def advance(self, done: int, **values: float) -> None:
        """Say how far the task is, at most once a second."""
        left = self._pace.left(done)
        if self._pace.due(done, JSON_SECONDS):
            total = self._pace.total
            self._say("step", task=self._task, step=done, of=total, **values, eta_s=left)

    def end(self) -> None:
        """Say that the task is over."""
        self._say("task-end", task=self._task)

    def note(self, line: str) -> None:
        """Say something once."""
        self._say("note", text=line)

    def _say(self, event: str, **fields: Figure) -> None:
        elapsed = self._clock() - self._started
        held = _megabytes(memory.resident())
        text = json_line(
            event, **{"pass": self._step or None}, **fields, elapsed_s=elapsed, memory_mb=held
        )
        print(text, file=sys.stderr, flush=True)  # noqa: T201  a program reads this


class LiveEvents(_Watcher):
    """A line at the bottom of a terminal that moves; what is over stays above it."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        super().__init__(clock)
        self._console = Console(stderr=True)
        self._metric = ""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[figures]}", markup=False),
            _MemoryColumn(),
            console=self._console,
            transient=True,
            redirect_stdout=False,
        )
        self._bar = self._progress.add_task("")

    def enter(self, step: str, number: int, total: int) -> None:
        """Show a pass."""
        super().enter(step, number, total)
        self._show(f"{self._where}{step}")

    def leave(self, step: str, *, changed: int, left_alone: int, seconds: float) -> None:
        """Print what the pass did."""
        did = f"{changed} changed, {left_alone} left alone, {seconds:.1f} s"
        self._print(f"{self._where}{step:14} {did}")
        self._show("measuring")

    def score(self, step: str, metric: str, value: float) -> None:
        """Keep the model's last score in sight."""
        self._metric = f"{metric} {value:.4f}"
        self._print(f"{' ' * len(self._where)}{step:14} {self._metric}")

    def begin(self, task: str, total: int) -> None:
        """Show a task."""
        super().begin(task, total)
        self._show(f"{self._where}{task}", total)

    def advance(self, done: int, **values: float) -> None:
        """Move the bar."""
        left = self._pace.left(done)
        told = [f"{done}/{self._pace.total}", *_named(values)]
        told += [f"{_spelled(left)} left"] if left else []
        told += [self._metric] if self._metric else []
        self._progress.update(self._bar, completed=done, figures="  ".join(told))

    def end(self) -> None:
        """The pass goes on without a count; without a pass nothing is left to show."""
        if self._where:
            self._show(f"{self._where}{self._step}")
        else:
            self.close()

    def note(self, line: str) -> None:
        """Print a line above."""
        self._print(f"gpusq: {line}")

    def close(self) -> None:
        """Take the moving line away."""
        self._progress.stop()

    def _show(self, what: str, total: int | None = None) -> None:
        self._progress.remove_task(self._bar)
        self._bar = self._progress.add_task(what, total=total, figures=self._metric)
        self._progress.start()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _MemoryColumn(ProgressColumn):
    """What the process holds at the moment."""

    def render(self, task: Task) -> Text:
        del task
        return Text(" ".join(_held()), style="progress.remaining")


@contextlib.contextmanager
def watching(*, quiet: bool, log_format: str = "text") -> Iterator[Events]:
    """Events for the command line; whatever happens, the terminal is left as it was.

    Args:
        quiet: Nothing is shown.
        log_format: ``text`` or ``json``.
    """
    if quiet:
        yield Silent()
        return
    if log_format == "json":
        watcher: _Watcher = JsonEvents()
    else:
        watcher = LiveEvents() if Console(stderr=True).is_terminal else PlainEvents()
    with contextlib.closing(watcher):
        yield watcher


def json_line(event: str, **fields: Figure) -> str:
    """One line of ``--log-format json``; what is not finite becomes null."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }
    rounded = {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in plain.items()
    }
    return json.dumps({"event": event, **rounded}, allow_nan=False)


class JsonFormatter(logging.Formatter):
    """Makes the same kind of line of a log record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's message, in one line."""
        level = record.levelname.lower()
        return json_line("log", level=level, logger=record.name, text=record.getMessage())


def _named(values: dict[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in values.items()]


def _held() -> list[str]:
    held = _megabytes(memory.resident())
    return [] if held is None else [f"{held:.0f} MB"]


def _megabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _spelled(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

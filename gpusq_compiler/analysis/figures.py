"""What a bench found: the figures, and what may be said about them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.analysis.twins import DENSE_INT8, SPARSE_INT8

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gpusq_compiler.runtime.latency import Ratio, Times

FORMAT = 1
FIGURES = ("batch", "MB", "median ms", "p99 ms", "samples/s")
ITSELF = 0.03
"""By how much a file differs from itself in a second session: no difference below is named."""
DISTURBED = 3.0
"""Above this many medians a p99 tells of other work on the machine."""
HEADINGS = ("batch", "file", *FIGURES[1:], "times as fast")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of the table.

    Attributes:
        path: As it was given.
        name: As the table calls it: without its folder where that is clear.
        twin: Which of the four twins it is; empty where nobody asked.
        bytes: Of the file and its data files.
        runs_on: What runs it.
        against: Index of the file that it is compared with.
    """

    path: str
    name: str
    twin: str
    bytes: int
    runs_on: str
    against: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A file at a batch size.

    Attributes:
        file: Index of its entry.
        batch: Samples of a run.
        times: What was measured.
        faster: How many times faster than the file that it is compared with.
    """

    file: int
    batch: int
    times: Times
    faster: Ratio | None

    @property
    def samples_per_second(self) -> float:
        """One run after the other."""
        return self.batch / self.times.mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything that was measured.

    Attributes:
        entries: The files.
        cells: By batch size, then by file.
        settings: How it was measured, by name.
        remarks: What a reader of the figures has to know of single files.
        machine: Processor and GPU.
    """

    entries: Sequence[Entry]
    cells: Sequence[Cell]
    settings: Mapping[str, object]
    remarks: Sequence[str]
    machine: Mapping[str, str]

    @property
    def title(self) -> str:
        """Whose numbers these are."""
        places = " and ".join(dict.fromkeys(entry.runs_on for entry in self.entries))
        given = self.settings["data"] or "synthesised inputs"
        threads = self.settings["threads"]
        told = ""
        if threads is not None and "ONNX Runtime" in places:
            told = f", {threads} thread{'s' * (threads != 1)}"
        return f"{places} numbers{told}, {given}"

    def rows(self) -> Iterator[tuple[str, ...]]:
        """One per cell, under ``HEADINGS``."""
        for cell in self.cells:
            entry = self.entries[cell.file]
            yield (
                str(cell.batch) if cell.file == 0 else "",
                entry.name,
                f"{entry.bytes / 1e6:.3f}",
                f"{1000 * cell.times.median:.3f}",
                "" if cell.times.p99 is None else f"{1000 * cell.times.p99:.3f}",
                f"{cell.samples_per_second:.1f}",
                self._ratio(cell),
            )

    def _ratio(self, cell: Cell) -> str:
        """Of twins also what it is compared with; else it is the first file."""
        against = self.entries[cell.file].against
        if cell.faster is None or against is None:
            return ""
        ratio = f"{cell.faster.median:.2f}x ({cell.faster.low:.2f}-{cell.faster.high:.2f})"
        other = self.entries[against].twin
        return f"{ratio} as {other}" if other else ratio

    def lines(self) -> Iterator[str]:
        """What the figures say, and what they do not."""
        yield from self._slower()
        yield from self._gain()
        if len({entry.runs_on.split(" on ")[0] for entry in self.entries}) > 1:
            yield "the files run on different things: the ratios compare these as well"
        yield from self._disturbed()
        yield from self.remarks

    def as_json(self) -> dict[str, object]:
        """Plain values; times in milliseconds, files by their index."""
        return {
            "format": FORMAT,
            "title": self.title,
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "files": [dataclasses.asdict(entry) for entry in self.entries],
            "cells": [_as_json(cell) for cell in self.cells],
            "lines": list(self.lines()),
        }

    def _of(self, file: int) -> list[tuple[int, Ratio]]:
        return [(c.batch, c.faster) for c in self.cells if c.file == file and c.faster]

    def _slower(self) -> Iterator[str]:
        """Every file that is slower than the one that it is compared with, beyond chance."""
        for file, entry in enumerate(self.entries):
            slow = [found for found in self._of(file) if found[1].high < 1 - ITSELF]
            if slow and entry.against is not None:
                other = self.entries[entry.against].name
                yield f"{entry.name} is SLOWER than {other}: {_at(slow)}"

    def _disturbed(self) -> Iterator[str]:
        tails = [cell.times.p99 / cell.times.median for cell in self.cells if cell.times.p99]
        if tails and max(tails) > DISTURBED:
            yield (
                f"p99 is up to {max(tails):.0f} times the median: other work disturbed the "
                "runs, which brings ratios closer to 1; measure on a quiet machine"
            )

    def _gain(self) -> Iterator[str]:
        twins = [entry.twin for entry in self.entries]
        if SPARSE_INT8 not in twins:
            return
        if DENSE_INT8 in twins:
            sparse = twins.index(SPARSE_INT8)
            place = self.entries[sparse].runs_on
            found = _at(self._of(sparse))
            yield f"sparse gain on {place}, {DENSE_INT8} over {SPARSE_INT8}: {found}"
        else:
            yield f"sparse gain: unknown, for there is no {DENSE_INT8} twin"


def _at(found: Sequence[tuple[int, Ratio]]) -> str:
    return ", ".join(f"{ratio.median:.2f}x at batch {batch}" for batch, ratio in found)


def _as_json(cell: Cell) -> dict[str, object]:
    p99 = cell.times.p99
    return {
        "file": cell.file,
        "batch": cell.batch,
        "runs": len(cell.times.seconds),
        "median_ms": 1000 * cell.times.median,
        "mean_ms": 1000 * cell.times.mean,
        "p99_ms": None if p99 is None else 1000 * p99,
        "samples_per_second": cell.samples_per_second,
        "faster": None if cell.faster is None else dataclasses.asdict(cell.faster),
    }

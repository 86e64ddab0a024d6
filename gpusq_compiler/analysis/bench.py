"""How fast models are, side by side: files take turns, A B A B, at every batch size."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.analysis.contestants import opened
from gpusq_compiler.analysis.figures import Bench, Cell, Entry
from gpusq_compiler.analysis.inputs import batch_sizes, cast, samples_for
from gpusq_compiler.analysis.twins import against
from gpusq_compiler.runtime.events import Events, Silent
from gpusq_compiler.runtime.latency import interleaved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from gpusq_compiler.analysis.contestants import Contestant
    from gpusq_compiler.runtime.samples import Feeds

SECONDS, WARM_UP = 2.0, 0.5
BATCH_SIZES = (1, 8, 32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        batch_sizes: One cell of the table each, for every file.
        seconds: Of a cell, the warm-up aside.
        runs: A cell ends after so many, too.
        warm_up: Seconds of a cell that do not count.
        threads: Of ONNX Runtime; None lets it choose.
        device: Of ONNX Runtime, ``cpu`` or ``cuda``.
        data: As for compile; None: synthesised inputs.
        seed: Of synthesised inputs.
        host_code: Whether code that an engine brings along may run.
    """

    batch_sizes: Sequence[int] = BATCH_SIZES
    seconds: float = SECONDS
    runs: int | None = None
    warm_up: float = WARM_UP
    threads: int | None = None
    device: str = "cpu"
    data: str | None = None
    seed: int = 0
    host_code: bool = False


def bench(
    files: Sequence[Path],
    settings: Settings,
    *,
    twins: Sequence[str] = (),
    events: Events | None = None,
) -> Bench:
    """Measure files side by side.

    Args:
        files: ONNX files and engines; the others are compared with the first.
        settings: How.
        twins: Which of the four twins each file is: then each is compared with its own.
        events: Told about progress.

    Raises:
        GpusqError: A file cannot be read or run, or does not fit beside the first.
    """
    events = events or Silent()
    others = _others(len(files), twins)
    with contextlib.ExitStack() as stack:
        contestants = []
        for path in files:
            contestants.append(_opened(path, settings))
            stack.callback(contestants[-1].close)
        sizes = batch_sizes(contestants, settings.batch_sizes, events)
        samples = stack.enter_context(samples_for(contestants, settings.data, settings.seed))
        feeds = {size: samples.take(np.arange(size) % samples.count) for size in sizes}
        _try(contestants, feeds)
        cells: list[Cell] = []
        events.begin("bench", len(sizes))
        for size, batch in feeds.items():
            cells += _measured(contestants, size, batch, others, settings)
            events.advance(len(cells) // len(files))
        events.end()
        return Bench(
            entries=_entries(contestants, others, twins),
            cells=cells,
            settings=dataclasses.asdict(settings),
            remarks=_remarks(contestants),
            machine=_machine(contestants),
        )


def _opened(path: Path, settings: Settings) -> Contestant:
    return opened(
        path,
        threads=settings.threads,
        device=settings.device,
        host_code=settings.host_code,
    )


def _others(count: int, twins: Sequence[str]) -> list[int | None]:
    """What each file is compared with: its twin, or the first file."""
    if not twins:
        return [None, *[0] * (count - 1)]
    return [against(twin, twins) for twin in twins]


def _try(contestants: Sequence[Contestant], feeds: Mapping[int, Feeds]) -> None:
    """Run every cell once: what cannot run is told now, not after minutes."""
    for contestant in contestants:
        for batch in feeds.values():
            contestant(cast(batch, contestant.inputs))


def _measured(
    contestants: Sequence[Contestant],
    size: int,
    feeds: Feeds,
    others: Sequence[int | None],
    settings: Settings,
) -> Iterator[Cell]:
    """The cells of one batch size, all files in turn."""
    times = interleaved(
        [c.turn(cast(feeds, c.inputs)) for c in contestants],
        seconds=settings.seconds * len(contestants),
        warm_up=settings.warm_up * len(contestants),
        runs=settings.runs,
    )
    for index, (taken, other) in enumerate(zip(times, others, strict=True)):
        ratio = None if other is None else taken.faster_than(times[other])
        yield Cell(file=index, batch=size, times=taken, faster=ratio)


def _entries(
    contestants: Sequence[Contestant], others: Sequence[int | None], twins: Sequence[str]
) -> list[Entry]:
    paths = [contestant.path for contestant in contestants]
    clear = len({path.name for path in paths}) == len(set(paths))
    names = twins or [path.name if clear else str(path) for path in paths]
    return [
        Entry(
            path=str(contestant.path),
            name=names[index],
            twin=twins[index] if twins else "",
            bytes=contestant.size,
            runs_on=contestant.runs_on,
            against=others[index],
        )
        for index, contestant in enumerate(contestants)
    ]


def _remarks(contestants: Sequence[Contestant]) -> list[str]:
    """Each remark once, with the files that it is about."""
    about: dict[str, list[str]] = {}
    for contestant in contestants:
        for said in contestant.remarks():
            about.setdefault(said, []).append(contestant.path.name)
    return [f"{', '.join(dict.fromkeys(names))}: {said}" for said, names in about.items()]


def _machine(contestants: Sequence[Contestant]) -> dict[str, str]:
    found = {
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "system": platform.system(),
    }
    for contestant in contestants:
        found |= contestant.machine()
    return found

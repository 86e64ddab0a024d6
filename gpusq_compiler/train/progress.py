"""How far a run is: its series, its best iterate, and both as a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.train.job import TrainJob, TrainResult
from gpusq_compiler.train.prepared import stored_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.train.job import Loss


@dataclasses.dataclass(kw_only=True)
class Progress:
    """What training has found so far.

    Attributes:
        step: Steps done.
        best: Parameters with the lowest held-out loss.
        best_step: Steps done when they were found.
        held_out: (step, loss) of every look.
        looks: Every series at every look.
        series: Scalars of every step.
        frozen: Parameters that are not trained, with the reason.
    """

    step: int = 0
    best: dict[str, Array] = dataclasses.field(default_factory=dict)
    best_step: int = 0
    held_out: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    looks: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    series: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    frozen: dict[str, str] = dataclasses.field(default_factory=dict)

    def extend(self, scalars: Mapping[str, float]) -> None:
        """Add the scalars of one step."""
        for name, value in scalars.items():
            self.series.setdefault(name, []).append(value)

    def look(self, loss: float, seen: Mapping[str, float]) -> bool:
        """Note a held-out loss and all series; say whether it is the lowest so far."""
        for name, value in seen.items():
            self.looks.setdefault(name, []).append(value)
        better = all(loss < earlier for _, earlier in self.held_out)
        self.held_out.append((self.step, loss))
        return better

    def result(self, job: TrainJob) -> TrainResult:
        """The best iterate in the student's own types."""
        types = {name: stored_value(job, name).dtype for name in self.best}
        return TrainResult(
            values={name: value.astype(types[name]) for name, value in self.best.items()},
            best_step=self.best_step,
            series=self.series,
            held_out=self.held_out,
            looks=self.looks,
            frozen=self.frozen,
        )


def save(
    job: TrainJob, progress: Progress, machine: Mapping[str, Array], terms: Sequence[Loss]
) -> None:
    """Write a checkpoint, if the job keeps any."""
    if job.checkpoints is None:
        return
    arrays = dict(machine)
    arrays.update({f"best/{name}": value for name, value in progress.best.items()})
    arrays.update({f"series/{n}": np.array(v, np.float64) for n, v in progress.series.items()})
    arrays.update({f"look/{n}": np.array(v, np.float64) for n, v in progress.looks.items()})
    arrays["held_out"] = np.array(progress.held_out, dtype=np.float64).reshape(-1, 2)
    for index, term in enumerate(terms):
        arrays.update({f"term{index}/{key}": value for key, value in term.state().items()})
    state = {
        "job": fingerprint(job),
        "step": progress.step,
        "best_step": progress.best_step,
        "frozen": progress.frozen,
    }
    job.checkpoints.save(job.label, arrays, state)


def load(job: TrainJob) -> tuple[Progress, dict[str, Array]] | None:
    """The checkpoint of this very job: how far it is, and all its arrays."""
    stored = job.checkpoints.load(job.label) if job.checkpoints is not None else None
    if stored is None or stored[1].get("job") != fingerprint(job):
        return None
    arrays, state = stored
    frozen = state["frozen"]
    assert isinstance(frozen, dict)
    progress = Progress(
        step=int(str(state["step"])),
        best=_under(arrays, "best/"),
        best_step=int(str(state["best_step"])),
        held_out=[(int(step), float(loss)) for step, loss in arrays["held_out"]],
        looks=_lists(arrays, "look/"),
        series=_lists(arrays, "series/"),
        frozen=frozen,
    )
    return progress, arrays


def restore_terms(terms: Sequence[Loss], arrays: Mapping[str, Array]) -> None:
    """Give every term its state back."""
    for index, term in enumerate(terms):
        term.load(_under(arrays, f"term{index}/"))


def fingerprint(job: TrainJob) -> str:
    """What a checkpoint must share with a job to be its own."""
    plan = [
        (job.steps, job.batch_size, job.seed, job.warmup, job.evaluate_every),
        (job.averaging, job.clip_norm),
        (job.data.count, job.held_out.count, job.features, sorted(job.factors.items())),
        (sorted(job.masks), job.blockwise, job.gives_up),
        (repr(job.groups), repr(job.terms), repr(job.quantizer)),
    ]
    return hashlib.sha256(repr(plan).encode()).hexdigest()


def _lists(arrays: Mapping[str, Array], prefix: str) -> dict[str, list[float]]:
    return {name: list(map(float, v)) for name, v in _under(arrays, prefix).items()}


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {
        key.removeprefix(prefix): value
        for key, value in arrays.items()
        if key.startswith(prefix)
    }

"""One run of a training job: steps, looks at held-out samples, checkpoints, resume."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.train import progress
from gpusq_compiler.train.job import is_worse
from gpusq_compiler.train.machine import LOSS, Machine
from gpusq_compiler.train.progress import Progress
from gpusq_compiler.train.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.train.job import TrainJob, TrainResult
    from gpusq_compiler.train.prepared import Prepared


class Run:
    """One run of a job."""

    def __init__(self, job: TrainJob, prepared: Prepared) -> None:
        self._job = job
        self._prepared = prepared
        self._batches = prepared.batches
        self._progress = Progress(frozen=dict(prepared.left_out))
        schedule = Schedule(steps=job.steps, warmup=job.warmup)
        self._machine = Machine(job, prepared, schedule)

    def resume(self, found: Progress, arrays: Mapping[str, Array]) -> None:
        """Go on from a checkpoint."""
        self._progress = found
        self._machine.load(arrays)
        progress.restore_terms(self._prepared.loss.terms, arrays)

    def finish(self) -> TrainResult:
        """Do the steps that are left."""
        job, state = self._job, self._progress
        job.events.begin(job.label, job.steps)
        try:
            if not state.held_out:
                self._look()
            while state.step < job.steps and self._prepared.parameters and not self._gave_up():
                scalars = self.step(state.step)
                state.extend(scalars)
                state.step += 1
                if state.step % job.evaluate_every == 0 or state.step == job.steps:
                    self._look()
                job.events.advance(state.step, loss=scalars[LOSS])
        finally:
            job.events.end()
        return state.result(job)

    def _gave_up(self) -> bool:
        return self._job.gives_up and is_worse(self._progress.held_out)

    def step(self, step: int) -> dict[str, float]:
        """One optimisation step; the scalars from before the update."""
        scalars = self._machine.gradient(self._batches.training(step))
        if not math.isfinite(scalars[LOSS]):
            wrong = [name for name, value in scalars.items() if not math.isfinite(value)]
            raise _not_finite(f"step {step}", [name for name in wrong if name != LOSS])
        self._machine.update(step)
        seen = {name: np.asarray(value) for name, value in scalars.items()}
        for term in self._prepared.loss.terms:
            term.observe(step, seen)
        return scalars

    def _look(self) -> None:
        """Measure the held-out loss, keep the best iterate, write a checkpoint."""
        state = self._progress
        sums: dict[str, float] = {}
        samples = 0
        for feeds, count in self._batches.held_out(state.step):
            samples += count
            for name, value in self._machine.look(feeds).items():
                sums[name] = sums.get(name, 0.0) + value * count
        seen = {name: value / max(1, samples) for name, value in sums.items()}
        if not math.isfinite(seen[LOSS]):
            raise _not_finite(f"step {state.step}, held-out samples", [])
        if state.look(seen[LOSS], seen):
            state.best, state.best_step = self._machine.values(), state.step
        progress.save(self._job, state, self._machine.state(), self._prepared.loss.terms)


def _not_finite(where: str, series: list[str]) -> TrainingError:
    culprit = f": {', '.join(series)}" if series else ""
    return TrainingError(
        f"the loss is not finite{culprit}",
        where=where,
        remedy="Lower the learning rate, or check the samples for values that are not finite",
    )

"""Training on ONNX Runtime; what it takes is imported when something trains."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from typing import TYPE_CHECKING

from gpusq_compiler.runtime import flavour

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.train.job import TrainJob, TrainResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrtTrainer:
    """Trains with ONNX Runtime's gradient graphs and AdamW.

    Attributes:
        probe: Whether the first step runs in a process of its own first.
    """

    probe: bool = True

    def fit(self, job: TrainJob) -> TrainResult:
        """Train and return the best iterate; a finished run returns at once."""
        flavour.require_training()
        from gpusq_compiler.train import progress
        from gpusq_compiler.train.prepared import prepare
        from gpusq_compiler.train.run import Run

        stored = progress.load(job)
        if stored is not None and stored[0].step >= job.steps:
            return stored[0].result(job)
        prepared = prepare(job, probe=self.probe and job.steps > 0)
        run = Run(job, prepared)
        if stored is not None:
            run.resume(*stored)
        return run.finish()

    def seconds_per_step(self, job: TrainJob, steps: int = 5) -> float:
        """Median time of a whole step, infinite if nothing trains; nothing is kept."""
        flavour.require_training()
        from gpusq_compiler.train.prepared import prepare
        from gpusq_compiler.train.run import Run

        prepared = prepare(job, probe=self.probe)
        if not prepared.parameters:
            return math.inf
        run = Run(dataclasses.replace(job, checkpoints=None), prepared)
        times = []
        for step in range(steps + 1):
            started = time.perf_counter()
            run.step(step)
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:])

    def squared_gradients(self, job: TrainJob, batches: int) -> dict[str, Array]:
        """Mean squared gradients of the outputs' random projection; nothing moves."""
        flavour.require_training()
        from gpusq_compiler.train.saliency import squared_gradients

        return squared_gradients(job, batches, probe=self.probe)

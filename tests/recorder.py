"""A trainer that does not train and shows what it was asked to."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from gpusq_compiler.train.fixed import FixedTrainer

if TYPE_CHECKING:
    from gpusq_compiler.train.job import TrainJob, TrainResult

DELTA = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorder(FixedTrainer):
    """The fixed trainer, which also shows the jobs that it gets.

    Attributes:
        jobs: All jobs so far.
        answer: Fields of the result that are other than the fixed trainer's.
        speed: Seconds that it says a step takes.
    """

    delta: float = DELTA
    jobs: list[TrainJob] = dataclasses.field(default_factory=list)
    answer: dict[str, Any] = dataclasses.field(default_factory=dict)
    speed: float = 0.5

    def fit(self, job: TrainJob) -> TrainResult:
        self.jobs.append(job)
        return dataclasses.replace(super().fit(job), **self.answer)

    def seconds_per_step(self, job: TrainJob, steps: int = 5) -> float:
        return self.speed

"""Training in two stages: each block on its own first, then all of them together.

In the first stage every block reads what the dense model's block reads, so that it can learn
fast and undisturbed; the second corrects what the blocks' errors add up to. Its first look
says whether the first stage helped at all: if not, training begins where it would have
without it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.ir import query
from gpusq_compiler.passes import trained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.train.job import ParameterGroup, Trainer, TrainJob, TrainResult

FASTER, FASTER_CONVOLUTIONS = 8.0, 2.0
"""Learning rate of the first stage, in those of the second: blocks alone bear more. Measured
on a sentence encoder and two digit networks; convolutional networks have a rate four times
as large in the second stage already."""
FEWEST = 10
"""Steps of the first stage: its warm-up takes as many."""


def fit(job: TrainJob, trainer: Trainer, share: float) -> TrainResult:
    """Train, the first ``share`` of the steps block by block.

    Args:
        job: All steps, end to end.
        trainer: Does the work.
        share: From 0, which trains end to end only, to below 1. Above a half, the second
            stage's rate falls with its length.
    """
    alone = round(share * job.steps)
    faster = FASTER_CONVOLUTIONS if query.is_convolutional(job.student) else FASTER
    if alone < FEWEST or not job.features or job.teacher is None:
        return trainer.fit(job)
    start = trainer.fit(dataclasses.replace(job, steps=0, label=f"{job.label}-start"))
    blocks = trainer.fit(
        dataclasses.replace(
            job,
            steps=alone,
            blockwise=True,
            groups=_scaled(job.groups, faster),
            label=f"{job.label}-blocks",
        )
    )
    student = job.student.clone()
    rest = dataclasses.replace(
        job,
        student=student,
        steps=job.steps - alone,
        groups=_scaled(job.groups, min(1.0, 2 * (1 - share))),
    )
    trained.write_back(student, job, blocks)
    joined = _joined(start, blocks, trainer.fit(rest), alone)
    if min(loss for _, loss in joined.held_out[1:]) < joined.held_out[0][1]:
        return joined
    return dataclasses.replace(joined, values=start.values, best_step=0)


def _scaled(groups: Sequence[ParameterGroup], factor: float) -> tuple[ParameterGroup, ...]:
    return tuple(
        dataclasses.replace(group, learning_rate=factor * group.learning_rate)
        for group in groups
    )


def _joined(
    start: TrainResult, blocks: TrainResult, result: TrainResult, alone: int
) -> TrainResult:
    """One result of both stages: steps count on, and the start is the common start."""
    held_out = [(step + alone, loss) for step, loss in result.held_out]
    series = {f"blocks/{name}": values for name, values in blocks.series.items()}
    return dataclasses.replace(
        result,
        best_step=result.best_step + alone,
        held_out=[*start.held_out[:1], *held_out],
        looks={
            name: [*start.looks.get(name, ())[:1], *values]
            for name, values in result.looks.items()
        },
        series={**series, **result.series},
    )

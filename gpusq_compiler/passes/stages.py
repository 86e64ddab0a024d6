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
from gpusq_compiler.train.budget import boldness

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from gpusq_compiler.train.job import ParameterGroup, Trainer, TrainJob, TrainResult

FASTER = 8.0
"""Learning rate of the first stage, in `RATE`: blocks alone bear more. Measured on a sentence
encoder and two digit networks."""
FEWEST = 10
"""Steps of the first stage: its warm-up takes as many."""
RETREATS, SLOWER = 2, 4.0
"""How often the first stage begins again, and by how much slower, where it makes things worse."""


def boldness_of(model: ir.Model, steps: int) -> float:
    """See `budget.boldness`."""
    return boldness(steps, convolutional=query.is_convolutional(model))


def fit(job: TrainJob, trainer: Trainer, share: float) -> TrainResult:
    """Train, the first ``share`` of the steps block by block.

    Args:
        job: All steps, end to end.
        trainer: Does the work.
        share: From 0, which trains end to end only, to below 1. Above a half, the second
            stage's rate falls with its length.
    """
    alone = round(share * job.steps)
    if alone < FEWEST or not job.features or job.teacher is None:
        return trainer.fit(job)
    start = trainer.fit(dataclasses.replace(job, steps=0, label=f"{job.label}-start"))
    blocks = _blocks(job, trainer, alone)
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


def _blocks(job: TrainJob, trainer: Trainer, steps: int) -> TrainResult:
    """The first stage; slower from the start again if its first look finds a higher loss."""
    faster = FASTER / boldness_of(job.student, job.steps)
    label = f"{job.label}-blocks"
    for retreat in range(RETREATS + 1):
        attempt = dataclasses.replace(
            job,
            steps=steps,
            blockwise=True,
            groups=_scaled(job.groups, faster),
            gives_up=retreat < RETREATS,
            label=label if retreat == 0 else f"{label}-{retreat + 1}",
        )
        result = trainer.fit(attempt)
        used = result.held_out[-1][0]
        if not (attempt.gives_up and result.is_worse) or steps - used < FEWEST:
            break
        steps, faster = steps - used, faster / SLOWER
        job.events.note(f"{label}: the loss rises on held-out samples; {SLOWER:g}x slower")
    return result


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

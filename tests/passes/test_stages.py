"""Two stages of training: each block alone, then all together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpusq_compiler.errors import OptionError, TrainingError
from gpusq_compiler.passes.base import Context, PassResult
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.distill import Distill
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.ir import query
from gpusq_compiler.train.budget import RATE
from gpusq_compiler.passes.stages import FASTER
from gpusq_compiler.passes.training import WITH_LOGITS, WITHOUT_LOGITS
from gpusq_compiler.sparsity.scores import Magnitude
from gpusq_compiler.train.fixed import FixedTrainer
from gpusq_compiler.train.loop import OrtTrainer
from tests import tiny

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.train.job import TrainJob, TrainResult

ContextFor = Callable[..., Context]
DELTA = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scripted(FixedTrainer):
    """The fixed trainer with held-out losses of our own, one list per call.

    A run that gives up does so after ``used`` steps.
    """

    delta: float = DELTA
    losses: list[list[float]]
    used: int = 0
    jobs: list[TrainJob] = dataclasses.field(default_factory=list)

    def fit(self, job: TrainJob) -> TrainResult:
        losses = self.losses[len(self.jobs)]
        self.jobs.append(job)
        best = losses.index(min(losses))
        gave_up = job.gives_up and losses[-1] > losses[0]
        steps = [0, self.used if gave_up else job.steps][: len(losses)]
        result = super().fit(job)
        held_out = list(zip(steps, losses, strict=True))
        return dataclasses.replace(
            result,
            held_out=held_out,
            best_step=steps[best],
            values=result.values if best else {},
            looks={name: values[: len(losses)] for name, values in result.looks.items()},
        )


def distilled(model: ir.Model, ctx: Context, step: Distill) -> PassResult:
    steps = (Canonicalize(), Prune(score=Magnitude()), step)
    return Pipeline(passes=steps).run(model, ctx)[-1].result


def test_the_second_stage_starts_where_the_first_ends(context_for: ContextFor) -> None:
    model = tiny.attention()
    trainer = Scripted(losses=[[1.0], [0.8, 0.4], [0.7, 0.3]])
    step = Distill(steps=40, batch_size=8, learning_rate=1e-3, blockwise=0.25)
    before = tiny.weight(model, "w_out")
    result = distilled(model, context_for(model, trainer=trainer), step)
    start, blocks, rest = trainer.jobs
    assert (start.steps, blocks.steps, rest.steps) == (0, 10, 30)
    assert (start.blockwise, blocks.blockwise, rest.blockwise) == (False, True, False)
    assert blocks.groups[0].learning_rate == pytest.approx(FASTER * 1e-3)
    assert rest.groups[0].learning_rate == 1e-3
    assert len({job.label for job in trainer.jobs}) == 3
    kept = tiny.weight(model, "w_out")
    moved = (kept - before)[kept != 0]
    np.testing.assert_allclose(moved, 2 * DELTA, atol=1e-6)
    assert result.metrics["best_step"] == 40
    assert result.metrics["loss_at_start"] == 1.0
    assert result.metrics["loss_at_best"] == 0.3


def test_without_improvement_the_start_is_kept(context_for: ContextFor) -> None:
    model = tiny.attention()
    trainer = Scripted(losses=[[1.0], [0.8, 0.4], [1.3, 1.1]])
    step = Distill(steps=40, batch_size=8, learning_rate=1e-3, blockwise=0.25)
    steps = (Canonicalize(), Prune(score=Magnitude()))
    ctx = context_for(model, trainer=trainer)
    Pipeline(passes=steps).run(model, ctx)
    before = tiny.weight(model, "w_out")
    dense = Canonicalize()(tiny.attention())
    ctx = dataclasses.replace(ctx, teacher=dense)
    result = Pipeline(passes=(step,)).run(model, ctx)[-1].result
    assert np.array_equal(tiny.weight(model, "w_out"), before)
    assert [finding.rule for finding in result.skipped] == ["no-improvement"]
    assert result.metrics["best_step"] == 0
    assert result.series["held_out"] == [1.0, 1.3, 1.1]


def test_a_few_steps_are_one_stage(context_for: ContextFor) -> None:
    model = tiny.attention()
    trainer = Scripted(losses=[[1.0, 0.5]])
    distilled(
        model,
        context_for(model, trainer=trainer),
        Distill(steps=36, batch_size=8, blockwise=0.25),
    )
    assert [job.steps for job in trainer.jobs] == [36]


@pytest.mark.training
def test_both_stages_train_and_averages_and_clipping_go_with_them(
    context_for: ContextFor,
) -> None:
    model = tiny.attention()
    step = Distill(
        steps=40,
        batch_size=16,
        learning_rate=1e-3,
        blockwise=0.25,
        averaging=0.9,
        clip_norm=1.0,
    )
    ctx = context_for(model, trainer=OrtTrainer(probe=False))
    result = distilled(model, ctx, step)
    assert result.metrics["loss_at_best"] < result.metrics["loss_at_start"]
    assert all(
        float(r["after"] or 9) < float(r["before"] or 0) for r in result.tables["features"]
    )
    assert len(result.series["blocks/loss"]) == 10
    assert len(result.series["loss"]) == 30
    looks = result.tables["looks"]
    # The start, the end of the first stage, then a look every four steps and at the end.
    assert [row["step"] for row in looks] == [0, 10, *range(14, 40, 4), 40]
    assert [row["held_out"] for row in looks] == list(result.series["held_out"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blockwise": 1.0}, "1.0 is no share"),
        ({"averaging": -0.1}, "-0.1 is no share"),
        ({"clip_norm": 0.0}, "0.0 is no positive number"),
    ],
)
def test_numbers_that_cannot_be(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Distill(**options)  # type: ignore[arg-type]


def test_class_scores_get_more_of_the_steps_together(context_for: ContextFor) -> None:
    scores, tokens = tiny.mlp(), tiny.attention()
    shares = [
        Distill(steps=4, batch_size=8).resolve(model, context_for(model)).blockwise
        for model in (scores, tokens)
    ]
    assert shares == [WITH_LOGITS, WITHOUT_LOGITS]


def test_convolutions_get_a_larger_rate_and_as_much_alone(context_for: ContextFor) -> None:
    model = tiny.residual()
    step = Distill(steps=120, batch_size=8, blockwise=0.25)
    trainer = Scripted(losses=[[1.0], [0.8, 0.4], [0.7, 0.3]])
    distilled(model, context_for(model, trainer=trainer), step)
    _, blocks, rest = (job.groups[0].learning_rate for job in trainer.jobs)
    assert blocks == pytest.approx(FASTER / 2 * rest)
    assert rest == pytest.approx(2 * RATE * query.magnitude(tiny.residual()), rel=0.3)


def test_blocks_that_get_worse_begin_again_slower(context_for: ContextFor) -> None:
    model = tiny.attention()
    trainer = Scripted(losses=[[1.0], [0.8, 2.0], [0.8, 1.3], [0.8, 1.1], [0.7, 0.3]], used=8)
    step = Distill(steps=80, batch_size=8, learning_rate=1e-3, blockwise=0.5)
    result = distilled(model, context_for(model, trainer=trainer), step)
    _, *blocks, rest = trainer.jobs
    rates = [job.groups[0].learning_rate for job in blocks]
    assert rates == pytest.approx([8e-3, 2e-3, 5e-4])
    assert [job.steps for job in blocks] == [40, 32, 24]
    assert [job.gives_up for job in blocks] == [True, True, False]
    assert len({job.label for job in blocks}) == 3
    assert rest.steps == 40
    assert not rest.gives_up
    assert result.metrics["best_step"] == 80


class _Frozen(FixedTrainer):
    """Nothing, or all but the first tensor, can be trained."""

    kept = 0

    def fit(self, job: TrainJob) -> TrainResult:
        names = [name for group in job.groups for name in group.names]
        frozen = {name: "no-gradient: Odd here" for name in names[self.kept :]}
        return dataclasses.replace(super().fit(job), frozen=frozen)


class _OneLeft(_Frozen):
    kept = 1


def test_training_nothing_is_an_error(context_for: ContextFor) -> None:
    model, step = tiny.attention(), Distill(steps=4, batch_size=8)
    with pytest.raises(TrainingError, match="none of its .* because of no-gradient: Odd here"):
        distilled(model, context_for(model, trainer=_Frozen()), step)
    model = tiny.attention()
    assert distilled(model, context_for(model, trainer=_OneLeft()), step).changed

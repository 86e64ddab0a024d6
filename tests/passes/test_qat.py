from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.calibration.batches import MIN_TRAINING_SAMPLES
from gpusq_compiler.errors import (
    OptionError,
    PostconditionError,
    PreconditionError,
    TrainingError,
)
from gpusq_compiler.ir import claims
from gpusq_compiler.passes.base import Context, PassResult
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.passes.training import MIXED
from gpusq_compiler.runtime.compare import compare
from gpusq_compiler.train.checkpoints import FolderCheckpoints
from gpusq_compiler.train.loop import OrtTrainer
from gpusq_compiler.train.losses import HardLabel, OutputError, SoftLogits
from gpusq_compiler.train.quantizers import FixedStep
from tests import tiny
from tests.recorder import DELTA, Recorder

if TYPE_CHECKING:
    from gpusq_compiler.train.job import TrainJob

ContextFor = Callable[..., Context]


def prepared(model: ir.Model, context_for: ContextFor) -> ir.Model:
    """Make the model sparse and quantized; return what it was, the teacher."""
    teacher = model.clone()
    steps = (Canonicalize(), Prune(), Quantize())
    Pipeline(passes=steps).run(model, context_for(model))
    return teacher


def trained(
    context_for: ContextFor, step: Qat, model: ir.Model | None = None, **fields: Any
) -> tuple[PassResult, TrainJob | None]:
    model = model or tiny.mlp()
    teacher = prepared(model, context_for)
    trainer = fields.pop("trainer", Recorder())
    ctx = context_for(model, **{"teacher": teacher, "trainer": trainer, **fields})
    (report,) = Pipeline(passes=(step,)).run(model, ctx)
    job = trainer.jobs[-1] if isinstance(trainer, Recorder) and trainer.jobs else None
    return report.result, job


def test_what_was_trained_is_written_back_and_the_masks_hold(context_for: ContextFor) -> None:
    model, twin = tiny.mlp(), tiny.mlp()
    prepared(twin, context_for)
    result, _ = trained(context_for, Qat(steps=3), model)
    for name in ("w1", "w2"):
        start = tiny.weight(twin, name)
        assert np.array_equal(
            tiny.weight(model, name), np.where(start != 0, start + np.float32(DELTA), 0)
        )
    for name in ("b1", "b2", "x.scale", "w1.scale"):
        start = tiny.weight(twin, name)
        assert np.array_equal(tiny.weight(model, name), start + np.float32(DELTA))
    assert not tiny.weight(model, "x.zero_point")
    assert set(result.changed) == {
        *("w1", "w2", "b1", "b2", "x.scale", "w1.scale", "h.scale", "w2.scale")
    }


def test_a_backend_that_ignores_the_masks_is_held_to_them(context_for: ContextFor) -> None:
    model = tiny.mlp()
    ones = {"values": {"w1": np.ones((16, 32), np.float32)}}
    trained(context_for, Qat(steps=1), model, trainer=Recorder(answer=ones))
    assert np.count_nonzero(tiny.weight(model, "w1")) == 16 * 32 // 2


def test_a_weight_that_trained_to_zero_may_leave_it_again(context_for: ContextFor) -> None:
    model = tiny.mlp()
    zeros = {"values": {"w1": np.zeros((16, 32), np.float32)}}
    _, job = trained(context_for, Qat(steps=1), model, trainer=Recorder(answer=zeros))
    assert job is not None
    again = Recorder()
    Pipeline(passes=(Qat(steps=1),)).run(model, context_for(model, trainer=again))
    mask = again.jobs[0].masks["w1"]
    assert (mask.reshape(4, 4, 32).sum(axis=1) == 2).all()


def test_the_job_says_what_the_options_say(context_for: ContextFor) -> None:
    step = Qat(
        steps=7,
        batch_size=5,
        learning_rate=0.25,
        weight_decay=0.125,
        warmup=0.5,
        losses=(OutputError(weight=3.0), SoftLogits()),
        temperature=4.0,
        scale_learning_rate=0.75,
        evaluate_every=2,
    )
    _, job = trained(context_for, step)
    assert job is not None
    assert (job.steps, job.batch_size, job.warmup, job.evaluate_every) == (7, 5, 0.5, 2)
    assert job.terms == (OutputError(weight=3.0), SoftLogits(temperature=4.0))
    weights, scales = job.groups
    assert (weights.learning_rate, weights.weight_decay, weights.relative) == (
        0.25,
        0.125,
        False,
    )
    assert set(weights.names) == {"w1", "b1", "w2", "b2"}
    assert (scales.learning_rate, scales.weight_decay, scales.relative) == (0.75, 0, True)
    assert set(scales.names) == {"x.scale", "w1.scale", "h.scale", "w2.scale"}
    assert set(job.masks) == {"w1", "w2"}
    assert job.label == "qat"
    assert job.quantizer == step.quantizer


def test_a_quantizer_that_learns_no_scale_trains_none(context_for: ContextFor) -> None:
    model = tiny.mlp()
    result, job = trained(context_for, Qat(steps=1, quantizer=FixedStep()), model)
    assert job is not None
    assert len(job.groups) == 1
    assert not any("scale" in name for name in result.changed)


def test_the_teacher_is_the_dense_model(context_for: ContextFor) -> None:
    model = tiny.mlp()
    trainer = Recorder()
    steps = (Canonicalize(), Prune(), Quantize(), Qat(steps=1))
    Pipeline(passes=steps).run(model, context_for(model, trainer=trainer))
    teacher = trainer.jobs[0].teacher
    assert teacher is not None
    assert np.array_equal(tiny.weight(teacher, "w1"), tiny.weight(tiny.mlp(), "w1"))
    assert "QuantizeLinear" not in tiny.operators(teacher)


def test_features_are_found_or_named(context_for: ContextFor) -> None:
    _, found = trained(context_for, Qat(steps=1), tiny.residual())
    _, named = trained(context_for, Qat(steps=1, features=("a", "h")))
    assert found is not None
    assert named is not None
    assert found.features == ("s",)
    assert named.features == ("a", "h")


def test_a_feature_that_only_one_has_is_refused(context_for: ContextFor) -> None:
    with pytest.raises(OptionError, match=r"qat.features: .* no common tensor 'hh'.*mean h"):
        trained(context_for, Qat(steps=1, features=("hh",)))


def test_defaults_are_resolved_and_reported(context_for: ContextFor) -> None:
    model = tiny.mlp()
    prepared(model, context_for)
    (report,) = Pipeline(passes=(Qat(),)).run(model, context_for(model))
    ran = report.ran
    assert isinstance(ran, Qat)
    assert ran.losses == MIXED
    assert ran.steps is not None
    assert ran.steps > 0
    assert ran.batch_size is not None
    assert 0 < ran.batch_size <= 24
    assert ran.evaluate_every == max(1, ran.steps // 10)
    assert report.result.metrics == {
        "steps": ran.steps,
        "best_step": ran.steps,
        "loss_at_start": 1.0,
        "loss_at_best": 0.5,
    }
    assert report.result.series["held_out"] == [1.0, 1.0, 0.5]
    assert len(report.result.series["blocks/loss"]) == round(0.25 * ran.steps)
    assert len(report.result.series["loss"]) == ran.steps - round(0.25 * ran.steps)


def test_a_budget_is_measured_once_and_kept_for_a_resumed_run(context_for: ContextFor) -> None:
    steps = []
    for speed, resume in ((0.5, False), (50.0, True)):
        model = tiny.mlp()
        store = FolderCheckpoints(context_for(model).workdir / "checkpoints", resume=resume)
        result, _ = trained(
            context_for, Qat(), model, trainer=Recorder(speed=speed), budget=60.0,
            checkpoints=store,
        )  # fmt: skip
        steps.append(result.metrics["steps"])
    assert 1 < steps[0] <= 120
    assert steps[1] == steps[0]


def test_steps_that_were_asked_for_beat_the_budget(context_for: ContextFor) -> None:
    _, job = trained(context_for, Qat(steps=3), budget=0.001)
    assert job is not None
    assert job.steps == 3


def test_findings_tell_what_did_not_move(context_for: ContextFor) -> None:
    answer = {
        "best_step": 0,
        "frozen": {"w1": "no gradient reaches it"},
        "held_out": ((0, 1.0), (2, 2.0)),
    }
    result, _ = trained(context_for, Qat(steps=2), trainer=Recorder(answer=answer))
    found = {finding.rule: finding for finding in result.skipped}
    assert found["no-gradient"].where == "w1"
    told = f"qat: {found['no-improvement']}"  # as a report prints it
    assert told.startswith("qat: model: 2 steps did not lower the loss")


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_no_success(loss: float, context_for: ContextFor) -> None:
    answer = {"held_out": ((0, 1.0), (2, loss))}
    with pytest.raises(PostconditionError, match=r"qat: the loss is"):
        trained(context_for, Qat(steps=2), trainer=Recorder(answer=answer))


def test_a_weight_that_is_not_finite_is_no_success(context_for: ContextFor) -> None:
    answer = {"values": {"b1": np.full(32, np.nan, np.float32)}}
    with pytest.raises(PostconditionError, match="b1: holds NaN or infinity"):
        trained(context_for, Qat(steps=1), trainer=Recorder(answer=answer))


def test_without_a_trainer_it_says_so(context_for: ContextFor) -> None:
    with pytest.raises(PreconditionError, match=r"qat: there is no training backend"):
        trained(context_for, Qat(steps=1), trainer=None)


def test_without_data_it_says_how_to_give_some(context_for: ContextFor) -> None:
    with pytest.raises(PreconditionError, match=r"qat: needs samples.*--data"):
        trained(context_for, Qat(steps=1), data=None)


def test_too_few_samples_are_refused(context_for: ContextFor) -> None:
    data = tiny.samples(tiny.mlp(), MIN_TRAINING_SAMPLES - 2)
    one = tiny.samples(tiny.mlp(), 1)
    with pytest.raises(PreconditionError, match=r"samples are too few .* at least 10"):
        trained(context_for, Qat(steps=1), data=data, held_out=one)
    trained(context_for, Qat(steps=1), data=data, held_out=tiny.samples(tiny.mlp(), 2))


def test_a_model_without_float_weights_is_refused(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 16] x) => (float[N, 16] y)
    <float scale = {0.1}, int8 zero = {0}> {
        q = QuantizeLinear(x, scale, zero)
        y = DequantizeLinear(q, scale, zero)
    }""")
    for node in model.graph:
        node.metadata_props[claims.PASS] = "quantize"
    steps = (Qat(steps=1),)
    with pytest.raises(OptionError, match="already frozen"):
        Pipeline(passes=steps).run(model, context_for(model))
    with pytest.raises(PreconditionError, match="no operator of the model has float"):
        Qat(steps=1).precheck(model, context_for(model))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", -1),
        ("batch_size", 0),
        ("evaluate_every", 0),
        ("learning_rate", -0.1),
        ("learning_rate", np.nan),
        ("weight_decay", np.inf),
        ("warmup", -1.0),
        ("scale_learning_rate", -1.0),
        ("scale_learning_rate", np.nan),
        ("temperature", 0.0),
        ("temperature", np.nan),
    ],
)
def test_numbers_that_cannot_be_are_refused(option: str, value: float) -> None:
    with pytest.raises(OptionError, match=rf"qat.{option}"):
        Qat(**{option: value})  # type: ignore[arg-type]


def test_no_losses_are_refused() -> None:
    with pytest.raises(OptionError, match=r"qat.losses"):
        Qat(losses=())


@pytest.mark.training
def test_training_brings_the_student_nearer_to_the_teacher(context_for: ContextFor) -> None:
    model = tiny.mlp()
    teacher = prepared(model, context_for)
    data = tiny.samples(model, 256)
    before = compare(teacher, model, data)["y"].cosine
    ctx = context_for(model, teacher=teacher, trainer=OrtTrainer(), data=data)
    step = Qat(steps=60, batch_size=32, learning_rate=0.01, losses=(SoftLogits(),))
    Pipeline(passes=(step, Freeze())).run(model, ctx)
    after = compare(teacher, model, data)["y"].cosine
    assert 1 - after < 0.5 * (1 - before)


@pytest.mark.training
def test_training_gives_the_same_bytes_twice(context_for: ContextFor) -> None:
    results = []
    for _ in range(2):
        model = tiny.attention()
        teacher = prepared(model, context_for)
        ctx = context_for(model, teacher=teacher, trainer=OrtTrainer(), seed=3)
        Pipeline(passes=(Qat(steps=4, batch_size=8),)).run(model, ctx)
        results.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert results[0] == results[1]


@pytest.mark.training
def test_losses_that_do_not_apply_are_an_error(context_for: ContextFor) -> None:
    model = tiny.mlp()
    teacher = prepared(model, context_for)
    ctx = context_for(model, teacher=teacher, trainer=OrtTrainer())
    with pytest.raises(TrainingError, match="none of the losses hard-label applies"):
        Pipeline(passes=(Qat(steps=1, losses=(HardLabel(),)),)).run(model, ctx)

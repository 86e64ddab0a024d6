from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir import claims
from gpusq_compiler.passes.base import Context, PassResult
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.distill import Distill
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.recipe import plan_of
from gpusq_compiler.sparsity.nm import violations
from gpusq_compiler.sparsity.scores import Magnitude
from gpusq_compiler.train.loop import OrtTrainer
from tests import tiny
from tests.recorder import Recorder

if TYPE_CHECKING:
    from pathlib import Path


ContextFor = Callable[..., Context]


def distilled(model: ir.Model, ctx: Context, step: Distill) -> PassResult:
    steps = (Canonicalize(), Prune(score=Magnitude()), step)
    return Pipeline(passes=steps).run(model, ctx)[-1].result


def test_the_full_path_is_what_passes_and_preset_say() -> None:
    names = ["canonicalize", "prune", "distill", "quantize", "qat", "freeze"]
    for plan in (plan_of("prune,distill,qat"), plan_of(recipe="gpusq-vit")):
        assert [step.name for step in plan.pipeline.passes] == names


@pytest.mark.training
def test_training_brings_every_critical_layer_nearer(context_for: ContextFor) -> None:
    model = tiny.attention()
    ctx = context_for(model, trainer=OrtTrainer(probe=False))
    result = distilled(model, ctx, Distill(steps=40, batch_size=16, learning_rate=3e-3))
    rows = result.tables["features"]
    assert rows
    assert all(float(row["after"] or 9) < float(row["before"] or 0) for row in rows)
    recorded = claims.feature_losses(model)
    assert recorded == pytest.approx({str(r["tensor"]): r["after"] for r in rows}, rel=1e-5)
    for value, claim in claims.sparse_values(model):
        assert value.const_value is not None
        assert not len(violations(value.const_value.numpy(), axis=claim.axis))


def test_records_survive_a_file_and_weigh_the_second_stage(
    context_for: ContextFor, tmp_path: Path
) -> None:
    model = tiny.attention()
    dense = Canonicalize()(model)
    distilled(model, context_for(model), Distill(steps=4, batch_size=8))
    ir.save(model, tmp_path / "sparse.onnx")
    again = ir.load(tmp_path / "sparse.onnx")
    losses = claims.feature_losses(again)
    assert list(losses.values()) == [1.0, 2.0, 3.0, 4.0]
    recorder = Recorder()
    ctx = context_for(again, trainer=recorder, teacher=dense)
    steps = (Quantize(), Qat(steps=1, batch_size=8))
    Pipeline(passes=steps).run(again, ctx)
    factors = recorder.jobs[0].factors
    assert list(factors.values()) == pytest.approx([0.4, 0.8, 1.2, 1.6])
    assert np.mean(list(factors.values())) == pytest.approx(1.0)
    assert set(factors) == set(recorder.jobs[0].features)


def test_the_weights_can_be_switched_off(context_for: ContextFor) -> None:
    model = tiny.attention()
    distilled(model, context_for(model), Distill(steps=4, batch_size=8))
    assert Qat(weight_factor="off").factors(model) == {}
    assert len(Qat().factors(model)) == 4


def test_a_record_that_is_no_number_is_refused(context_for: ContextFor) -> None:
    model = tiny.attention()
    distilled(model, context_for(model), Distill(steps=4, batch_size=8))
    first = next(iter(claims.feature_losses(model)))
    value = next(v for node in model.graph for v in node.outputs if v.name == first)
    value.metadata_props[claims.FEATURE_LOSS] = "much"
    with pytest.raises(ModelError, match="'much' is no number"):
        claims.feature_losses(model)

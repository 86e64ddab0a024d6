"""What prune does when it may look at data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpusq_compiler.errors import OptionError
from gpusq_compiler.ir import query
from gpusq_compiler.passes.base import Context, PassResult
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.runtime.session import Session
from gpusq_compiler.sparsity.nm import violations
from gpusq_compiler.sparsity.scores import Magnitude, Score, SparseGpt, Taylor, Wanda
from tests import tiny
from tests.train.nets import ArraySamples

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array, Samples

ContextFor = Callable[..., Context]
DATA_AWARE: tuple[Score, ...] = (SparseGpt(), Wanda(), Taylor())


def run(model: ir.Model, ctx: Context, step: Prune) -> PassResult:
    return Pipeline(passes=(Canonicalize(), step)).run(model, ctx)[-1].result


def correlated(model: ir.Model, count: int, seed: int) -> Samples:
    """Inputs of which four directions hold nearly everything."""
    spec = tiny.samples(model, 1).take(np.array([0]))["x"]
    rng = np.random.default_rng(7)
    width = int(np.prod(spec.shape[1:]))
    directions = rng.normal(size=(4, width))
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4)) @ directions + 0.05 * rng.normal(size=(count, width))
    return ArraySamples({"x": x.reshape(count, *spec.shape[1:]).astype(np.float32)})


def outputs(model: ir.Model, samples: Samples) -> Array:
    feeds = samples.take(np.arange(samples.count))
    return next(iter(Session(model, threads=1)(feeds).values())).astype(np.float64)


def distance(model: ir.Model, dense: ir.Model, samples: Samples) -> float:
    wanted = outputs(dense, samples)
    return float(np.linalg.norm(outputs(model, samples) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("score", DATA_AWARE, ids=lambda score: score.name)
@pytest.mark.parametrize("name", tiny.MODELS)
def test_every_score_gives_the_pattern_everywhere(
    name: str, score: Score, context_for: ContextFor
) -> None:
    model = tiny.MODELS[name]()
    result = run(model, context_for(model), Prune(score=score))
    by_magnitude = {f.where for f in result.skipped if f.rule == "by-magnitude"}
    assert bool(by_magnitude) == (name == "if_branch")
    rows = {str(row["layer"]): row for row in result.tables["layers"]}
    uses = [use for use in query.weight_uses(model) if use.node.name in rows]
    assert len(uses) == len(rows) > 0
    for use in uses:
        assert use.value.const_value is not None
        weight = use.value.const_value.numpy()
        assert not len(violations(weight, axis=use.reduction))
        assert np.count_nonzero(weight) > 0


@pytest.mark.parametrize(
    ("name", "share"), [("mlp", 0.7), ("residual", 1), ("attention", 0.7)]
)
def test_sparsegpt_stays_nearer_to_the_dense_model_than_magnitude(
    name: str, share: float, context_for: ContextFor
) -> None:
    found = {}
    for score in (Magnitude(), SparseGpt()):
        dense, model = tiny.MODELS[name](), tiny.MODELS[name]()
        ctx = context_for(model, data=correlated(model, 128, 0))
        run(model, ctx, Prune(score=score))
        found[score.name] = distance(model, dense, correlated(model, 64, 1))
    assert found["sparsegpt"] < share * found["magnitude"]


def test_the_error_of_each_layer_is_reported_where_inputs_were_seen(
    context_for: ContextFor,
) -> None:
    model = tiny.mlp()
    rows = run(model, context_for(model), Prune(score=SparseGpt())).tables["layers"]
    assert all(0 < float(row["output_error"] or 0) < 1 for row in rows)
    model = tiny.mlp()
    rows = run(model, context_for(model), Prune(score=Magnitude())).tables["layers"]
    assert all(row["output_error"] is None for row in rows)


def test_auto_looks_at_data_that_the_user_gave_and_at_no_other(
    context_for: ContextFor,
) -> None:
    model = tiny.mlp()
    given = context_for(model)
    synthesised, none = context_for(model, synthesised=True), context_for(model, data=None)
    chosen = [Prune().resolve(model, ctx) for ctx in (given, synthesised, none)]
    assert [step.score.name for step in chosen] == ["sparsegpt", "magnitude", "magnitude"]
    model.graph[0].domain = "their.domain"
    model.opset_imports["their.domain"] = 1
    assert Prune().resolve(model, given).score.name == "magnitude", "it cannot be run"


def test_a_weight_that_has_the_pattern_stays_as_it_is(context_for: ContextFor) -> None:
    model = tiny.mlp()
    run(model, context_for(model), Prune(score=Magnitude()))
    before = tiny.weight(model, "w1")
    result = run(model, context_for(model), Prune(score=SparseGpt()))
    assert result.changed == ()
    assert np.array_equal(tiny.weight(model, "w1"), before)


def test_the_same_seed_gives_the_same_weights(context_for: ContextFor) -> None:
    found = []
    for _ in range(2):
        model = tiny.residual()
        run(model, context_for(model), Prune(score=SparseGpt(), samples=8))
        found.append(tiny.weight(model, "w2").tobytes())
    assert found[0] == found[1]


def test_no_samples_are_an_error() -> None:
    with pytest.raises(OptionError, match="0 is too small"):
        Prune(samples=0)

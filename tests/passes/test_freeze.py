from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import OptionError
from gpusq_compiler.ir import claims
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.base import Context, Fact, PassResult
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.runtime.session import Session
from tests import tiny

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

ContextFor = Callable[..., Context]
PLAIN = Freeze(form="plain")


def prepared(model: ir.Model, context_for: ContextFor) -> None:
    steps = (Canonicalize(), Prune(), Quantize())
    Pipeline(passes=steps).run(model, context_for(model))


def frozen(model: ir.Model, context_for: ContextFor) -> PassResult:
    prepared(model, context_for)
    (report,) = Pipeline(passes=(PLAIN,)).run(model, context_for(model))
    assert facts.verify(model, Fact.FROZEN) == ()
    return report.result


def rounded(weight: Array, scale: Array, axis: int) -> Array:
    """Codes of one channel after the other."""
    channels = np.moveaxis(weight, axis, 0)
    found = [np.clip(np.rint(c / s), -127, 127) for c, s in zip(channels, scale, strict=True)]
    return np.moveaxis(np.array(found), 0, axis).astype(np.int8)


@pytest.mark.parametrize(
    ("which", "name", "axis"),
    [("mlp", "w1", 1), ("residual", "w2", 0), ("conv_bn_relu", "w3", 0)],
)
def test_codes_replace_the_weight_and_take_its_claim(
    which: str, name: str, axis: int, context_for: ContextFor
) -> None:
    model = tiny.MODELS[which]()
    prepared(model, context_for)
    weight, scale = tiny.weight(model, name), tiny.weight(model, f"{name}.scale")
    claim = model.graph.initializers[name].metadata_props[claims.SPARSITY]
    (report,) = Pipeline(passes=(Freeze(),)).run(model, context_for(model))
    value = model.graph.initializers[f"{name}.codes"]
    assert value.dtype == ir.DataType.INT8
    assert np.array_equal(tiny.weight(model, f"{name}.codes"), rounded(weight, scale, axis))
    assert value.metadata_props[claims.SPARSITY] == claim
    assert name not in model.graph.initializers
    assert f"{name}.codes" in report.result.changed
    assert [node.op_type for node, _ in value.uses()] == ["DequantizeLinear"]


@pytest.mark.parametrize(
    "which", ["mlp", "residual", "attention", "shared_weight", "if_branch"]
)
def test_the_function_stays(which: str, context_for: ContextFor) -> None:
    model = tiny.MODELS[which]()
    x = tiny.samples(model, 4).arrays["x"]
    prepared(model, context_for)
    before = Session(model, threads=1, optimize=False)({"x": x})["y"]
    Pipeline(passes=(PLAIN,)).run(model, context_for(model))
    assert np.array_equal(Session(model, threads=1, optimize=False)({"x": x})["y"], before)


def test_activations_keep_their_quantizers(context_for: ContextFor) -> None:
    model = tiny.mlp()
    result = frozen(model, context_for)
    assert tiny.operators(model).count("QuantizeLinear") == 2
    assert tiny.operators(model).count("DequantizeLinear") == 4
    assert result.metrics == {"weights": 2}
    assert result.changed == ("w1.codes", "w2.codes")


def test_a_weight_that_is_an_output_stays_beside_its_codes(context_for: ContextFor) -> None:
    model = tiny.shared_weight()
    model.graph.outputs.append(model.graph.initializers["w"])
    frozen(model, context_for)
    assert {"w", "w.own.codes"} <= set(model.graph.initializers)


def test_a_foreign_quantizer_is_left_and_nothing_is_claimed_of_it(
    context_for: ContextFor,
) -> None:
    model = tiny.model_of("""
    net (float[N, 8] x) => (float[N, 8] y)
    <float[8, 8] v, float scale = {0.01}, int8 zero = {0}, float[8, 8] w> {
        q = QuantizeLinear(v, scale, zero)
        dq = DequantizeLinear(q, scale, zero)
        h = MatMul(x, dq)
        y = MatMul(h, w)
    }""")
    (finding,) = frozen(model, context_for).skipped
    assert (finding.rule, finding.where) == ("foreign-quantizer", "QuantizeLinear.q")
    assert "v" in model.graph.initializers
    assert "w.codes" in model.graph.initializers


def test_it_needs_a_quantized_model(context_for: ContextFor) -> None:
    model = tiny.mlp()
    with pytest.raises(OptionError, match=r"pass 'freeze': needs a model that is qdq"):
        Pipeline(passes=(Freeze(),)).run(model, context_for(model))


def test_third_non_zero_codes_cannot_be_frozen(context_for: ContextFor) -> None:
    model = tiny.mlp()
    frozen(model, context_for)
    value = model.graph.initializers["w1.codes"]
    planted = tiny.weight(model, "w1.codes").copy()
    planted[4:8, 2] = [1, 2, 3, 0]
    value.const_value = ir.tensor(planted, name="w1.codes")
    (finding,) = facts.broken_claims(model)
    assert finding.where == "tensor 'w1.codes'"
    assert "[4:8, 2] = 1, 2, 3, 0" in finding.reason

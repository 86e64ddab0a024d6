"""Which tensors of two models are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
import pytest

from gpusq_compiler.analysis.matching import matched
from gpusq_compiler.ir import edit
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpusq_compiler.passes.base import Context


def pairs_of(first: ir.Model, second: ir.Model) -> dict[str, str]:
    for model in (first, second):
        edit.infer_shapes(model)
    return {pair.name: pair.other for pair in matched(first, second)}


FLOAT = """
net (float[N, 8] x) => (float[N, 6] y) <float[8, 6] w, float[6, 6] v> {
    a = MatMul(x, w)
    r = Relu(a)
    y = MatMul(r, v)
}"""


def quantized(middle: str, ending: str) -> ir.Model:
    """The float model with a pair on ``r``, named as some tool does."""
    model = tiny.model_of("""
    net (float[N, 8] x) => (float[N, 6] y)
    <float[8, 6] w, float[6, 6] v, float scale = {0.1}, int8 zero = {0}> {
        a = MatMul(x, w)
        r = Relu(a)
        q = QuantizeLinear(r, scale, zero)
        d = DequantizeLinear(q, scale, zero)
        y = MatMul(d, v)
    }""")
    tiny.node(model, "QuantizeLinear.q").outputs[0].name = f"r{middle}"
    tiny.node(model, "DequantizeLinear.d").outputs[0].name = f"r{ending}"
    return model


def ours() -> ir.Model:
    return quantized(".quantized", ".dequantized")


def test_names() -> None:
    assert pairs_of(tiny.model_of(FLOAT), tiny.model_of(FLOAT)) == {
        "a": "a",
        "r": "r",
        "y": "y",
    }


def test_a_tensor_is_what_its_readers_see() -> None:
    float_model = tiny.model_of(FLOAT)
    assert pairs_of(float_model, ours()) == {"a": "a", "r": "r.dequantized", "y": "y"}
    assert pairs_of(ours(), float_model) == {"a": "a", "r.dequantized": "r", "y": "y"}
    both = {"a": "a", "r.dequantized": "r.dequantized", "y": "y"}
    assert pairs_of(ours(), ours()) == both


def test_a_tensor_that_somebody_reads_as_it_is_stays() -> None:
    second = ours()
    product, r = tiny.node(second, "MatMul.y"), tiny.node(second, "Relu.r").outputs[0]
    product.replace_input_with(0, r)
    assert pairs_of(tiny.model_of(FLOAT), second)["r"] == "r"


def test_a_tensor_with_two_pairs_stays() -> None:
    second = tiny.model_of("""
    net (float[N, 8] x) => (float[N, 6] y)
    <float[8, 6] w, float scale = {0.1}, int8 zero = {0}> {
        a = MatMul(x, w)
        r = Relu(a)
        q = QuantizeLinear(r, scale, zero)
        d = DequantizeLinear(q, scale, zero)
        e = DequantizeLinear(q, scale, zero)
        y = Add(d, e)
    }""")
    assert pairs_of(tiny.model_of(FLOAT), second) == {"a": "a", "r": "r", "y": "y"}


@pytest.mark.parametrize("ending", ["_DequantizeLinear_Output", "_odd"])
def test_pairs_of_two_tools_are_one_tensor(ending: str) -> None:
    found = pairs_of(ours(), quantized("_QuantizeLinear_Output", ending))
    assert found == {"a": "a", "r.dequantized": f"r{ending}", "y": "y"}


def test_a_tensor_that_is_only_there_quantized() -> None:
    second = tiny.model_of("""
    net (float[N, 8] x) => (float[N, 6] y)
    <int8[6, 6] v, float scale = {0.1}, int8 zero = {0}, float[8, 6] w> {
        h = MatMul(x, w)
        k = Relu(h)
        k_q = QuantizeLinear(k, scale, zero)
        r_DequantizeLinear_Output = DequantizeLinear(k_q, scale, zero)
        y_w = DequantizeLinear(v, scale, zero)
        y = MatMul(r_DequantizeLinear_Output, y_w)
    }""")
    found = pairs_of(tiny.model_of(FLOAT), second)
    assert found == {"r": "r_DequantizeLinear_Output", "y": "y"}


def test_two_candidates_are_none() -> None:
    second = tiny.model_of("""
    net (float[N, 8] x) => (float[N, 6] y) <float[8, 6] w, float[6, 6] v> {
        a_dequantized = MatMul(x, w)
        a_QuantizeLinear_Input = Relu(a_dequantized)
        r = Relu(a_QuantizeLinear_Input)
        y = MatMul(r, v)
    }""")
    assert pairs_of(tiny.model_of(FLOAT), second) == {"r": "r", "y": "y"}


def test_constants_and_integers_do_not_count() -> None:
    text = """
    net (float[N, 8] x) => (float[N, 6] y)
    <int8[8, 6] codes, float scale = {0.1}, int8 zero = {0}> {
        w = DequantizeLinear(codes, scale, zero)
        s = Shape(x)
        z = Reshape(x, s)
        y = MatMul(z, w)
    }"""
    assert pairs_of(tiny.model_of(text), tiny.model_of(text)) == {"z": "z", "y": "y"}


def test_sources_are_the_nearest_matched_tensors() -> None:
    first, second = tiny.residual(), tiny.residual()
    relu = tiny.node(second, "Relu.r1").outputs[0]
    relu.name = "renamed"
    found = {pair.name: pair for pair in matched(first, second)}
    assert set(found) == {"c1", "c2", "s", "y"}
    assert found["c1"].sources == frozenset()
    assert found["c2"].sources == {"c1"}, "through the Relu, which is not matched"
    assert found["s"].sources == {"c1", "c2"}
    assert (found["s"].node, found["s"].operator) == ("Add.s", "Add")


def test_what_a_body_reads_is_a_source() -> None:
    found = {pair.name: pair for pair in matched(tiny.if_branch(), tiny.if_branch())}
    assert "h" in found["y"].sources


@pytest.mark.parametrize("name", ["mlp", "conv_bn_relu", "residual", "attention"])
def test_a_compiled_model_keeps_its_tensors(
    name: str, context_for: Callable[..., Context]
) -> None:
    model = tiny.MODELS[name]()
    compiled = model.clone()
    passes = (Canonicalize(), Prune(), Quantize(), Freeze())
    Pipeline(passes=passes).run(compiled, context_for(model))
    found = pairs_of(model, compiled)
    assert all(theirs in {ours, f"{ours}.dequantized"} for ours, theirs in found.items())
    computed = {
        value.name
        for node in model.graph
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT
    }
    # A convolution in front of a BatchNormalization becomes one with it.
    assert computed - set(found) == ({"c1", "c2"} if name == "conv_bn_relu" else set())

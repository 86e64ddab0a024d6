from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir import claims
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.base import Context, Fact, PassResult
from gpusq_compiler.passes.canonicalize import FOLD_LIMIT, Canonicalize
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.runtime.session import Session
from tests import tiny

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

ContextFor = Callable[..., Context]
EPSILON = {"w1": 0.001, "w2": 1e-5}


def canonicalized(model: ir.Model, context_for: ContextFor) -> PassResult:
    (report,) = Pipeline(passes=(Canonicalize(),)).run(model, context_for(model))
    assert facts.verify(model, Fact.CANONICAL) == ()
    return report.result


def outputs(model: ir.Model, x: Array) -> Array:
    return Session(model, threads=1)({"x": x})[model.graph.outputs[0].name or ""]


@pytest.mark.parametrize("which", [name for name in tiny.MODELS if name != "bf16_matmul"])
def test_the_function_stays(which: str, context_for: ContextFor) -> None:
    model = tiny.MODELS[which]()
    x = tiny.samples(model, 4).arrays["x"]
    before = outputs(model, x)
    canonicalized(model, context_for)
    # A folded BatchNormalization rounds each of at most 75 products once more: 75 * 2**-24.
    np.testing.assert_allclose(outputs(model, x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", ["1", "2"])
def test_a_batchnorm_becomes_part_of_its_convolution(
    number: str, context_for: ContextFor
) -> None:
    model = tiny.conv_bn_relu()
    w, gain, beta, mean, var = (
        tiny.weight(model, f"{part}{number}") for part in ("w", "g", "b", "m", "var")
    )
    bias = tiny.weight(model, "bias2") if number == "2" else np.zeros(len(w), np.float32)
    canonicalized(model, context_for)
    conv = tiny.node(model, f"Conv.c{number}")
    assert "BatchNormalization" not in tiny.operators(model)
    found = [
        value.const_value.numpy() for value in conv.inputs[1:] if value and value.const_value
    ]
    for channel in range(len(w)):
        k = gain[channel] / np.sqrt(var[channel] + EPSILON[f"w{number}"])
        assert found[0][channel] == pytest.approx(k * w[channel], rel=1e-5)
        shifted = k * (bias[channel] - mean[channel]) + beta[channel]
        assert found[1][channel] == pytest.approx(shifted, rel=1e-5, abs=1e-6)


def test_a_folded_convolution_keeps_its_name_and_is_stamped(context_for: ContextFor) -> None:
    model = tiny.conv_bn_relu()
    model.graph.initializers["w2"].metadata_props["their.key"] = "kept"
    tiny.node(model, "Conv.c2").metadata_props["their.key"] = "kept"
    result = canonicalized(model, context_for)
    conv = tiny.node(model, "Conv.c2")
    assert conv.metadata_props == {"their.key": "kept", claims.PASS: "canonicalize"}
    assert conv.inputs[1] is not None
    assert conv.inputs[1].metadata_props["their.key"] == "kept"
    assert {"Conv.c1", "Conv.c2", "BatchNormalization.n1", "w1"} <= set(result.changed)
    assert (result.metrics["nodes_before"], result.metrics["nodes_after"]) == (9, 7)


def test_a_batchnorm_behind_a_convolution_that_others_read_is_left(
    context_for: ContextFor,
) -> None:
    model = tiny.model_of("""
    net (float[N, 4, 4, 4] x) => (float[N, 4, 4, 4] y)
    <float[4, 4, 1, 1] w, float[4] g, float[4] b, float[4] m, float[4] var> {
        c = Conv(x, w)
        n = BatchNormalization(c, g, b, m, var)
        y = Add(c, n)
    }""")
    (finding,) = canonicalized(model, context_for).skipped
    assert (finding.rule, finding.where) == ("batchnorm-left", "BatchNormalization.n")
    assert "BatchNormalization" in tiny.operators(model)


def test_constants_become_initializers_and_constant_parts_fold(
    context_for: ContextFor,
) -> None:
    model = tiny.model_of("""
    net (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w> {
        two = Constant<value = float {2}>()
        doubled = Mul(w, two)
        half = Constant<value_float = 0.5>()
        scaled = Mul(x, half)
        y = MatMul(scaled, doubled)
    }""")
    expected = 2 * tiny.weight(model, "w")
    result = canonicalized(model, context_for)
    assert tiny.operators(model) == ["Mul", "MatMul"]
    weight = tiny.node(model, "MatMul.y").inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    assert np.array_equal(weight.const_value.numpy(), expected)
    assert set(result.changed) >= {"Constant.two", "Mul.doubled", "Constant.half"}


def test_a_constant_that_would_swell_the_file_is_not_folded(context_for: ContextFor) -> None:
    model = tiny.model_of(f"""
    net (float[N, 4] x) => (float[N, {FOLD_LIMIT + 1}] y)
    <float one = {{1}}, int64[2] shape = {{1, {FOLD_LIMIT + 1}}}, float[4, 1] w> {{
        large = Expand(one, shape)
        h = MatMul(x, w)
        y = Mul(h, large)
    }}""")
    canonicalized(model, context_for)
    assert "Expand" in tiny.operators(model)


def test_quantizers_of_constants_are_not_folded(context_for: ContextFor) -> None:
    model = tiny.int4_weight()
    canonicalized(model, context_for)
    assert tiny.operators(model) == ["DequantizeLinear", "MatMul", "MatMul"]


def test_functions_are_inlined(context_for: ContextFor) -> None:
    proto = onnx.parser.parse_model("""
    <ir_version: 9, opset_import: ["" : 17, "their" : 1]>
    net (float[N, 4] x) => (float[N, 4] y) { y = their.twice(x) }
    <domain: "their", opset_import: ["" : 17]>
    twice (a) => (b) { b = Add(a, a) }
    """)
    model = ir.from_proto(proto)
    x = tiny.samples(model, 3).arrays["x"]
    assert next(f.rule for f in facts.verify(model, Fact.CANONICAL)) == "function"
    canonicalized(model, context_for)
    assert tiny.operators(model) == ["Add"]
    assert not model.functions
    assert np.array_equal(outputs(model, x), 2 * x)


def test_every_node_gets_a_name_of_its_own(context_for: ContextFor) -> None:
    model = tiny.mlp()
    for node, name in zip(model.graph, ("", "same", "same", None), strict=True):
        node.name = name
    assert facts.verify(model, Fact.CANONICAL)
    result = canonicalized(model, context_for)
    names = [node.name for node in model.graph]
    assert len(set(names)) == 4
    assert "same" in names
    assert result.changed


def test_an_old_opset_is_raised(context_for: ContextFor) -> None:
    model = tiny.model_of(
        """
    net (float[N, 2, 3] x) => (float[N, 2] y) {
        y = ReduceSum<axes = [2], keepdims = 0>(x)
    }""",
        opset=11,
        ir_version=6,
    )
    x = tiny.samples(model, 3).arrays["x"]
    canonicalized(model, context_for)
    assert model.opset_imports[""] == 13
    assert np.allclose(outputs(model, x), x.sum(axis=2), rtol=1e-6)


def test_an_operator_without_a_newer_form_is_refused(context_for: ContextFor) -> None:
    model = tiny.model_of(
        "net (float[N, 4] x) => (float[N, 4] y) { y = Add<axis = 0, broadcast = 1>(x, x) }",
        opset=6,
        ir_version=5,
    )
    with pytest.raises(ModelError, match=r"opset 6 cannot be raised to 13"):
        canonicalized(model, context_for)


def test_weights_that_are_inputs_become_constants(context_for: ContextFor) -> None:
    model = tiny.mlp()
    model.ir_version = 3
    model.graph.inputs.extend([model.graph.initializers[name] for name in ("w1", "b1")])
    result = canonicalized(model, context_for)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert [f.where for f in result.skipped] == ["w1", "b1"]
    assert {f.rule for f in result.skipped} == {"weight-was-input"}
    assert result.changed == ("w1", "b1")


def test_an_absent_optional_input_stays_absent(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 4] x) => (float[N, 4] y) <float six = {6}> { y = Clip(x, , six) }
    """)
    canonicalized(model, context_for)
    assert tiny.node(model, "Clip.y").inputs[1] is None


def test_the_body_of_an_if_is_folded_too(context_for: ContextFor) -> None:
    model = tiny.if_branch()
    body = tiny.node(model, "If.y").attributes["then_branch"].as_graph()
    constant = ir.node("Constant", [], {"value_float": 3.0}, name="three")
    constant.outputs[0].name = "three"
    product = ir.node("Mul", [body.outputs[0], constant.outputs[0]], name="product")
    product.outputs[0].name = "product"
    product.outputs[0].type, product.outputs[0].shape = (
        body.outputs[0].type,
        body.outputs[0].shape,
    )
    body.extend([constant, product])
    body.outputs[0] = product.outputs[0]
    result = canonicalized(model, context_for)
    assert "three" in result.changed
    assert "Constant" not in tiny.operators(model)


def test_dimensions_of_outputs_keep_their_names() -> None:
    model = tiny.model_of("""
    net (float[b, s, 4] x) => (float[b, s, 4] y) <int64[3] form = {0, -1, 4}> {
        z = Reshape(x, form)
        y = Identity(z)
    }""")
    found = Canonicalize()(model).graph.outputs[0].shape
    assert str(found) == "[b,s,4]"

"""The form for ONNX Runtime's integer kernels: which numbers stay, and which move how far."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.ir import claims, io
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.base import Context, Fact, Pass
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.lower import Lower
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.runtime.session import Session
from gpusq_compiler.trt.legality.legal import refusals
from gpusq_compiler.trt.legality.repair import repair
from gpusq_compiler.trt.legality.rules import NEWEST
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Array

ContextFor = Callable[..., Context]
FORM = Freeze(form="onnxruntime")
PLAIN = Freeze(form="plain")


def run(model: ir.Model, context_for: ContextFor, *steps: Pass) -> None:
    Pipeline(passes=steps).run(model, context_for(model))


def both(make: Callable[[], ir.Model], context_for: ContextFor) -> tuple[ir.Model, ir.Model]:
    """A model frozen plainly, and one in the form."""
    plain, formed = make(), make()
    for model, last in ((plain, PLAIN), (formed, FORM)):
        run(model, context_for, Canonicalize(), Prune(), Quantize(), last)
    return plain, formed


def outputs(model: ir.Model, x: Array) -> Array:
    return Session(model, threads=1, optimize=False)({"x": x})["y"]


def steps_of(model: ir.Model, layer: str) -> Array:
    """What one unit of a layer's sums stands for, per channel."""
    scales = []
    for value in tiny.node(model, layer).inputs[:2]:
        assert value is not None
        producer = value.producer()
        assert producer is not None
        assert producer.inputs[1] is not None
        assert producer.inputs[1].const_value is not None
        scales.append(producer.inputs[1].const_value.numpy())
    product: Array = scales[0] * scales[1]
    return product


@pytest.mark.parametrize("which", ["attention", "shared_weight", "if_branch"])
def test_without_biases_of_convolutions_no_bit_changes(
    which: str, context_for: ContextFor
) -> None:
    plain, formed = both(tiny.MODELS[which], context_for)
    x = tiny.samples(plain, 5).arrays["x"]
    assert np.array_equal(outputs(plain, x), outputs(formed, x))
    kinds = {
        node.inputs[2].dtype
        for node in facts.quantizers(formed)
        if node.op_type == "QuantizeLinear" and node.inputs[2] is not None
    }
    assert kinds == {ir.DataType.UINT8}


def test_a_bias_is_rounded_to_the_units_of_its_sums(context_for: ContextFor) -> None:
    plain, formed = both(tiny.mlp, context_for)
    bias = tiny.weight(plain, "b1")
    step = steps_of(formed, "Gemm.a")
    codes = tiny.weight(formed, "Gemm.a.bias.codes")
    assert codes.dtype == np.int32
    assert "b1" not in formed.graph.initializers
    # Half a unit, and the last bit of a bias that is 2**24 units large or more.
    assert np.all(np.abs(codes * step - bias) <= 0.5001 * step)
    assert np.array_equal(tiny.weight(formed, "Gemm.a.bias.scale"), step)
    assert facts.broken_claims(formed) == ()


BODY = "a = {layer}  h = Relu(a)  y = MatMul(h, v)"


@pytest.mark.parametrize(
    ("layer", "more"),
    [
        ("Gemm<alpha = 0.5>(x, w, b)", ""),
        ("Gemm<beta = 2.0>(x, w, b)", ""),
        ("Gemm(x, w, wide)", "float[1, 8] wide"),
        ("Gemm(x, w, x)", ""),
    ],
)
def test_a_bias_that_kernels_do_not_take_stays(
    layer: str, more: str, context_for: ContextFor
) -> None:
    held = ", ".join(filter(None, ["float[8, 8] w, float[8] b, float[8, 8] v", more]))
    model = tiny.model_of(
        f"net (float[8, 8] x) => (float[8, 8] y) <{held}> {{ {BODY.format(layer=layer)} }}"
    )
    samples = tiny.samples(model, 8)
    run(model, lambda m: context_for(m, data=samples), Canonicalize(), Quantize(), FORM)
    assert not [name for name in model.graph.initializers if name.endswith("bias.codes")]


def test_weights_that_are_nothing_beside_their_bias_get_larger_scales(
    context_for: ContextFor,
) -> None:
    def make() -> ir.Model:
        model = tiny.mlp()
        weight = tiny.weight(model, "w1").copy()
        weight[:, 3] = 0
        weight[:, 5] *= np.float32(1e-12)
        bias = tiny.weight(model, "b1") + np.float32(0.5)
        for name, array in (("w1", weight), ("b1", bias)):
            model.graph.initializers[name].const_value = ir.tensor(array, name=name)
        return model

    plain, formed = both(make, context_for)
    codes = tiny.weight(formed, "Gemm.a.bias.codes")
    assert np.abs(codes.astype(np.int64)).max() <= 2**30
    untouched = [channel for channel in range(32) if channel not in {3, 5}]
    weights = [tiny.weight(model, "w1.codes") for model in (plain, formed)]
    assert np.array_equal(weights[0][:, untouched], weights[1][:, untouched])
    assert not weights[1][:, 3].any()
    x = tiny.samples(plain, 5).arrays["x"]
    # Half a unit of each bias through the second layer, and a step of h where that tips it.
    step = float(tiny.weight(plain, "h.scale")) * float(np.abs(tiny.weight(make(), "w2")).max())
    assert np.abs(outputs(plain, x) - outputs(formed, x)).max() <= 2 * step


def stem() -> ir.Model:
    """A strided convolution of an image, and one behind it."""
    return tiny.model_of("""
    net (float[N, 3, 64, 64] x) => (float[N, 4, a, a] y)
    <float[8, 3, 3, 3] w, float[4, 8, 1, 1] v> {
        c = Conv<strides = [2, 2]>(x, w)
        h = Relu(c)
        d = Conv(h, v)
        y = Neg(d)
    }""")


def test_an_image_gets_a_fourth_channel_of_zeros(context_for: ContextFor) -> None:
    plain, formed = both(stem, context_for)
    assert tiny.weight(plain, "w.codes").shape == (8, 3, 3, 3)
    padded = tiny.weight(formed, "w.codes")
    assert padded.shape == (8, 4, 3, 3)
    assert not padded[:, 3].any()
    assert np.array_equal(padded[:, :3], tiny.weight(plain, "w.codes"))
    x = tiny.samples(plain, 5).arrays["x"]
    assert np.array_equal(outputs(plain, x), outputs(formed, x))


NO_FOURTH = {
    "not strided": "c = Conv(x, w)  y = Sqrt(c)",
    "patches": "c = Conv<strides = [3, 3]>(x, w)  y = Sqrt(c)",
    "somebody else reads it": "c = {two}(x, w)  d = {two}(x, w2)  e = Add(c, d)  y = Sqrt(e)",
    "depthwise": "c = Conv<group = 3, strides = [2, 2]>(x, own)  y = Sqrt(c)",
    "float output": "y = {two}(x, w)",
    "small": "c = {two}(x, w)  y = Sqrt(c)",
}
TWO = "Conv<strides = [2, 2]>"


@pytest.mark.parametrize("name", NO_FOURTH)
def test_near_misses_get_no_fourth_channel(name: str, context_for: ContextFor) -> None:
    side = 63 if name == "small" else 64
    model = tiny.model_of(f"""
    net (float[N, 3, {side}, {side}] x) => (float[N, c, a, a] y)
    <float[4, 3, 3, 3] w, float[4, 3, 3, 3] w2, float[3, 1, 3, 3] own> {{
        {NO_FOURTH[name].format(two=TWO)}
    }}""")
    run(model, context_for, Canonicalize(), Quantize(), FORM)
    assert "Pad" not in tiny.operators(model)


RELU6 = """
net (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y)
<float[4, 4, 1, 1] w, float[4, 4, 1, 1] v, float zero = {0}, float six = {6}> {
    c = Conv(x, w)
    h = Clip(c, zero, six)
    d = Conv(h, v)
    y = Neg(d)
}"""


@pytest.mark.parametrize(("scale", "more"), [(6 / 255, 0), (6.2 / 255, 1), (9 / 255, 1)])
def test_a_clip_that_cuts_more_than_saturation_gets_codes_before_it(
    scale: float, more: int, context_for: ContextFor
) -> None:
    model = tiny.model_of(RELU6)
    samples = tiny.samples(model, 16)
    samples.arrays["x"] *= 8
    steps = (Canonicalize(), Quantize())
    Pipeline(passes=steps).run(model, context_for(model, data=samples))
    trained = model.graph.initializers["h.scale"]
    trained.const_value = ir.tensor(np.array(scale, np.float32), name="h.scale")
    plain = model.clone()
    for one, last in ((plain, PLAIN), (model, FORM)):
        Pipeline(passes=(last,)).run(one, context_for(one, data=samples))
    count = [tiny.operators(one).count("QuantizeLinear") for one in (plain, model)]
    assert count[1] == count[0] + more
    x = samples.arrays["x"]
    assert np.array_equal(outputs(plain, x), outputs(model, x))
    before = ir.to_proto(model)
    Pipeline(passes=(FORM,)).run(model, context_for(model, data=samples))
    assert ir.to_proto(model) == before


def test_the_target_chooses_the_form(context_for: ContextFor) -> None:
    for target, form in (("onnxruntime", "onnxruntime"), ("tensorrt", "plain")):
        ctx = context_for(tiny.mlp(), target=target)
        assert Freeze().resolve(tiny.mlp(), ctx).form == form
        assert PLAIN.resolve(tiny.mlp(), ctx) == PLAIN


def test_a_plain_file_takes_the_form_later(context_for: ContextFor) -> None:
    plain, formed = both(stem, context_for)
    run(plain, context_for, FORM)
    assert ir.to_proto(plain) == ir.to_proto(formed)
    run(plain, context_for, FORM)
    assert ir.to_proto(plain) == ir.to_proto(formed)


def test_foreign_quantizers_stay_as_they_are(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 8] x) => (float[N, 8] y)
    <float scale = {0.01}, int8 zero = {0}, float[8, 8] w> {
        q = QuantizeLinear(x, scale, zero)
        d = DequantizeLinear(q, scale, zero)
        r = Relu(d)
        y = MatMul(r, w)
    }""")
    run(model, context_for, Canonicalize(), Quantize(), FORM)
    assert tiny.weight(model, "zero").dtype == np.int8
    assert tiny.weight(model, "r.zero_point").dtype == np.uint8


def test_free_sizes_are_not_stated_and_fixed_ones_are(
    context_for: ContextFor, tmp_path: Path
) -> None:
    _, formed = both(tiny.mlp, context_for)
    proto = onnx.load(io.save(formed, tmp_path / "m.onnx").path)
    for value in proto.graph.value_info:
        shape = value.type.tensor_type.shape
        assert all(size.HasField("dim_value") for size in shape.dim), value.name
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("which", ["mlp", "residual", "attention"])
def test_for_tensorrt_it_is_plain_again(which: str, context_for: ContextFor) -> None:
    _, formed = both(tiny.MODELS[which], context_for)
    assert refusals(formed, NEWEST)
    back = repair(formed).model
    assert not refusals(back, NEWEST)
    for node in facts.quantizers(back):
        assert node.inputs[2] is not None
        assert node.inputs[2].dtype == ir.DataType.INT8
    signed = [
        (old.inputs[1], new.inputs[1])
        for old, new in zip(facts.quantizers(formed), facts.quantizers(back), strict=False)
        if old.name == new.name and old.op_type == "QuantizeLinear" and _both_signs(old)
    ]
    assert signed
    for old, new in signed:  # the same grid: the scale stays to the bit
        assert old is not None
        assert new is not None
        assert old.const_value is not None
        assert new.const_value is not None
        assert old.const_value.numpy() == new.const_value.numpy()


def _both_signs(node: ir.Node) -> bool:
    zero = node.inputs[2]
    return zero is not None and zero.const_value is not None and zero.const_value.numpy() == 128


def test_lower_takes_a_file_in_the_form(context_for: ContextFor) -> None:
    _, formed = both(tiny.conv_bn_relu, context_for)
    ctx = context_for(formed, target="tensorrt")
    Pipeline(passes=(Lower(samples=8),)).run(formed, ctx)
    assert facts.verify(formed, Fact.TRT_LEGAL) == ()
    assert claims.TENSORRT in formed.metadata_props


def test_a_zero_point_of_int8_breaks_the_promise(context_for: ContextFor) -> None:
    plain, formed = both(tiny.mlp, context_for)
    for model, kind, broken in ((formed, np.uint8, set()), (plain, np.int8, {"zero-point"})):
        zero = model.graph.initializers["x.zero_point"]
        zero.const_value = ir.tensor(np.array(5, kind), name=zero.name)
        assert {f.rule for f in facts.broken_claims(model)} == broken

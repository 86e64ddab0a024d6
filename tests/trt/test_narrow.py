"""Types, weights and casts of small graphs in half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.ir import claims, edit
from gpusq_compiler.trt.half.narrow import narrow
from tests import tiny
from tests.trt.halves import FLOAT, HALF, casts, error, every, halved, run, types

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

CHAIN = """
net (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w, float[8] b> {
    a = MatMul(x, w)
    s = Add(a, b)
    y = Relu(s)
}"""
X = {"x": np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)}


def exact(
    text: str, *, tolerance: float = 2e-3, opset: int = 19, **options: object
) -> ir.Model:
    """Narrowed, and the same function: a few roundings of 2^-11, which add up."""
    model = halved(text, opset=opset, **options)  # type: ignore[arg-type]
    plain = tiny.model_of(text, opset=opset)
    assert error(run(model, X), run(plain, X)) < tolerance
    return model


def test_only_the_ends_are_cast() -> None:
    model = exact(CHAIN)
    assert casts(model) == 2
    assert set(types(model).values()) == {"FLOAT16", "FLOAT"}
    assert {v.dtype for v in model.graph.initializers.values()} == {HALF}
    signature = [(v.name, v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)]
    assert signature == [("x", FLOAT), ("y", FLOAT)]
    assert all(node.metadata_props[claims.PASS] == "test" for node in every(model))


def test_a_wide_node_in_the_middle_costs_two_casts() -> None:
    model = exact(CHAIN, wide=["s"])
    assert casts(model) == 4
    assert types(model)["s"] == "FLOAT"
    assert types(model)["b"] == "FLOAT"
    assert types(model)["w"] == "FLOAT16"


def test_a_tensor_is_cast_once_for_all_its_readers() -> None:
    text = """
    net (float[N, 8] x) => (float[N, 8] y) {
        a = Exp(x) p = Abs(a) q = Neg(a) r = Sqrt(a) s = Add(p, q) y = Sub(s, r)
    }"""
    model = exact(text, wide=["p", "q"], tolerance=0.02)
    readers = [node for node in every(model) if (node.inputs[0] or ir.Value()).name == "a"]
    assert len(readers) == 1
    assert casts(model) == 1 + 1 + 2 + 1


@pytest.mark.parametrize("both", [False, True])
def test_a_weight_that_is_read_in_both_types_is_there_twice(both: bool) -> None:
    text = """
    net (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w> {
        a = MatMul(x, w) y = MatMul(a, w)
    }"""
    plain = tiny.model_of(text, opset=19)
    plain.graph.initializers["w"].metadata_props["gpusq.sparsity"] = "2:4 axis=0"
    edit.infer_shapes(plain)
    wide = [tiny.node(plain, "MatMul.y")] if both else []
    narrow(plain, wide, HALF, author="test")
    found = {name: value.dtype for name, value in plain.graph.initializers.items()}
    assert found == ({"w": FLOAT, "w.float16": HALF} if both else {"w": HALF})
    for value in plain.graph.initializers.values():
        assert value.metadata_props["gpusq.sparsity"] == "2:4 axis=0"


def test_moves_between_wide_nodes_are_wide() -> None:
    text = """
    net (float[4, 8] x) => (float[4, 8] y) <int64[2] to = {8, 4}> {
        a = Exp(x) t = Transpose(a) r = Reshape(t, to) u = Transpose(r) b = Sqrt(u) y = Log(b)
    }"""
    model = exact(text, wide=["a", "b"])
    assert {types(model)[name] for name in "atrub"} == {"FLOAT"}
    assert casts(model) == 2
    model = exact(text, wide=["a"])
    assert types(model)["t"] == "FLOAT16"


def test_what_gives_no_floats_takes_what_there_is() -> None:
    text = """
    net (float[N, 8] x) => (bool[N, 8] y) <float c = {0.1}> {
        a = Exp(x) b = Sqrt(a) s = Shape(b) y = Greater(b, c)
    }"""
    model = halved(text, wide=["a", "b"])
    assert casts(model) == 0
    assert types(model)["c"] == "FLOAT"


def test_an_output_that_is_read_inside_is_cast_beside_it() -> None:
    text = "net (float[N, 8] x) => (float[N, 8] y, float[N, 8] z) { y = Exp(x) z = Neg(y) }"
    model = exact(text)
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert tiny.node(model, "Neg.z").inputs[0] is tiny.node(model, "Exp.y").outputs[0]
    assert casts(model) == 3


def test_casts_and_fillers_change_their_type() -> None:
    text = """
    net (int64[N] i, float[N] x) => (float[N] y) {
        a = Cast<to = 1>(i)
        s = Shape(x)
        f = ConstantOfShape<value = float[1] {0.5}>(s)
        e = ConstantOfShape(s)
        b = Add(a, f)
        c = Add(b, e)
        y = Add(c, x)
    }"""
    model = halved(text)
    assert {types(model)[name] for name in "afebc"} == {"FLOAT16"}
    assert casts(model) == 3  # that of the model, that of x and that of y
    feeds: dict[str, Array] = {"i": np.arange(4), "x": np.full(4, 2, np.float32)}
    assert np.array_equal(run(model, feeds)["y"], np.arange(4) + 2.5)


def test_where_the_standard_knows_no_half_it_stays_float() -> None:
    text = """
    net (float[1, 2, 4, 4] x) => (float[1, 2, 8, 8] y) <float[4] s = {1, 1, 2, 2}> {
        a = Relu(x)
        y = Resize<mode = "nearest">(a, , s)
    }"""
    model = halved(text)
    assert types(model)["s"] == "FLOAT"
    assert tiny.node(model, "Resize.y").outputs[0].dtype == HALF
    conv = """
    net (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) <float[2, 2, 1, 1] w> {
        a = Relu(x) b = Conv(a, w) y = Relu(b)
    }"""
    model = halved(conv, kind=ir.DataType.BFLOAT16)
    assert (types(model)["a"], types(model)["b"]) == ("BFLOAT16", "FLOAT")
    assert types(model)["w"] == "FLOAT"


BRANCH = """
net (float[N, 8] x, bool up) => (float[N, 8] y) <float[8, 8] w> {
    h = MatMul(x, w)
    b = If(up) <
        then_branch = one () => (float[N, 8] i) { i = MatMul(h, w) },
        else_branch = two () => (float[N, 8] %s) { o = Neg(h) }
    >
    y = Relu(b)
}"""


def test_bodies_stay_float_and_read_float() -> None:
    model = halved(BRANCH % "o")
    plain = tiny.model_of(BRANCH % "o")
    assert types(model)["h"] == "FLOAT16"
    assert set(model.graph.initializers) == {"w", "w.float16"}
    for up in (True, False):
        feeds = {**X, "up": np.array(up)}
        assert error(run(model, feeds), run(plain, feeds)) < 2e-3


def test_what_a_body_returns_as_it_is_stays_float() -> None:
    text = BRANCH.replace("{ o = Neg(h) }", "{ o = Identity(h) }") % "o"
    model = tiny.model_of(text)
    branch = model.graph[1].attributes["else_branch"].as_graph()
    branch.outputs[0] = tiny.node(model, "MatMul.h").outputs[0]
    branch.remove(branch[0])
    edit.infer_shapes(model)
    narrow(model, [], HALF, author="test")
    assert types(model)["h"] == "FLOAT"


QUANTIZED = """
net (float[N, 8] x) => (float[N, 8] y)
<float s = {0.03}, int8 z = {0}, int8[8, 8] w, float[8] scale_w, int8[8] zw, float[8] b> {
    r = Relu(x)
    q = QuantizeLinear(r, s, z)
    d = DequantizeLinear(q, s, z)
    dw = DequantizeLinear<axis = 1>(w, scale_w, zw)
    a = MatMul(d, dw)
    c = Add(a, b)
    y = Relu(c)
}"""


def quantized(opset: int, wide: tuple[str, ...] = (), *, scale: str = "") -> ir.Model:
    text = QUANTIZED.replace("0.03", scale or "0.03")
    return halved(text, opset=opset, wide=wide)


def test_scales_follow_what_they_scale() -> None:
    model = quantized(19)
    assert casts(model) == 2
    assert {types(model)[n] for n in ("s", "scale_w", "d", "dw", "a")} == {"FLOAT16"}


def test_before_opset_19_pairs_stand_between_casts() -> None:
    model = quantized(17)
    assert {types(model)[n] for n in ("s", "scale_w", "d", "dw")} == {"FLOAT"}
    assert types(model)["c"] == "FLOAT16"


@pytest.mark.parametrize("wide", ["d", "dw", "a", "q"])
def test_pair_and_product_have_one_type(wide: str) -> None:
    found = types(quantized(19, (wide,)))
    assert {found[n] for n in ("s", "scale_w", "d", "dw", "a")} == {"FLOAT"}
    assert found["c"] == "FLOAT16"


def test_a_pair_with_another_reader_takes_it_along() -> None:
    text = QUANTIZED.replace("c = Add(a, b)", "e = Add(a, d) c = Add(e, b)")
    found = types(halved(text, wide=["dw"]))
    assert {found[n] for n in ("s", "scale_w", "d", "a")} == {"FLOAT"}
    assert found["e"] == "FLOAT16"


def test_moves_of_codes_belong_to_the_pair() -> None:
    text = QUANTIZED.replace(
        "d = DequantizeLinear(q, s, z)",
        "t = Transpose(q) u = Transpose(t) d = DequantizeLinear(u, s, z)",
    )
    found = types(halved(text, wide=["q"]))
    assert found["d"] == found["a"] == "FLOAT"


def test_scales_in_two_types_are_one_number() -> None:
    text = """
    net (float[4, 8] x) => (float[4, 8] y, float[4, 8] z) <float s = {0.0301}, int8 o = {0}> {
        a = Relu(x) q = QuantizeLinear(a, s, o) d = DequantizeLinear(q, s, o) y = Neg(d)
        b = Abs(x) p = QuantizeLinear(b, s, o) e = DequantizeLinear(p, s, o) z = Exp(e)
    }"""
    model = halved(text, wide=["z"])
    assert types(model)["e"] == "FLOAT"
    half, single = tiny.weight(model, "s.float16"), tiny.weight(model, "s")
    assert [half.dtype, single.dtype] == [np.dtype(np.float16), np.dtype(np.float32)]
    assert single == np.float32(half) == np.float32(np.float16(0.0301))


def test_the_scale_of_a_dead_channel_becomes_a_positive_number() -> None:
    text = QUANTIZED.replace(
        "float[8] scale_w", "float[8] scale_w = {1, 1, 1, 1, 1, 1, 1, 1e-12}"
    )
    model = tiny.model_of(text, opset=19)
    codes = tiny.weight(model, "w").copy()
    codes[:, 7] = 0
    edit.replace_weight(model.graph.initializers["w"], codes)
    edit.infer_shapes(model)
    narrow(model, [], HALF, author="test")
    assert tiny.weight(model, "scale_w")[7] == np.float16(2.0**-24) > 0


def test_a_cast_that_changes_nothing_goes() -> None:
    text = """
    net (float[N, 8] x) => (float[N, 8] y) {
        a = Exp(x) h = Cast<to = 10>(a) b = Neg(h) f = Cast<to = 1>(b) y = Abs(f)
    }"""
    model = halved(text)
    assert casts(model) == 2
    assert tiny.node(model, "Neg.b").inputs[0] is tiny.node(model, "Exp.a").outputs[0]


def test_it_is_done_once() -> None:
    model = quantized(19)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    wide = [node for node in model.graph if node.metadata_props.get(claims.PASS) != "quantize"]
    narrow(model, wide, HALF, author="test")
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before

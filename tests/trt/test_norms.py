"""Norms are found whole, and what looks like one is not taken."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from gpusq_compiler.trt.half import norms
from tests import tiny

HEAD = "net (float[N, 8] x, float[N, 1] o) => (float[N, 8] y) "
WEIGHTS = (
    "<float[8] g, float[8] b, float two = {2}, float half = {0.5}, float minus = {-0.5}, "
    "float one = {1}, float eps = {1e-5}> "
)
LAYER = """{
    m = ReduceMean<axes = [-1]>(x)
    d = Sub(x, m)
    q = Pow(d, two)
    v = ReduceMean<axes = [-1]>(q)
    e = Add(v, eps)
    r = Sqrt(e)
    n = Div(d, r)
    w = Mul(n, g)
    a = Add(w, b)
    y = Relu(a)
}"""
SQUARED = LAYER.replace("Pow(d, two)", "Mul(d, d)")
ROOTED = LAYER.replace("Sqrt(e)", "Pow(e, half)")
INVERSE = LAYER.replace("Sqrt(e)", "Pow(e, minus)").replace("Div(d, r)", "Mul(d, r)")
UNBIASED = LAYER.replace("e = Add(v, eps)", "u = Mul(v, half) e = Add(eps, u)")
ROOT_MEAN_SQUARE = """{
    q = Pow(x, two)
    v = ReduceMean<axes = [-1]>(q)
    e = Add(v, eps)
    r = Sqrt(e)
    i = Reciprocal(r)
    n = Mul(x, i)
    w = Mul(g, n)
    y = Relu(w)
}"""
OVER = ROOT_MEAN_SQUARE.replace("Reciprocal(r)", "Div(one, r)")
LENGTH = """{
    q = Mul(x, x)
    v = ReduceSum(q)
    r = Sqrt(v)
    k = Max(r, eps)
    n = Div(x, k)
    y = Relu(n)
}"""
SCALED = """{
    v = ReduceMean<axes = [-1]>(x)
    r = Sqrt(v)
    y = Div(x, r)
}"""
OTHER_MUL = LAYER.replace("Pow(d, two)", "Mul(d, x)")
GATED = LAYER.replace("w = Mul(n, g)", "w = Mul(n, o)")


def parts(text: str, weights: str = WEIGHTS) -> list[str]:
    model = tiny.model_of(HEAD + weights + text)
    found = [
        [node.outputs[0].name or "" for node in n] for n in norms.written_out(model.graph)
    ]
    assert len(found) <= 1
    return sorted(found[0]) if found else []


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (LAYER, "adeqmnrvw"),
        (SQUARED, "adeqmnrvw"),
        (ROOTED, "adeqmnrvw"),
        (INVERSE, "adeqmnrvw"),
        (UNBIASED, "adeqmnruvw"),
        (ROOT_MEAN_SQUARE, "eqinrvw"),
        (OVER, "eqinrvw"),
        (LENGTH, "qrv"),
        (SCALED, ""),
        (OTHER_MUL, ""),
        (GATED, "deqmnrv"),
    ],
)
def test_a_norm_is_found_with_gain_and_bias(text: str, inside: str) -> None:
    assert parts(text) == sorted(inside)


def test_a_cube_is_no_square() -> None:
    assert parts(LAYER, WEIGHTS.replace("two = {2}", "two = {3}")) == []


def test_an_output_ends_a_norm() -> None:
    text = LAYER.replace("y = Relu(a)", "z = Relu(a)").replace(
        "n = Div(d, r)", "y = Div(d, r)"
    )
    text = text.replace("Mul(n, g)", "Mul(y, g)")
    head = HEAD.replace("(float[N, 8] y)", "(float[N, 8] y, float[N, 8] z)")
    model = tiny.model_of(head + WEIGHTS + text)
    (found,) = norms.written_out(model.graph)
    assert {node.outputs[0].name for node in found} == set("deqmrvy")


@pytest.mark.parametrize(
    ("op_type", "opset", "attributes", "inside"),
    [
        ("LayerNormalization", 17, {}, True),
        ("LayerNormalization", 17, {"stash_type": 1}, True),
        ("LayerNormalization", 17, {"stash_type": 10}, False),
        ("GroupNormalization", 18, {}, False),
        ("GroupNormalization", 21, {}, True),
        ("RMSNormalization", 23, {}, True),
        ("InstanceNormalization", 19, {}, False),
    ],
)
def test_who_computes_in_float(
    op_type: str, opset: int, attributes: dict[str, int], inside: bool
) -> None:
    node = ir.node(op_type, [ir.Value(name="x")], attributes=attributes)
    assert norms.computes_in_float(node, opset) is inside

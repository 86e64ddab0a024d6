"""Where attention is scaled: folded into W_q, or an operator on q; the function stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.passes.base import Context
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.runtime.session import Session
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Mapping

ContextFor = Callable[..., Context]

Q = "q0 = MatMul(x, wq) q = Add(q0, bq)"
K = "k0 = MatMul(x, wk) k = Add(bk, k0)"
SCORES = "s0 = MatMul(qh, kt) s = Mul(s0, c)"
TEMPLATE = """
net (float[N, 4, 16] x) => (float[N, 4, 16] y%(more)s)
<float[16, 16] wq, float[16] bq, float[16, 16] wk, float[16] bk, float[16, 16] wv,
 float[4, 4] mask, float c = {0.35}, int64[4] split = {0, 4, 2, 8},
 int64[3] merge = {0, 4, 16}, float[16, 1, 1] kernel> {
    %(q)s
    %(k)s
    v = MatMul(x, wv)
    qs = Reshape(q, split)
    %(turn)s
    ks = Reshape(k, split)
    kt = Transpose<perm = [0, 2, 3, 1]>(ks)
    vs = Reshape(v, split)
    vt = Transpose<perm = [0, 2, 1, 3]>(vs)
    %(scores)s
    p = Softmax<axis = -1>(s)
    m = MatMul(p, vt)
    mt = Transpose<perm = [0, 2, 1, 3]>(m)
    y = Reshape(mt, merge)
    %(tail)s
}"""
TURN = "qh = Transpose<perm = [0, 2, 1, 3]>(qs)"


def net(**parts: str) -> str:
    usual = {"q": Q, "k": K, "turn": TURN, "scores": SCORES, "more": "", "tail": ""}
    return TEMPLATE % {**usual, **parts}


def folded(text: str) -> tuple[ir.Model, ir.Model]:
    """Canonical with the scale where it was, and folded: by name they compute the same."""
    kept = Canonicalize(attention_scale="keep")(tiny.model_of(text))
    model = Canonicalize(attention_scale="fold")(tiny.model_of(text))
    x = np.random.default_rng(2).normal(size=(3, 4, 16)).astype(np.float32)
    computed = [{v.name for n in each.graph for v in n.outputs} for each in (kept, model)]
    names = sorted(filter(None, computed[0] & computed[1]))
    assert {"y", "s"} <= set(names)
    first, second = (
        Session(each, threads=1, outputs=names, optimize=False)({"x": x})
        for each in (kept, model)
    )
    for name, value in first.items():
        # What has one name is one: one more rounding of weight and bias, 2^-24 each, in sums of 16 terms
        np.testing.assert_allclose(second[name], value, rtol=1e-4, atol=1e-5)
    return kept, model


def ratios(kept: ir.Model, model: ir.Model, *names: str) -> dict[str, float]:
    found = {}
    for name in names:
        before, after = tiny.weight(kept, name), tiny.weight(model, name)
        found[name] = float(np.mean(after / before))
        np.testing.assert_allclose(after, found[name] * before, rtol=1e-6)
    return found


def scalings(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type in {"Mul", "Div"}]


CASES: Mapping[str, tuple[str, float, float]] = {
    "behind the product": (net(), 0.35, 1),
    "before the turn": (
        net(turn="qc = Mul(qs, c) qh = Transpose<perm = [0, 2, 1, 3]>(qc)"),
        0.35 * 0.35,
        1,
    ),
    "a division": (net(scores=SCORES.replace("= Mul", "= Div")), 1 / 0.35, 1),
    "the number first": (net(scores=SCORES.replace("(s0, c)", "(c, s0)")), 0.35, 1),
    "no bias": (net(q="q = MatMul(x, wq)"), 0.35, 1),
    "a mask behind": (
        net(scores="s0 = MatMul(qh, kt) s1 = Mul(s0, c) s = Add(s1, mask)"),
        0.35,
        1,
    ),
    "both factors": (
        net(
            turn="qh0 = Transpose<perm = [0, 2, 1, 3]>(qs) qh = Mul(qh0, c)",
            scores="kc = Mul(kt, c) s = MatMul(qh, kc)",
        ),
        0.35,
        0.35,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_scale_goes_into_a_projection_of_its_own(case: str) -> None:
    text, on_q, on_k = CASES[case]
    kept, model = folded(text)
    assert scalings(model) == []
    names = ("wq", "wk") if "bq)" not in text else ("wq", "bq", "wk", "bk")
    found = ratios(kept, model, *names)
    for name, ratio in found.items():
        assert ratio == pytest.approx(on_q if name.endswith("q") else on_k, rel=1e-5)
    assert "c" not in model.graph.initializers


GEMM = """
net (float[4, 16] x) => (float[4, 16] y)
<float[16, 16] wq, float[16] bq, float[16, 16] wk, float[16, 16] wv, float c = {0.25}> {
    q = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, wq, bq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    kt = Transpose(k)
    s0 = MatMul(q, kt)
    s = Mul(s0, c)
    p = Softmax<axis = -1>(s)
    y = MatMul(p, v)
}"""


def test_weight_and_bias_of_gemm_are_scaled() -> None:
    kept = Canonicalize(attention_scale="keep")(tiny.model_of(GEMM))
    model = Canonicalize(attention_scale="fold")(tiny.model_of(GEMM))
    assert ratios(kept, model, "wq", "bq", "wk") == {"wq": 0.25, "bq": 0.25, "wk": 1}
    x = np.random.default_rng(2).normal(size=(4, 16)).astype(np.float32)
    found = [Session(each, threads=1)({"x": x})["y"] for each in (kept, model)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_a_power_of_two_changes_no_bit() -> None:
    text = net().replace("c = {0.35}", "c = {0.25}")
    kept, model = folded(text)
    assert np.array_equal(tiny.weight(model, "wq"), tiny.weight(kept, "wq") * 0.25)


SHARED = {
    "one weight for q and k": net(k="k0 = MatMul(x, wq) k = Add(k0, bk)"),
    "one bias for q and k": net(k="k0 = MatMul(x, wk) k = Add(k0, bq)"),
    "q is read elsewhere": net(tail="z = Relu(q)", more=", float[N, 4, 16] z"),
    "q is an output": net(q=Q.replace("q = Add", "z = Add") + " q = Identity(z)",
                          more=", float[N, 4, 16] z"),
    "the product is read elsewhere": net(tail="z = ReduceSum(q0)", more=", float[1, 1, 1] z"),
    "q comes from no product": net(q="q = Relu(x)"),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARED)
def test_what_serves_others_is_left_and_the_scale_sits_on_q(case: str) -> None:
    kept, model = folded(SHARED[case])
    for name in ("wq", "bq", "wk", "bk"):
        if name in kept.graph.initializers:
            assert ratios(kept, model, name)[name] == 1
    (scaling,) = [node for node in model.graph if node.op_type == "Mul"]
    ((reader, _),) = scaling.outputs[0].uses()
    assert (reader.op_type, reader.outputs[0].name) == ("MatMul", "s")
    assert reader.inputs[0] is scaling.outputs[0]


def test_one_projection_for_all_keeps_its_weights() -> None:
    kept = Canonicalize(attention_scale="keep")(tiny.attention())
    model = Canonicalize(attention_scale="fold")(tiny.attention())
    assert ratios(kept, model, "w_qkv", "b_qkv") == {"w_qkv": 1, "b_qkv": 1}
    (scaling,) = [node for node in model.graph if node.op_type == "Mul"]
    assert [node.op_type for node, _ in scaling.outputs[0].uses()] == ["MatMul"]
    x = np.random.default_rng(2).normal(size=(3, 4, 16)).astype(np.float32)
    found = [Session(each, threads=1)({"x": x})["y"] for each in (kept, model)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)


LEFT = {
    "scores that are read elsewhere": net(tail="z = Relu(s0)", more=", float[N, 2, 4, 4] z"),
    "the mask before the scale": net(
        scores="s0 = MatMul(qh, kt) s1 = Add(s0, mask) s = Mul(s1, c)"
    ),
    "a number that is computed": net(scores="n = ReduceMax<keepdims = 0>(x) "
                                            "s0 = MatMul(qh, kt) s = Mul(s0, n)"),
    "a number over the scores": net(scores="s0 = MatMul(qh, kt) s = Div(c, s0)"),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT)
def test_what_is_no_scale_is_left(case: str) -> None:
    kept, model = folded(LEFT[case])
    assert scalings(model) == scalings(kept)
    assert ratios(kept, model, "wq", "bq") == {"wq": 1, "bq": 1}


def test_half_precision_weights_are_rounded_once() -> None:
    text = net().replace("float[", "float16[").replace("float c = {0.35}", "float16[1] c")
    model = Canonicalize(attention_scale="fold")(tiny.model_of(text))
    kept = Canonicalize()(tiny.model_of(text))
    scale = np.float32(tiny.weight(kept, "c")[0])
    expected = (tiny.weight(kept, "wq").astype(np.float32) * scale).astype(np.float16)
    found = tiny.weight(model, "wq")
    assert found.dtype == np.float16
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("target", "place"), [("onnxruntime", "keep"), ("tensorrt", "fold")])
def test_the_target_chooses(target: str, place: str, context_for: ContextFor) -> None:
    model = tiny.model_of(net())
    ctx = context_for(model, target=target)
    (report,) = Pipeline(passes=(Canonicalize(),)).run(model, ctx)
    assert report.ran == Canonicalize(attention_scale=place)  # type: ignore[arg-type]
    assert scalings(model) == (["Mul"] if place == "keep" else [])
    (again,) = Pipeline(passes=(Canonicalize(),)).run(model, ctx)
    assert not again.changes


def test_a_second_run_leaves_the_scale_on_q(context_for: ContextFor) -> None:
    model = tiny.attention()
    steps = (Canonicalize(attention_scale="fold"),) * 2
    first, second = Pipeline(passes=steps).run(model, context_for(model))
    assert first.changes
    assert not second.changes

"""Bodies of Loop, Scan and If that read tensors around them, which once ended the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.train.gradients.gradient import (
    MissingGradient,
    gradient_graph,
    with_inputs,
)
from gpusq_compiler.train.gradients.reach import inputs_of
from gpusq_compiler.train.job import ParameterGroup
from gpusq_compiler.train.loop import OrtTrainer
from gpusq_compiler.train.losses import OutputError
from tests.train import nets
from tests.train.test_gradient import gradients, slope, with_loss

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.train.job import TrainResult

pytestmark = [pytest.mark.training, nets.needs_training]

HEAD = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
g (float[N,4] x) => (float[N,4] y)
<float[4,4] a = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1},
 float[4,4] b = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1},
 int64 one = {1}, int64 two = {2}, bool yes = {1}, float half = {0.5},
 float[2] steps = {1, 2}, int64[1] first = {0}> {
    p = MatMul(x, a)
"""
TAIL = """
    y = MatMul(q, b)
}"""
LOOP = """q = Loop<body = body (int64 i, bool go, float[N,4] s) => (bool on, float[N,4] t) {
        on = Identity(go)
        t = Add(s, p)
    }>(two, yes, x)"""
NESTED = """q = Loop<body = body (int64 i, bool go, float[N,4] s) => (bool on, float[N,4] t) {
        on = Identity(go)
        t = If(go)<
            then_branch = then () => (float[N,4] u) { u = Add(s, p) },
            else_branch = else () => (float[N,4] v) { v = Identity(s) }>
    }>(two, yes, x)"""
ENDLESS = """q, every = Loop<body = body (int64 i, bool go, float[N,4] s)
        => (bool on, float[N,4] t, float[N,4] seen) {
        two_now = Constant<value_int = 1>()
        on = Less(i, two_now)
        t = Add(s, p)
        seen = Identity(t)
    }>("", yes, x)"""
SCAN = """last, every = Scan<num_scan_inputs = 1, body = body (float[N,4] s, float f)
        => (float[N,4] t, float[N,4] seen) {
        scaled = Mul(p, f)
        t = Add(s, scaled)
        seen = Identity(t)
    }>(x, steps)
    q = ReduceSum<keepdims = 0>(every, first)"""
CHOICE = """m = ReduceMax<keepdims = 0>(x)
    go = Less(m, half)
    q = If(go)<
        then_branch = then () => (float[N,4] u) { u = Add(p, p) },
        else_branch = else () => (float[N,4] v) { v = Mul(p, half) }>"""
MASK = """w = Loop<body = body (int64 i, bool go, float[N,4] s) => (bool on, float[N,4] t) {
        on = Identity(go)
        t = Add(s, p)
    }>(two, yes, x)
    bits = Less(w, half)
    q = Where(bits, p, x)"""
WEIGHT = """w = Loop<body = body (int64 i, bool go, float[N,4] s) => (bool on, float[N,4] t) {
        on = Identity(go)
        t = MatMul(s, a)
    }>(two, yes, x)
    bits = Less(w, half)
    q = Where(bits, p, x)"""
SEQUENCE = """none = SequenceEmpty()
    every = Loop<body = body (int64 i, bool go, seq(float[N,4]) s)
        => (bool on, seq(float[N,4]) t) {
        on = Identity(go)
        t = SequenceInsert(s, p)
    }>(two, yes, none)
    q = SequenceAt(every, one)"""
FOREIGN = """k = com.microsoft.Gelu(p)
    q = Loop<body = body (int64 i, bool go, float[N,4] s) => (bool on, float[N,4] t) {
        on = Identity(go)
        t = Add(s, p)
    }>(two, yes, k)"""
BLOCKING = [
    pytest.param("Loop", LOOP, id="Loop"),
    pytest.param("Loop", NESTED, id="Loop, nested If"),
    pytest.param("Loop", ENDLESS, id="Loop, no count"),
    pytest.param("Loop", SEQUENCE, id="Loop, sequence"),
    pytest.param("Loop", FOREIGN, id="Loop, type unknown to inference"),
    pytest.param("Scan", SCAN, id="Scan"),
    pytest.param("If", CHOICE, id="If"),
]


def fitted(text: str, folder: Path) -> TrainResult:
    """A few steps towards a teacher with another ``b``."""
    student, teacher = (
        ir.from_onnx_text(t) for t in (text, text.replace("b = {1,", "b = {2,"))
    )
    group = ParameterGroup(names=("a", "b"), learning_rate=0.01)
    terms = (OutputError(logits=True),)
    job = nets.job(student, folder, teacher=teacher, terms=terms, groups=(group,))
    return OrtTrainer(probe=False).fit(job)


@pytest.mark.parametrize(("operator", "text"), BLOCKING)
def test_above_a_body_is_frozen_and_below_it_learns(
    tmp_path: Path, operator: str, text: str
) -> None:
    result = fitted(HEAD + text + TAIL, tmp_path)
    assert list(result.frozen) == ["a"]
    assert result.frozen["a"].startswith(f"no-gradient: {operator} ")
    assert result.held_out[-1][1] < result.held_out[0][1]


@pytest.mark.parametrize("text", [MASK, WEIGHT], ids=["computed", "parameter"])
def test_beside_a_body_everything_learns(tmp_path: Path, text: str) -> None:
    result = fitted(HEAD + text + TAIL, tmp_path)
    assert result.frozen == {}
    assert result.held_out[-1][1] < result.held_out[0][1]


def test_a_body_on_no_way_to_the_loss_freezes_nothing(tmp_path: Path) -> None:
    aside = LOOP.replace("q = Loop", "w = Loop") + "\n    k = ArgMax(w)\n    q = Identity(p)"
    text = (HEAD + aside + TAIL).replace("float[N,4] y)", "float[N,4] y, int64[1,4] k)")
    result = fitted(text, tmp_path)
    assert list(result.frozen) == ["output 'k'"]
    assert result.held_out[-1][1] < result.held_out[0][1]


@pytest.mark.parametrize(("operator", "text"), BLOCKING)
def test_the_gradient_below_a_body_is_right(operator: str, text: str) -> None:
    model = ir.from_onnx_text(HEAD + text + TAIL)
    loss = with_loss(model, "y")
    feeds = nets.samples(model, 4).arrays
    found, values = gradients(loss, ["b"], feeds)
    along = np.sign(found["b"])
    expected = slope(loss, "b", values["b"], along, feeds)
    assert np.vdot(found["b"], along) == pytest.approx(expected, rel=0.03, abs=2e-4)
    assert np.any(found["b"])


@pytest.mark.parametrize(("operator", "text"), BLOCKING)
def test_asked_for_more_it_names_the_operator(operator: str, text: str) -> None:
    loss = with_loss(ir.from_onnx_text(HEAD + text + TAIL), "y")
    with pytest.raises(MissingGradient) as info:
        gradient_graph(with_inputs(loss, ["a", "b"]), ["a", "b"], "loss")
    assert info.value.op_type in {operator, "SequenceAt"}
    assert info.value.node in {node.name for node in loss.graph.node}


def test_a_bodys_own_names_are_not_taken_from_outside() -> None:
    node = onnx.parser.parse_graph(
        f"g (float[N,4] x, float[N,4] p) => (float y) {{ {NESTED} }}"
    )
    assert set(inputs_of(node.node[0])) == {"two", "yes", "x", "p"}

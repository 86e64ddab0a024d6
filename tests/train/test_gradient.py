"""Gradients against finite differences and against the formulas of learned step sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.train.copy.trainable import training_copy
from gpusq_compiler.train.gradients.gradient import (
    MissingGradient,
    explained,
    gradient_graph,
    with_inputs,
)
from gpusq_compiler.train.gradients.reach import Reach
from gpusq_compiler.train.protograph import ProtoGraph, array_of
from gpusq_compiler.train.quantizers import LearnedStep
from tests.train import nets
from tests.train.test_trainable import operator_model, qdq_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array

pytestmark = [pytest.mark.training, nets.needs_training]


def with_loss(model: ir.Model, output: str = "logits") -> onnx.ModelProto:
    """The training copy with the mean of ``sin(3 y)`` as loss: smooth and never symmetric."""
    copy = training_copy(model, LearnedStep()).model
    graph = ProtoGraph(copy.graph, 17)
    wave = graph.node("Sin", graph.node("Mul", output, graph.constant(3.0)))
    graph.name(graph.node("ReduceMean", wave, keepdims=0), "loss")
    del copy.graph.output[:]
    copy.graph.output.append(
        onnx.helper.make_tensor_value_info("loss", onnx.TensorProto.FLOAT, [])
    )
    return copy


def gradients(
    model: onnx.ModelProto, names: list[str], feeds: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(gradients by name, values of the named tensors)."""
    values = {t.name: array_of(t) for t in model.graph.initializer if t.name in names}
    values.update({name: feeds[name] for name in names if name in feeds})
    built = gradient_graph(with_inputs(model, names), names, "loss")
    found = nets.run(built, {**feeds, **values})
    return {name: found[f"{name}_grad"] for name in names}, values


def slope(
    model: onnx.ModelProto, name: str, value: Array, along: Array, feeds: Mapping[str, Array]
) -> float:
    """Central difference of the loss along a direction."""
    moved = with_inputs(model, [name])
    step = 1e-2 / float(np.linalg.norm(along))
    ends = [
        float(
            nets.run(moved, {**feeds, name: np.asarray(value + sign * step * along, "f")})[
                "loss"
            ]
        )
        for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("name", ["transformer", "convnet"])
def test_gradients_of_every_weight_and_of_the_input(name: str) -> None:
    model = {"transformer": nets.transformer, "convnet": nets.convnet}[name]()
    feeds = nets.samples(model, 4).arrays
    loss = with_loss(model)
    names = [*nets.float_names(model), "x"]
    names = [n for n in names if not n.endswith(("_m", "_v"))]
    found, values = gradients(loss, names, feeds)
    for index, parameter in enumerate(names):
        along = np.random.default_rng(index).normal(size=values[parameter].shape)
        along = along + np.sign(found[parameter]) * 2
        expected = slope(loss, parameter, values[parameter], along, feeds)
        # float32 losses near 1 differ by 1e-7 over 1e-2 / |along|
        assert np.vdot(found[parameter], along) == pytest.approx(expected, rel=0.03, abs=2e-4)
        assert np.any(found[parameter] != 0)


def lsq_oracle(
    x: Array, scale: Array, upstream: Array, low: int, high: int
) -> tuple[Array, Array]:
    """Gradients of x and of the scale, element by element (LSQ, equations 2 and 3)."""
    of_x, of_scale = np.zeros(x.shape), np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        ratio = x[index] / scale[index]
        rounded = np.rint(ratio)
        inside = low <= rounded <= high
        of_x[index] = upstream[index] if inside else 0.0
        step = rounded - ratio if inside else min(max(rounded, low), high)
        of_scale[index] = upstream[index] * step
    return of_x, of_scale


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_scale_and_weight_get_the_lsq_gradient(axis: int | None) -> None:
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(4, 6)).astype(np.float32)
    size = 1 if axis is None else weight.shape[axis]
    scale = (np.abs(weight).max() / 90 * rng.uniform(0.8, 1.2, size)).astype(np.float32)
    if axis is None:
        scale = scale.reshape(())
    model = qdq_model(scale=scale, axis=axis, weight=weight)
    x = rng.normal(size=(4, 6)).astype(np.float32)
    loss = with_loss(model, "y")
    found, _ = gradients(loss, ["w", "scale"], {"x": x})
    wide = scale[:, None] if axis == 0 else scale
    wide = np.broadcast_to(wide, weight.shape)
    y = wide * np.clip(np.rint(weight / wide), -127, 127) + x
    upstream = 3 * np.cos(3 * y) / y.size
    of_w, of_scale = lsq_oracle(weight, wide, upstream, -127, 127)
    rest = () if axis is None else (1 - axis,)
    summed = of_scale.sum() if axis is None else of_scale.sum(axis=rest)
    assert found["w"] == pytest.approx(of_w, abs=1e-5)
    assert found["scale"].shape == scale.shape
    assert found["scale"] == pytest.approx(summed, rel=1e-3, abs=1e-3)


def test_saturated_values_have_no_gradient_and_move_the_scale() -> None:
    model = qdq_model(scale=np.array(0.01, np.float32))
    x = np.full((2, 6), 5.0, np.float32)
    x[1] = -5.0
    loss = with_loss(model, "dq")
    found, values = gradients(loss, ["x", "scale"], {"x": x})
    assert np.all(found["x"] == 0)
    expected = slope(loss, "scale", values["scale"], np.array(1.0), {"x": x})
    narrow = (127 * np.cos(3 * 1.27) - 128 * np.cos(3 * 1.28)) * 3 / 2
    assert found["scale"] == pytest.approx(narrow, rel=1e-3)
    assert np.sign(expected) == np.sign(found["scale"])


def test_a_missing_gradient_names_operator_and_node() -> None:
    model = operator_model("Det(x)")
    with pytest.raises(MissingGradient, match="node 'Det_0': Det has no gradient") as info:
        gradients(with_loss(model, "y"), ["x"], {"x": np.zeros((1, 4, 6, 6), np.float32)})
    assert info.value.op_type == "Det"


@pytest.mark.parametrize(("text", "expected"), [
    ("x was false. The gradient builder has not been registered: Elu for node e1", "Elu"),
    ("find an implementation for ResizeGrad(1) node with name 'r_Grad/R_0'", "Resize"),
    ("virtual onnxruntime::training::GetPadGradient::GetGradientDefsImpl() const Pad", "Pad"),
])  # fmt: skip
def test_the_runtimes_complaints_name_the_operator(text: str, expected: str) -> None:
    error = explained(RuntimeError(text))
    assert isinstance(error, MissingGradient)
    assert error.op_type == expected


def test_another_complaint_is_still_one_line() -> None:
    error = explained(RuntimeError("first\nFAIL : something odd\nthird"))
    assert isinstance(error, TrainingError)
    assert "\n" not in str(error)
    assert "something odd" in str(error)


def test_reach_follows_float_tensors_only() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N,2] x, float[2] a, float[2] b, float[2] c) => (float loss) {
        s = Shape(a)
        p = Add(x, b)
        q = CumSum(p, s)
        r = Add(q, c)
        loss = ReduceMean<keepdims=0>(r)
    }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.node[2].name = "cum"
    reach = Reach(proto.graph, {"s": onnx.TensorProto.INT64})
    assert reach.above(["loss"]) >= {"x", "b", "c"}
    assert "a" not in reach.above(["loss"])
    assert reach.blocked(lambda node: node.op_type == "CumSum", "loss", "abc") == {
        "b": "CumSum cum"
    }
    assert reach.by_depth("abc") == [("a", "Shape "), ("b", "Add "), ("c", "Add ")]


def test_a_parameter_used_twice_by_one_node() -> None:
    model = operator_model("Mul(x, x)")
    x = np.random.default_rng(3).normal(size=(1, 4, 6, 6)).astype(np.float32)
    found, _ = gradients(with_loss(model, "y"), ["x"], {"x": x})
    assert found["x"] == pytest.approx(6 * x * np.cos(3 * x * x) / x.size, abs=1e-5)

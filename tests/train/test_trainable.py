"""The training copy computes what the model computes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.runtime.session import Session
from gpusq_compiler.train.copy.trainable import training_copy
from gpusq_compiler.train.quantizers import LearnedStep
from tests.train import nets

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

NETS = {"transformer": nets.transformer, "convnet": nets.convnet}


def copied(model: ir.Model, *, quantize: bool = True) -> onnx.ModelProto:
    return training_copy(model, LearnedStep(), quantize=quantize).model


def cosine(a: Array, b: Array) -> float:
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("name", NETS)
def test_without_quantizers_it_equals_the_float_model(name: str) -> None:
    model = NETS[name]()
    feeds = nets.samples(model, 6).arrays
    expected = Session(model)(feeds)["logits"]
    for copy in (copied(model), copied(nets.quantized(model), quantize=False)):
        assert nets.run(copy, feeds)["logits"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_with_quantizers_it_equals_the_qdq_graph(name: str) -> None:
    model = nets.quantized(NETS[name]())
    feeds = nets.samples(model, 64).arrays
    copy = copied(model)
    expected = Session(model, optimize=False)(feeds)["logits"]
    found = nets.run(copy, feeds, optimize=False)["logits"]
    assert found == pytest.approx(expected, abs=1e-5)
    # Fusions round differently, which moves some values across a rounding threshold.
    assert cosine(nets.run(copy, feeds)["logits"], expected) >= 0.9999
    unquantized = nets.run(copied(model, quantize=False), feeds)["logits"]
    assert np.abs(unquantized - expected).max() > 10 * np.abs(found - expected).max()


@pytest.mark.parametrize("name", NETS)
def test_no_quantizer_is_left_and_names_stay(name: str) -> None:
    model = nets.quantized(NETS[name]())
    copy = copied(model)
    operators = {node.op_type for node in copy.graph.node}
    assert not operators & {"QuantizeLinear", "DequantizeLinear", "BatchNormalization"}
    produced = {name for node in copy.graph.node for name in node.output}
    dequantized = {
        v.name for node in model.graph for v in node.outputs if "_q" not in str(v.name)
    }
    assert dequantized <= produced | {"conv_bn"}
    assert len({node.name for node in copy.graph.node}) == len(copy.graph.node)


def qdq_model(
    *,
    scale: Array,
    kind: int = TensorProto.INT8,
    axis: int | None = None,
    weight: Array | None = None,
    zero: int = 0,
) -> ir.Model:
    zeros = helper.make_tensor("zero", kind, scale.shape, [zero] * scale.size)
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    x = "x" if weight is None else "w"
    nodes = [
        helper.make_node("QuantizeLinear", [x, "scale", "zero"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], **attributes),
        helper.make_node("Add", ["dq", "x"], ["y"]),
    ]
    weights = [numpy_helper.from_array(scale, "scale"), zeros]
    if weight is not None:
        weights.append(numpy_helper.from_array(weight, "w"))
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 6]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], weights)
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    return ir.from_proto(proto)


X = np.random.default_rng(0).normal(0, 3, (4, 6)).astype(np.float32)


def naive(x: Array, scale: Array, low: int, high: int) -> Array:
    result = np.zeros_like(x)
    broadcast = np.broadcast_to(scale, x.shape)
    for index in np.ndindex(*x.shape):
        code = min(max(float(np.rint(x[index] / broadcast[index])), low), high)
        result[index] = code * broadcast[index]
    return result


@pytest.mark.parametrize(("kind", "low", "high"), [
    (TensorProto.INT8, -128, 127), (TensorProto.INT4, -8, 7),
])  # fmt: skip
def test_activations_use_the_whole_range(kind: int, low: int, high: int) -> None:
    model = qdq_model(scale=np.array(0.05, np.float32), kind=kind)
    found = nets.run(copied(model), {"x": X})["y"] - X
    expected = naive(X, np.array(0.05, np.float32), low, high)
    assert found == pytest.approx(expected, abs=1e-5)
    assert expected.min() == pytest.approx(0.05 * low)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_weights_leave_out_the_most_negative_code(axis: int) -> None:
    sizes = X.shape[axis]
    scale = np.linspace(0.01, 0.02, sizes).astype(np.float32)
    model = qdq_model(scale=scale, axis=axis, weight=X)
    found = nets.run(copied(model), {"x": X})["y"] - X
    shaped = scale[:, None] if axis == 0 else scale
    assert found == pytest.approx(naive(X, shaped, -127, 127), abs=1e-5)


def test_a_zero_point_shifts_the_range() -> None:
    model = qdq_model(scale=np.array(0.05, np.float32), kind=TensorProto.UINT8, zero=128)
    found = nets.run(copied(model), {"x": X})["y"]
    assert found == pytest.approx(Session(model, optimize=False)({"x": X})["y"], abs=1e-5)


def test_codes_become_a_constant() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N,2] x) => (float[N,3] y)
    <int8[2,3] codes = {1, -2, 3, 4, -5, 6}, float[3] s = {0.5, 1, 2}, int8[3] z = {0, 0, 0}> {
        w = DequantizeLinear<axis=1>(codes, s, z)
        y = MatMul(x, w)
    }"""
    model = ir.from_onnx_text(text)
    x = np.eye(2, dtype=np.float32)
    found = nets.run(copied(model), {"x": x})["y"]
    assert found.tolist() == [[0.5, -2, 6], [2, -5, 12]]


def test_pairs_may_share_a_scale() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N,6] x) => (float[N,6] y) <float s = {0.1}, int8 z = {0}> {
        a = QuantizeLinear(x, s, z)
        b = DequantizeLinear(a, s, z)
        c = Neg(b)
        d = QuantizeLinear(c, s, z)
        e = DequantizeLinear(d, s, z)
        y = Add(b, e)
    }"""
    copy = copied(ir.from_onnx_text(text))
    assert np.abs(nets.run(copy, {"x": X})["y"]).max() == 0
    assert [node.input[1] for node in copy.graph.node if node.op_type == "Div"] == ["s", "s"]


def test_half_precision_becomes_float32() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float16[N,2] x) => (float16[N,2] y) <float16[2,2] w = {0, 0, 0, 0}> {
        a = MatMul(x, w)
        b = Cast<to=10>(a)
        y = Relu(b)
    }"""
    model = ir.from_onnx_text(text)
    model.graph.initializers["w"].const_value = ir.tensor(
        np.array([[1, 2], [3, 4]], np.float16), name="w"
    )
    found = nets.run(copied(model), {"x": np.eye(2, dtype=np.float32)})["y"]
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 2], [3, 4]]


def test_the_student_is_left_alone() -> None:
    model = nets.quantized(nets.convnet())
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    copied(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def operator_model(body: str) -> ir.Model:
    """``y`` computed from x of shape [N, 4, 6, 6]."""
    text = f"""
    <ir_version: 8, opset_import: ["": 18]>
    g (float[N,4,6,6] x) => (float y)
    <float[4] four = {{0.5, 1, 1.5, 2}}, float[4] quarter = {{0.1, 0.2, 0.3, 0.4}}> {{
        y = {body}
    }}"""
    model = ir.from_onnx_text(text)
    model.graph.outputs[0].shape = None
    return model


@pytest.mark.parametrize("pads", ["", ", pads=[1,0,2,1]"])
@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("kernel", [[3, 4], [5, 5]])
def test_average_pool_with_ceil_mode(pads: str, counted: int, kernel: list[int]) -> None:
    model = operator_model(
        f"AveragePool<kernel_shape={kernel}, strides=[2,3], ceil_mode=1, "
        f"count_include_pad={counted}{pads}>(x)"
    )
    x = np.random.default_rng(1).normal(0, 2, (2, 4, 6, 6)).astype(np.float32)
    found = nets.run(copied(model), {"x": x})["y"]
    before, after = ((1, 0), (2, 1)) if pads else ((0, 0), (0, 0))
    steps = [_pool_axis(6, kernel[a], (2, 3)[a], before[a], after[a]) for a in (0, 1)]
    expected = np.zeros((2, 4, len(steps[0]), len(steps[1])))
    for (i, rows), (j, columns) in itertools.product(*(enumerate(axis) for axis in steps)):
        inside = [[t for t in axis if 0 <= t < 6] for axis in (rows, columns)]
        window = x[:, :, inside[0][0] : inside[0][-1] + 1, inside[1][0] : inside[1][-1] + 1]
        size = len(rows) * len(columns) if counted else len(inside[0]) * len(inside[1])
        expected[:, :, i, j] = window.sum(axis=(2, 3)) / size
    assert found == pytest.approx(expected, abs=1e-5)


def _pool_axis(size: int, kernel: int, step: int, before: int, after: int) -> list[list[int]]:
    """Positions of each window inside the padded axis, as PyTorch counts them."""
    windows: list[list[int]] = []
    start = -before
    while start < size and (not windows or start + kernel - step < size + after):
        windows.append([t for t in range(start, start + kernel) if t < size + after])
        start += step
    return windows


def test_batch_normalization_in_training_mode_is_kept() -> None:
    body = "BatchNormalization<training_mode=1>(x, four, quarter, quarter, four)"
    text = ir.to_onnx_text(operator_model(body)).replace("y = Batch", "y, m, v = Batch")
    copy = copied(ir.from_onnx_text(text))
    assert "BatchNormalization" in {node.op_type for node in copy.graph.node}


def test_an_unknown_rank_is_an_error_with_the_tensor() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N,6] x, int64[M] s) => (float y) {
        a = Reshape(x, s)
        y = Transpose(a)
    }"""
    model = ir.from_onnx_text(text)
    model.graph.outputs[0].shape = None
    with pytest.raises(TrainingError, match="tensor 'a': the rank"):
        copied(model)

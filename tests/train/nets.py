"""Small networks, samples and jobs for the tests of training."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from gpusq_compiler.runtime.flavour import INSTALL_TRAINING, can_train
from gpusq_compiler.runtime.session import session_options
from gpusq_compiler.train.job import ParameterGroup, TrainJob

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Array, Feeds

EPSILON = 1e-5


class Net:
    """Writes a graph with random weights."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, out: str = "", outs: int = 1, **attrs: Any) -> str:
        name = out or f"{op.lower()}_{len(self.nodes)}"
        outputs = [name] if outs == 1 else [f"{name}_{i}" for i in range(outs)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"n_{name}", **attrs))
        return name

    def weight(self, name: str, *shape: int, scale: float | None = None) -> str:
        fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:])) or 1
        std = scale if scale is not None else fan_in**-0.5
        return self.constant(name, self.rng.normal(0, std, shape).astype(np.float32))

    def constant(self, name: str, value: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def model(
        self, x: list[int | str], outputs: dict[str, list[int | str]], opset: int = 17
    ) -> ir.Model:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in outputs.items()
            ],
            self.weights,
        )
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
        return ir.from_proto(proto)


def transformer(
    *,
    width: int = 16,
    depth: int = 1,
    tokens: int = 4,
    heads: int = 2,
    classes: int = 5,
    batch: int | str = "N",
    inputs: int = 8,
    seed: int = 0,
) -> ir.Model:
    """Embedding, blocks with fused QKV and Gelu by Erf, mean over tokens, head."""
    net = Net(seed)
    stream = net.add("MatMul", "x", net.weight("embed", inputs, width))
    stream = net.add(
        "Add", stream, net.weight("position", 1, tokens, width, scale=0.02), out="embedded"
    )
    ints = {
        "split": [0, tokens, 3, heads, width // heads],
        "merge": [0, tokens, width],
    }
    for name, value in ints.items():
        net.constant(name, np.array(value, np.int64))
    for number in (0.5, 1.0, 2.0**0.5, (width / heads) ** -0.5):
        net.constant(f"c{number:.4f}", np.array(number, np.float32))
    for block in range(depth):
        stream = _block(net, stream, f"b{block}", width, heads)
    pooled = net.add("ReduceMean", stream, axes=[1], keepdims=0)
    net.add("Gemm", pooled, net.weight("head", width, classes), _zeros(net, "head_b", classes),
            out="logits")  # fmt: skip
    return net.model([batch, tokens, inputs], {"logits": [batch, classes]})


def _zeros(net: Net, name: str, size: int) -> str:
    return net.constant(name, np.zeros(size, np.float32))


def _norm(net: Net, x: str, name: str, width: int) -> str:
    scale = net.constant(
        f"{name}_s", (1 + 0.1 * net.rng.normal(size=width)).astype(np.float32)
    )
    return net.add(
        "LayerNormalization", x, scale, _zeros(net, f"{name}_b", width), epsilon=EPSILON
    )


def _linear(net: Net, x: str, name: str, fan_in: int, fan_out: int) -> str:
    product = net.add("MatMul", x, net.weight(f"{name}_w", fan_in, fan_out))
    return net.add("Add", product, _zeros(net, f"{name}_b", fan_out))


def _block(net: Net, stream: str, name: str, width: int, heads: int) -> str:
    qkv = _linear(
        net, _norm(net, stream, f"{name}_n1", width), f"{name}_qkv", width, 3 * width
    )
    parts = net.add("Reshape", qkv, "split")
    moved = net.add("Transpose", parts, perm=[2, 0, 3, 1, 4])
    q, k, v = (
        net.add("Gather", moved, net.constant(f"{name}_{i}", np.array(i, np.int64)), axis=0)
        for i in range(3)
    )
    scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    scaled = net.add("Mul", scores, f"c{(width / heads) ** -0.5:.4f}")
    mixed = net.add("MatMul", net.add("Softmax", scaled, axis=-1), v)
    back = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]), "merge")
    stream = net.add("Add", stream, _linear(net, back, f"{name}_proj", width, width))
    hidden = _linear(
        net, _norm(net, stream, f"{name}_n2", width), f"{name}_up", width, 4 * width
    )
    erf = net.add("Erf", net.add("Div", hidden, "c1.4142"))
    gelu = net.add("Mul", net.add("Mul", hidden, net.add("Add", erf, "c1.0000")), "c0.5000")
    down = _linear(net, gelu, f"{name}_down", 4 * width, width)
    return net.add("Add", stream, down, out=f"{name}_out")


def convnet(*, batch: int | str = "N", classes: int = 4, seed: int = 0) -> ir.Model:
    """Conv-BN-Relu, a residual Conv-BN, pooling, head."""
    net = Net(seed)
    first = _conv_bn(net, "x", "c0", 3, 8)
    stem = net.add("Relu", first)
    second = net.add("Relu", _conv_bn(net, stem, "c1", 8, 8))
    third = _conv_bn(net, second, "c2", 8, 8)
    net.add("Relu", net.add("Add", third, stem), out="residual")
    flat = net.add("Flatten", net.add("GlobalAveragePool", "residual"))
    head = net.weight("head", 8, classes)
    net.add("Gemm", flat, head, _zeros(net, "head_b", classes), out="logits")
    return net.model([batch, 3, 6, 6], {"logits": [batch, classes]})


def _conv_bn(net: Net, x: str, name: str, fan_in: int, fan_out: int) -> str:
    y = net.add("Conv", x, net.weight(f"{name}_w", fan_out, fan_in, 3, 3), pads=[1, 1, 1, 1])
    running = [net.rng.uniform(0.5, 1.5, fan_out).astype(np.float32) for _ in range(4)]
    parts = ("g", "b", "m", "v")
    names = [net.constant(f"{name}_{p}", r) for p, r in zip(parts, running, strict=True)]
    return net.add("BatchNormalization", y, *names)


def quantized(model: ir.Model, *, x_scale: float = 0.02) -> ir.Model:
    """The model with Q/DQ on weights (per output channel) and inputs of Conv, Gemm, MatMul."""
    proto = ir.to_proto(model)
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    net = Net()
    done: dict[str, str] = {}
    net.constant("zero", np.array(0, np.int8))
    for node in proto.graph.node:
        if node.op_type in {"Conv", "Gemm", "MatMul"}:
            for position in (0, 1):
                name = node.input[position]
                if name not in done:
                    axis = 0 if node.op_type == "Conv" else 1
                    done[name] = _qdq(net, name, weights.get(name), axis, x_scale)
                node.input[position] = done[name]
        net.nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(net.nodes)
    proto.graph.initializer.extend(net.weights)
    return ir.from_proto(proto)


def _qdq(net: Net, name: str, weight: Array | None, axis: int, x_scale: float) -> str:
    if weight is None:
        scale, zero = net.constant(f"{name}_scale", np.array(x_scale, np.float32)), "zero"
        attributes = {}
    else:
        rest = tuple(a for a in range(weight.ndim) if a != axis)
        highest = np.abs(weight).max(axis=rest).astype(np.float32)
        scale = net.constant(f"{name}_scale", highest / np.float32(127))
        zero = net.constant(f"{name}_zero", np.zeros(highest.shape, np.int8))
        attributes = {"axis": axis}
    codes = net.add("QuantizeLinear", name, scale, zero, out=f"{name}_q", **attributes)
    return net.add("DequantizeLinear", codes, scale, zero, out=f"{name}_dq", **attributes)


@dataclasses.dataclass(frozen=True)
class ArraySamples:
    """Samples from arrays in memory."""

    arrays: dict[str, Array]

    @property
    def count(self) -> int:
        return len(self.arrays["x"])

    @property
    def has_labels(self) -> bool:
        return "labels" in self.arrays

    def take(self, rows: npt.NDArray[np.int64]) -> Feeds:
        return {name: array[rows] for name, array in self.arrays.items()}


def samples(model: ir.Model, count: int, *, classes: int = 0, seed: int = 0) -> ArraySamples:
    """Normal inputs, with random labels when there are classes."""
    rng = np.random.default_rng(seed)
    shape = list(model.graph.inputs[0].shape or ())[1:]
    x = rng.normal(size=(count, *(int(str(d)) for d in shape))).astype(np.float32)
    arrays: dict[str, Array] = {"x": x}
    if classes:
        arrays["labels"] = rng.integers(classes, size=count)
    return ArraySamples(arrays)


def float_names(model: ir.Model, *, ending: str = "") -> tuple[str, ...]:
    """Float initializers with dimensions, scalars and scales left out."""
    return tuple(
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype == ir.DataType.FLOAT
        and not name.startswith("c0.")
        and not name.startswith(("c1.", "c2."))
        and not name.endswith("_scale")
        and name.endswith(ending)
    )


def scale_names(model: ir.Model) -> tuple[str, ...]:
    """The quantizers' scales."""
    return tuple(name for name in model.graph.initializers if name.endswith("_scale"))


def job(student: ir.Model, folder: Path, **options: Any) -> TrainJob:
    """A small job with defaults for what the test does not care about."""
    data = options.pop("data", None) or samples(student, 32)
    groups = options.pop("groups", None) or (
        ParameterGroup(names=float_names(student), learning_rate=1e-3),
    )
    defaults: dict[str, Any] = {
        "teacher": None,
        "terms": (),
        "held_out": data,
        "steps": 10,
        "batch_size": 8,
        "evaluate_every": 5,
        "threads": 1,
    }
    return TrainJob(
        student=student, data=data, groups=groups, workdir=folder, **{**defaults, **options}
    )


needs_training = pytest.mark.skipif(
    not can_train(), reason=f"needs a runtime that trains; type: {INSTALL_TRAINING}"
)


def run(
    model: onnx.ModelProto | bytes, feeds: Feeds, *, optimize: bool = True
) -> dict[str, Array]:
    """All outputs of a protobuf model; feeds that it does not want are ignored."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(
        content,
        session_options(threads=1, optimize=optimize),
        providers=["CPUExecutionProvider"],
    )
    wanted = {value.name: feeds[value.name] for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, wanted), strict=True))

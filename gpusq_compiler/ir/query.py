"""Questions about a graph: where weights are, which axis they reduce, what trains."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHED = 1 << 16
"""Values that are looked at together, so that they stay in a processor's cache."""
FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
LAYOUT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast")
DEFAULT_DOMAIN = ("", "ai.onnx")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightUse:
    """One node that multiplies a constant weight with an activation.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul.
        operand: Index of the weight among the node's inputs; the activation is the other one.
        value: The weight's initializer, seen through quantizers and layout operators.
        reduction: Axis of the operand that the product sums over.
        channel: Axis of the operand that becomes the output's channels.
        groups: Groups of a convolution.
        path: Nodes between the initializer and the operand, the first reads the initializer.
    """

    node: ir.Node
    operand: int
    value: ir.Value
    reduction: int
    channel: int
    groups: int = 1
    path: tuple[ir.Node, ...] = ()

    @property
    def reader(self) -> tuple[ir.Node, int]:
        """Who reads the initializer: (node, input index)."""
        return (self.path[0], 0) if self.path else (self.node, self.operand)

    @property
    def relaid(self) -> bool:
        """Whether a layout operator stands between the initializer and the node."""
        return any(is_op(node, *LAYOUT) for node in self.path)

    @property
    def quantized(self) -> bool:
        """Whether a quantizer stands between the initializer and the node."""
        return any(is_op(node, *QUANTIZERS) for node in self.path)

    @property
    def activation(self) -> ir.Value | None:
        """What the weight is multiplied with."""
        return self.node.inputs[1 - self.operand]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight as the node reads it."""
        known = _fixed_shape(self.node.inputs[self.operand]) if self.relaid else None
        if known is not None:
            return known
        assert self.value.const_value is not None
        return tuple(int(d) for d in self.value.const_value.shape.numpy())

    @property
    def reduction_length(self) -> int:
        """Consecutive values along the reduction axis that one group of the node sums over."""
        length = self.shape[self.reduction]
        return length // self.groups if self.node.op_type == "ConvTranspose" else length

    @property
    def depthwise(self) -> bool:
        """Whether every channel is convolved on its own."""
        return self.groups > 1 and self.reduction_length == 1


def require_finite(use: WeightUse) -> None:
    """Refuse a weight that holds NaN or infinity.

    Raises:
        ModelError: It does.
    """
    tensor = use.value.const_value
    assert tensor is not None
    if tensor.dtype not in FLOATS:
        return
    flat = tensors.values(tensor).reshape(-1)
    parts = (flat[first : first + CACHED] for first in range(0, flat.size, CACHED))
    if not all(np.isfinite(part.astype(np.float32, copy=False)).all() for part in parts):
        raise ModelError(
            "the weight holds NaN or infinity",
            where=f"tensor '{use.value.name}'",
            remedy="Repair or retrain the model",
        )


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether the node is one of these operators of the default domain."""
    return node is not None and node.domain in DEFAULT_DOMAIN and node.op_type in op_types


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def constant_behind(value: ir.Value | None) -> ir.Value | None:
    """The initializer that a value is, seen through QuantizeLinear and DequantizeLinear."""
    source, path = _source(value)
    return None if any(is_op(node, *LAYOUT) for node in path) else source


def _source(value: ir.Value | None) -> tuple[ir.Value | None, tuple[ir.Node, ...]]:
    """The initializer behind quantizers and layout operators, and the way from it."""
    path: list[ir.Node] = []
    while value is not None and is_op(value.producer(), *QUANTIZERS, *LAYOUT):
        producer = value.producer()
        assert producer is not None
        path.insert(0, producer)
        value = producer.inputs[0]
    if value is None or not value.is_initializer() or value.const_value is None:
        return None, ()
    return (None, ()) if value.is_graph_input() else (value, tuple(path))


def _fixed_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.shape is None:
        return None
    dims = tuple(d for d in value.shape if isinstance(d, int))
    return dims if len(dims) == len(value.shape) else None


def weight_uses(model: ir.Model) -> Iterator[WeightUse]:
    """Every use of a constant weight in a matrix product or convolution, in graph order.

    A weight without any values, of a layer whose width is 0, is none.
    """
    return (use for use in _all_uses(model) if 0 not in use.shape)


def sum_of_nothing(model: ir.Model) -> ir.Node | None:
    """A product of a constant weight over an axis of length 0.

    ONNX makes zeros of it, runtimes refuse some: a Gemm in ONNX Runtime 1.19.
    """
    empty = (use for use in _all_uses(model) if 0 in use.shape)
    return next((use.node for use in empty if use.reduction_length == 0), None)


def _all_uses(model: ir.Model) -> Iterator[WeightUse]:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if not is_op(node, *WEIGHTED) or len(node.inputs) < 2:
            continue
        for operand in (1, 0):
            use = _weight_use(node, operand)
            if use is not None:
                yield use
                break


def _weight_use(node: ir.Node, operand: int) -> WeightUse | None:
    value, path = _source(node.inputs[operand])
    if value is None or value.const_value is None:
        return None
    rank = len(value.const_value.shape)
    if any(is_op(step, *LAYOUT) for step in path):
        shape = _fixed_shape(node.inputs[operand])
        if shape is None or math.prod(shape) != value.const_value.size:
            return None
        rank = len(shape)
    if node.op_type in {"Conv", "ConvTranspose"}:
        if operand == 0:
            return None
        reduction, channel = (1, 0) if node.op_type == "Conv" else (0, 1)
        groups = int_attribute(node, "group", 1)
        return WeightUse(
            node=node,
            operand=1,
            value=value,
            reduction=reduction,
            channel=channel,
            groups=groups,
            path=path,
        )
    if rank < 2:
        return None
    reduction, channel = rank - 2, rank - 1
    if operand == 0:
        reduction, channel = channel, reduction
    transposed = int_attribute(node, "transA" if operand == 0 else "transB", 0)
    if node.op_type == "Gemm" and transposed:
        reduction, channel = channel, reduction
    return WeightUse(
        node=node,
        operand=operand,
        value=value,
        reduction=reduction,
        channel=channel,
        path=path,
    )


OTHER_LAYERS = ("Einsum", "GRU", "LSTM", "RNN")


def other_weights(model: ir.Model) -> Iterator[tuple[ir.Node, int]]:
    """Nodes that multiply float weights in ways that no pass knows, with the weights' sizes.

    These are Einsum, recurrent layers, and operators of other domains.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain in DEFAULT_DOMAIN and node.op_type not in OTHER_LAYERS:
            continue
        size = sum(tensor.size for tensor in float_tensors(node))
        if size:
            yield node, size


def float_tensors(node: ir.Node) -> list[ir.TensorProtocol]:
    """The float constants of rank 2 and more that a node reads."""
    tensors = {value: value.const_value for value in node.inputs if value is not None}
    return [
        tensor
        for tensor in tensors.values()
        if tensor is not None and tensor.dtype in FLOATS and len(tensor.shape) > 1
    ]


def is_stem(use: WeightUse) -> bool:
    """Whether this is the first convolution on a graph input, a patch embedding excepted.

    A patch embedding (kernel equal to stride) is a linear layer on patches, not a stem.
    """
    if use.node.op_type != "Conv" or _is_patch_embedding(use):
        return False
    seen: set[ir.Value] = set()
    pending = [use.activation]
    while pending:
        value = pending.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if is_op(producer, *WEIGHTED):
            return False
        if producer is not None:
            pending.extend(producer.inputs)
    return True


def _is_patch_embedding(use: WeightUse) -> bool:
    strides = use.node.attributes.get("strides")
    kernel = use.shape[2:]
    return strides is not None and tuple(strides.as_ints()) == kernel and max(kernel) > 1


TRAINABLE_OPERANDS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Add": (0, 1),
    "Sub": (0, 1),
    "Mul": (0, 1),
    "LayerNormalization": (1, 2),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
    "QuantizeLinear": (0,),
    "Expand": (0,),
    "Concat": range(1 << 16),
}


def trainable_values(model: ir.Model) -> list[ir.Value]:
    """Float initializers that are parameters: weights, biases, norms, position tables.

    Scalars are constants of a formula, tables behind a Gather are embeddings, statistics of a
    BatchNormalization are measurements: these stay as they are.
    """
    found = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in FLOATS or tensor.size < 2:
            continue
        uses = value.uses()
        if (
            uses
            and not value.is_graph_input()
            and all(
                node.domain in DEFAULT_DOMAIN
                and index in TRAINABLE_OPERANDS.get(node.op_type, ())
                for node, index in uses
            )
        ):
            found.append(value)
    return found


def critical_values(model: ir.Model) -> list[ir.Value]:
    """Tensors whose features are distilled: the residual stream after each block.

    These are the outputs of Add nodes that join two computed tensors; where only a
    LayerNormalization reads one (post-norm transformers), the stream goes on behind it. A
    graph without any has its weighted layers' outputs taken, at most four, evenly spaced.
    """
    outputs = {value.name for value in model.graph.outputs}
    joins, layers = [], []
    for node in model.graph:
        if is_op(node, "Add") and _joins_two_branches(node):
            joins.append(_normalized(node.outputs[0]))
        elif is_op(node, *WEIGHTED):
            layers.append(node.outputs[0])
    chosen = joins or layers[:: max(1, len(layers) // 4)][:4]
    return [value for value in chosen if value.name not in outputs]


def _normalized(value: ir.Value) -> ir.Value:
    readers = {node for node, _ in value.uses()}
    if len(readers) == 1 and is_op(next(iter(readers)), "LayerNormalization"):
        return next(iter(readers)).outputs[0]
    return value


def _joins_two_branches(node: ir.Node) -> bool:
    left, right = node.inputs
    computed = [v for v in (left, right) if v is not None and v.producer() is not None]
    if len(computed) != 2:
        return False
    shapes = [value.shape for value in computed]
    if None in shapes:
        return False
    return len(set(map(str, shapes))) == 1 and len(shapes[0] or ()) >= 2


def magnitude(model: ir.Model) -> float:
    """Median over all weighted layers of the root mean square of their weights."""
    sizes = [
        float(np.sqrt(np.mean(np.square(use.value.const_value.numpy(), dtype=np.float64))))
        for use in weight_uses(model)
        if use.value.const_value is not None
    ]
    return float(np.median(sizes)) if sizes else 0.0


def is_convolutional(model: ir.Model) -> bool:
    """Whether most weights stand in convolutions over space, with kernels larger than one."""
    sizes = [
        (use, use.value.const_value.size)
        for use in weight_uses(model)
        if use.value.const_value is not None
    ]
    spatial = sum(size for use, size in sizes if _is_spatial(use))
    return 2 * spatial > sum(size for _, size in sizes)


def _is_spatial(use: WeightUse) -> bool:
    if use.node.op_type not in {"Conv", "ConvTranspose"} or use.value.const_value is None:
        return False
    return math.prod(use.value.const_value.shape.numpy()[2:]) > 1

"""Questions about the neighbourhood of a tensor that placement rules share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpusq_compiler.ir import query

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from gpusq_compiler.quant.placement.sites import Reader

MOVES = (
    "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that only move, repeat or select values of their first input: quantizing before
or behind them is the same."""

LINEAR = ("Add", "BatchNormalization", "Div", "Identity", "Mul", "Sub")
ACTIVATIONS = (
    "Abs", "Celu", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "LeakyRelu", "Max", "Min", "Mish", "Neg", "PRelu", "Pow", "Relu", "Selu", "Sigmoid",
    "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu",
)  # fmt: skip
POINTWISE = (*LINEAR, *ACTIVATIONS)

FLOAT_ONLY = (
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax",
    "MeanVarianceNormalization", "RMSNormalization", "SimplifiedLayerNormalization",
    "SkipLayerNormalization", "Softmax",
)  # fmt: skip
"""Operators whose input stays float: statistics and exponentials need the full range."""

NOT_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus")
AVERAGES = ("AveragePool", "GlobalAveragePool")

_LONGEST_EPILOGUE = 16


def commutes(node: ir.Node) -> bool:
    """Whether the operator only moves or selects values of its first input."""
    if query.is_op(node, "Resize"):
        mode = node.attributes.get("mode")
        return mode is None or mode.as_string() == "nearest"
    return query.is_op(node, *MOVES)


def origin(node: ir.Node, index: int) -> tuple[ir.Value, Reader]:
    """Where an input comes from, up through moves, and who reads that first on the way."""
    value = node.inputs[index]
    assert value is not None, "a site's reader reads something"
    reader = (node, index)
    producer = value.producer()
    while producer is not None and commutes(producer) and producer.inputs[0] is not None:
        reader, value = (producer, 0), producer.inputs[0]
        producer = value.producer()
    return value, reader


def readers_of(value: ir.Value) -> tuple[Reader, ...]:
    """Who reads the values of a tensor; its shape alone does not count."""
    return tuple(
        (node, index) for node, index in value.uses() if not query.is_op(node, "Shape", "Size")
    )


def is_computed(value: ir.Value | None) -> bool:
    """Whether a value depends on the model's inputs, as far as one can see."""
    return value is not None and not (value.is_initializer() and not value.is_graph_input())


def is_never_negative(value: ir.Value | None) -> bool:
    """Whether nothing negative can be in a computed value."""
    producer = None if value is None else value.producer()
    while producer is not None and (commutes(producer) or query.is_op(producer, *AVERAGES)):
        above = producer.inputs[0]
        producer = None if above is None else above.producer()
    return query.is_op(producer, *NOT_NEGATIVE) or cuts_at_zero(producer)


def cuts_at_zero(node: ir.Node | None) -> bool:
    """Whether an operator sets what is negative to 0, and at most cuts at a number above."""
    if node is None or query.is_op(node, "Relu"):
        return node is not None
    if not query.is_op(node, "Clip") or len(node.inputs) < 2:
        return False
    low = node.inputs[1]
    tensor = None if low is None else low.const_value
    return tensor is not None and not tensor.numpy().any()


def is_channelwise(value: ir.Value | None) -> bool:
    """Whether a constant is one number, or one per channel."""
    if value is None or value.const_value is None:
        return value is None
    shape = value.const_value.shape.numpy()
    return sum(size > 1 for size in shape) <= 1


def is_scalar(value: ir.Value | None) -> bool:
    """Whether a constant is one number."""
    tensor = None if value is None else value.const_value
    return tensor is not None and math.prod(tensor.shape.numpy()) == 1


def end_of(value: ir.Value, operators: tuple[str, ...] = POINTWISE) -> ir.Value:
    """The last tensor of the epilogue that begins with a layer's output.

    The epilogue grows by elementwise operators that read only it and constants per channel:
    a bias, Relu, ``x * sigmoid(x)``, GELU in any spelling. It ends where a single tensor
    leaves it, so that nothing inside is read by others.
    """
    inside, nodes, end = [value], set[object](), value
    for _ in range(_LONGEST_EPILOGUE):
        grown = [
            node
            for held in inside
            for node, _ in held.uses()
            if node not in nodes and _belongs(node, inside, operators)
        ]
        if not grown:
            break
        nodes.update(grown)
        inside += [node.outputs[0] for node in dict.fromkeys(grown)]
        leaving = [held for held in inside if _leaves(held, nodes)]
        if len(leaving) == 1:
            end = leaving[0]
    return end


def _belongs(node: ir.Node, inside: list[ir.Value], operators: tuple[str, ...]) -> bool:
    if not query.is_op(node, *operators) or node.graph is not inside[0].graph:
        return False
    return all(
        any(read is held for held in inside) if is_computed(read) else is_channelwise(read)
        for read in node.inputs
    )


def _leaves(value: ir.Value, nodes: set[object]) -> bool:
    outside = any(node not in nodes for node, _ in readers_of(value))
    return outside or value.is_graph_output()


def float_reader(value: ir.Value) -> ir.Node | None:
    """An operator that wants this tensor in float, seen through moves."""
    pending, seen = [value], {value}
    while pending:
        for node, _ in readers_of(pending.pop()):
            if query.is_op(node, *FLOAT_ONLY) or _begins_a_norm(node):
                return node
            if commutes(node):
                fresh = [out for out in node.outputs if out not in seen]
                seen.update(fresh)
                pending += fresh
    return None


def _begins_a_norm(node: ir.Node) -> bool:
    """Whether this is the mean of a norm that is written out: ``x - ReduceMean(x)``."""
    return query.is_op(node, "ReduceMean") and any(
        query.is_op(reader, "Sub") and reader.inputs[0] is node.inputs[0]
        for reader, _ in node.outputs[0].uses()
    )


def layers_above(value: ir.Value) -> Iterator[ir.Node]:
    """The nearest weighted layers that a tensor is computed from."""
    pending, seen = [value], {value}
    while pending:
        producer = pending.pop().producer()
        if query.is_op(producer, *query.WEIGHTED):
            assert producer is not None
            yield producer
        elif producer is not None:
            fresh = [read for read in producer.inputs if read is not None and read not in seen]
            seen.update(fresh)
            pending += fresh

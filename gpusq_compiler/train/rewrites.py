"""Operators that ONNX Runtime trains wrongly or not at all, in forms that it trains right.

Each rewrite gets the graph under construction and a node. It adds nodes and returns the name
of the tensor that takes the place of the node's first output, or returns None to keep the
node, which it may have completed. A new operator is one function and one line in `REWRITES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.train import spatial
from gpusq_compiler.train.protograph import attribute

if TYPE_CHECKING:
    import onnx

    from gpusq_compiler.train.copygraph import CopyGraph

Rewrite = Callable[["CopyGraph", "onnx.NodeProto"], "str | None"]


def _number(node: onnx.NodeProto, name: str, default: float) -> float:
    value = attribute(node, name, default)
    assert isinstance(value, int | float)
    return float(value)


def layer_normalization(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Declare all three outputs and a bias: the gradient wants both."""
    outputs = [*node.output, "", ""][:3]
    del node.output[:]
    node.output.extend(name or graph.fresh("LayerNormalization") for name in outputs)
    if len(node.input) == 2 or not node.input[2]:
        bias = graph.node("Mul", node.input[1], graph.constant(0.0))
        del node.input[2:]
        node.input.append(bias)
    return None


def batch_normalization(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """``x * a + b`` with a = scale / sqrt(var + eps), b = bias - mean * a; both train."""
    if attribute(node, "training_mode", 0):
        return None
    x, scale, bias, mean, variance = node.input
    epsilon = graph.constant(_number(node, "epsilon", 1e-5))
    deviation = graph.node("Sqrt", graph.node("Add", variance, epsilon))
    slope = graph.node("Div", scale, deviation)
    offset = graph.node("Sub", bias, graph.node("Mul", mean, slope))
    shape = graph.integers([-1] + [1] * (graph.rank(x) - 2))
    scaled = graph.node("Mul", x, graph.node("Reshape", slope, shape))
    return graph.node("Add", scaled, graph.node("Reshape", offset, shape))


def instance_normalization(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """Mean and variance over everything but batch and channel."""
    x, scale, bias = node.input
    flat = graph.node("Reshape", x, graph.integers([0, 0, -1]))
    normal = _affine(graph, _standardised(graph, flat, node), scale, bias)
    return graph.node("Reshape", normal, graph.node("Shape", x))


def group_normalization(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """Mean and variance over groups of channels; scale per group before opset 21."""
    x, scale, bias = node.input
    shape = graph.node("Shape", x)
    groups = int(_number(node, "num_groups", 1))
    flat = graph.node("Reshape", x, graph.integers([0, groups, -1]))
    normal = _standardised(graph, flat, node)
    if graph.opset >= 21:
        channels = graph.node("Reshape", normal, shape)
        normal = graph.node("Reshape", channels, graph.integers([0, 0, -1]))
    return graph.node("Reshape", _affine(graph, normal, scale, bias), shape)


def _standardised(graph: CopyGraph, flat: str, node: onnx.NodeProto) -> str:
    centred = graph.node("Sub", flat, graph.reduce("ReduceMean", flat, [2]))
    variance = graph.reduce("ReduceMean", graph.node("Mul", centred, centred), [2])
    epsilon = graph.constant(_number(node, "epsilon", 1e-5))
    return graph.node("Div", centred, graph.node("Sqrt", graph.node("Add", variance, epsilon)))


def _affine(graph: CopyGraph, x: str, scale: str, bias: str) -> str:
    column = graph.integers([-1, 1])
    scaled = graph.node("Mul", x, graph.node("Reshape", scale, column))
    return graph.node("Add", scaled, graph.node("Reshape", bias, column))


def add_chain(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``Sum(a, b, c)`` = ``(a + b) + c``."""
    total = str(node.input[0])
    for term in node.input[1:]:
        total = graph.node("Add", total, term)
    return total


def mean(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """The chain of Add over the number of terms."""
    return graph.node("Div", add_chain(graph, node), graph.constant(float(len(node.input))))


def identity(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """Dropout outside training does nothing."""
    del graph
    return str(node.input[0])


def hard_sigmoid(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``clip(alpha * x + beta, 0, 1)``."""
    alpha, beta = _number(node, "alpha", 0.2), _number(node, "beta", 0.5)
    return _hard_gate(graph, node.input[0], alpha, beta)


def hard_swish(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``x * clip(x / 6 + 1 / 2, 0, 1)``."""
    x = node.input[0]
    return graph.node("Mul", x, _hard_gate(graph, x, 1 / 6, 0.5))


def _hard_gate(graph: CopyGraph, x: str, slope: float, offset: float) -> str:
    line = graph.node("Mul", x, graph.constant(slope))
    line = graph.node("Add", line, graph.constant(offset))
    return graph.node("Clip", line, graph.constant(0.0), graph.constant(1.0))


def softplus(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``relu(x) + log(1 + exp(-abs(x)))``."""
    return _softplus(graph, node.input[0])


def mish(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``x * tanh(softplus(x))``."""
    x = node.input[0]
    return graph.node("Mul", x, graph.node("Tanh", _softplus(graph, x)))


def _softplus(graph: CopyGraph, x: str) -> str:
    decayed = graph.node("Exp", graph.node("Neg", graph.node("Abs", x)))
    rest = graph.node("Log", graph.node("Add", decayed, graph.constant(1.0)))
    return graph.node("Add", graph.node("Relu", x), rest)


def softsign(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``x / (1 + abs(x))``."""
    x = node.input[0]
    return graph.node("Div", x, graph.node("Add", graph.node("Abs", x), graph.constant(1.0)))


def prelu(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``relu(x) - slope * relu(-x)``."""
    x, slope = node.input
    below = graph.node("Mul", slope, graph.node("Relu", graph.node("Neg", x)))
    return graph.node("Sub", graph.node("Relu", x), below)


def elu(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``relu(x) + alpha * (exp(-relu(-x)) - 1)``."""
    return _elu(graph, node.input[0], _number(node, "alpha", 1.0), 1.0)


def celu(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``relu(x) + alpha * (exp(-relu(-x) / alpha) - 1)``."""
    alpha = _number(node, "alpha", 1.0)
    return _elu(graph, node.input[0], alpha, 1.0 / alpha)


def selu(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``gamma * elu(x, alpha)``."""
    alpha = _number(node, "alpha", 1.67326319217681884765625)
    gamma = _number(node, "gamma", 1.05070102214813232421875)
    unit = _elu(graph, node.input[0], alpha, 1.0)
    return graph.node("Mul", unit, graph.constant(gamma))


def _elu(graph: CopyGraph, x: str, alpha: float, inner: float) -> str:
    below = graph.node("Neg", graph.node("Relu", graph.node("Neg", x)))
    power = graph.node("Exp", graph.node("Mul", below, graph.constant(inner)))
    bent = graph.node("Sub", power, graph.constant(1.0))
    return graph.node(
        "Add", graph.node("Relu", x), graph.node("Mul", bent, graph.constant(alpha))
    )


def lp_normalization(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``x / norm(x)`` along an axis."""
    x, axis = node.input[0], int(_number(node, "axis", -1))
    if _number(node, "p", 2) == 1:
        norm = graph.reduce("ReduceSum", graph.node("Abs", x), [axis])
    else:
        squares = graph.reduce("ReduceSum", graph.node("Mul", x, x), [axis])
        norm = graph.node("Sqrt", squares)
    return graph.node("Div", x, norm)


def transpose(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Write the default permutation out: the gradient wants it."""
    if attribute(node, "perm") is not None:
        return None
    order = list(reversed(range(graph.rank(node.input[0]))))
    return graph.node("Transpose", node.input[0], perm=order)


def reduce_extreme(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Mean of the elements that equal the extreme, so that it has a gradient."""
    if not attribute(node, "keepdims", 1):
        return None
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1:
        axes = graph.value(node.input[1])
    if axes is None:
        axes = range(graph.rank(node.input[0]))
    x, where = node.input[0], [int(a) for a in np.asarray(axes)]
    best = graph.reduce(node.op_type, x, where)
    hit = graph.node("Cast", graph.node("Equal", x, best), to=1)
    total = graph.reduce("ReduceSum", graph.node("Mul", x, hit), where)
    return graph.node("Div", total, graph.reduce("ReduceSum", hit, where))


REWRITES: Mapping[str, Rewrite] = {
    "AveragePool": spatial.average_pool,
    "BatchNormalization": batch_normalization,
    "Celu": celu,
    "DepthToSpace": spatial.depth_to_space,
    "Dropout": identity,
    "Elu": elu,
    "GroupNormalization": group_normalization,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
    "Mean": mean,
    "Mish": mish,
    "PRelu": prelu,
    "Pad": spatial.pad,
    "ReduceMax": reduce_extreme,
    "ReduceMin": reduce_extreme,
    "Selu": selu,
    "Softplus": softplus,
    "Softsign": softsign,
    "SpaceToDepth": spatial.space_to_depth,
    "Sum": add_chain,
    "Transpose": transpose,
}

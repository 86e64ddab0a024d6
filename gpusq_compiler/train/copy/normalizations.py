"""Rewrites of normalizations; see `rewrites`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.train.protograph import attribute, integer_of, integers_of, number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from gpusq_compiler.train.copy.copygraph import CopyGraph

MOST_CHANNELS = 2048
"""Channels up to which a sum over neighbours is a matrix product."""


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


def root_mean_square(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``x / sqrt(mean(x^2) + eps) * scale`` over the last axes."""
    x, scale = node.input[:2]
    axis, rank = integer_of(node, "axis", -1), graph.rank(x)
    axes = list(range(axis % rank, rank))
    power = graph.reduce("ReduceMean", graph.node("Mul", x, x), axes)
    return graph.node("Mul", graph.node("Div", x, _root(graph, power, node, 1e-5)), scale)


def batch_normalization(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """``x * a + b`` with a = scale / sqrt(var + eps), b = bias - mean * a; both train."""
    if attribute(node, "training_mode", 0):
        return None
    x, scale, bias, mean, variance = node.input
    slope = graph.node("Div", scale, _root(graph, variance, node, 1e-5))
    offset = graph.node("Sub", bias, graph.node("Mul", mean, slope))
    shape = graph.integers([-1] + [1] * (graph.rank(x) - 2))
    scaled = graph.node("Mul", x, graph.node("Reshape", slope, shape))
    return graph.node("Add", scaled, graph.node("Reshape", offset, shape))


def instance_normalization(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """Mean and variance over everything but batch and channel."""
    x, scale, bias = node.input
    flat = graph.node("Reshape", x, graph.integers([0, 0, -1]))
    normal = _affine(graph, _standardised(graph, flat, [2], node), scale, bias)
    return graph.node("Reshape", normal, _whole(graph, x))


def group_normalization(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """Mean and variance over groups of channels; scale per group before opset 21."""
    x, scale, bias = node.input
    shape = _whole(graph, x)
    groups = integer_of(node, "num_groups", 1)
    flat = graph.node("Reshape", x, graph.integers([0, groups, -1]))
    normal = _standardised(graph, flat, [2], node)
    if graph.opset >= 21:
        channels = graph.node("Reshape", normal, shape)
        normal = graph.node("Reshape", channels, graph.integers([0, 0, -1]))
    return graph.node("Reshape", _affine(graph, normal, scale, bias), shape)


def mean_variance(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``(x - mean) / deviation`` over the given axes."""
    x, axes = node.input[0], integers_of(node, "axes", [0, 2, 3])
    centred, variance = _moments(graph, x, axes)
    deviation = graph.node("Add", graph.node("Sqrt", variance), graph.constant(1e-9))
    return graph.node("Div", centred, deviation)


def lp_normalization(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``x / norm(x)`` along an axis."""
    x, axis = node.input[0], integer_of(node, "axis", -1)
    if integer_of(node, "p", 2) == 1:
        norm = graph.reduce("ReduceSum", graph.node("Abs", x), [axis])
    else:
        squares = graph.reduce("ReduceSum", graph.node("Mul", x, x), [axis])
        norm = graph.node("Sqrt", squares)
    return graph.node("Div", x, norm)


def local_response(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """``x / (bias + alpha / size * sum of neighbours' squares) ^ beta``; a 1x1 Conv sums."""
    x, size = node.input[0], integer_of(node, "size", 1)
    shape = graph.shape(x)
    channels = shape[1] if shape and len(shape) > 2 else None
    if shape is None or channels is None or channels > MOST_CHANNELS:
        return None
    offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    band = (-((size - 1) // 2) <= offset) & (offset <= size // 2)
    factor = number_of(node, "alpha", 1e-4) / size
    kernel = (band * np.float32(factor)).astype(np.float32)
    kernel = kernel.reshape(channels, channels, *[1] * (len(shape) - 2))
    near = graph.node("Conv", graph.node("Mul", x, x), graph.constant(kernel))
    base = graph.node("Add", near, graph.constant(number_of(node, "bias", 1.0)))
    power = graph.node("Pow", base, graph.constant(number_of(node, "beta", 0.75)))
    return graph.node("Div", x, power)


def _whole(graph: CopyGraph, x: str) -> str:
    """The shape of a tensor: a constant where only the batch is free."""
    shape = graph.shape(x)
    if shape is None or None in shape[1:]:
        return graph.node("Shape", x)
    return graph.integers([0, *(size for size in shape[1:] if size is not None)])


def _standardised(graph: CopyGraph, x: str, axes: Sequence[int], node: onnx.NodeProto) -> str:
    centred, variance = _moments(graph, x, axes)
    return graph.node("Div", centred, _root(graph, variance, node, 1e-5))


def _moments(graph: CopyGraph, x: str, axes: Sequence[int]) -> tuple[str, str]:
    """(x minus its mean, variance)."""
    centred = graph.node("Sub", x, graph.reduce("ReduceMean", x, axes))
    return centred, graph.reduce("ReduceMean", graph.node("Mul", centred, centred), axes)


def _root(graph: CopyGraph, square: str, node: onnx.NodeProto, default: float) -> str:
    epsilon = graph.constant(number_of(node, "epsilon", default))
    return graph.node("Sqrt", graph.node("Add", square, epsilon))


def _affine(graph: CopyGraph, x: str, scale: str, bias: str) -> str:
    column = graph.integers([-1, 1])
    scaled = graph.node("Mul", x, graph.node("Reshape", scale, column))
    return graph.node("Add", scaled, graph.node("Reshape", bias, column))

"""Rewrites of sums, extremes and products over axes or inputs; see `rewrites`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx import TensorProto

from gpusq_compiler.train.protograph import attribute, integer_of, integers_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from gpusq_compiler.train.copy.copygraph import CopyGraph

MOST_FACTORS = 64


def add_chain(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``Sum(a, b, c)`` = ``(a + b) + c``."""
    total = str(node.input[0])
    for term in node.input[1:]:
        total = graph.node("Add", total, term)
    return total


def mean(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """The chain of Add over the number of terms."""
    return graph.node("Div", add_chain(graph, node), graph.constant(float(len(node.input))))


def reduce_extreme(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Mean of the elements that equal the extreme, so that it has a gradient."""
    axes = _axes(graph, node)
    if axes is None:
        return None
    extreme = _extreme(graph, node.op_type, node.input[0], axes)
    return _finished(graph, node, extreme, axes)


def global_max(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """The largest element of each channel."""
    x = node.input[0]
    return _extreme(graph, "ReduceMax", x, list(range(2, graph.rank(x))))


def global_norm(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``(sum abs(x)^p)^(1/p)`` of each channel."""
    x, p = node.input[0], float(integer_of(node, "p", 2))
    power = graph.node("Pow", graph.node("Abs", x), graph.constant(p))
    total = graph.reduce("ReduceSum", power, list(range(2, graph.rank(x))))
    return graph.node("Pow", total, graph.constant(1 / p))


def reduce_l1(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Sum of magnitudes."""
    return _summed(graph, node, graph.node("Abs", node.input[0]))


def reduce_square(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Sum of squares."""
    x = node.input[0]
    return _summed(graph, node, graph.node("Mul", x, x))


def reduce_log_sum(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Logarithm of the sum."""
    total = _summed(graph, node, node.input[0])
    return None if total is None else graph.node("Log", total)


def reduce_product(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """A chain of Mul over the slices, where they are few."""
    axes, shape = _axes(graph, node), graph.shape(node.input[0])
    sizes = [shape[axis] for axis in axes or ()] if shape else [None]
    known = [size for size in sizes if size is not None]
    if axes is None or len(known) < len(sizes) or math.prod(known) > MOST_FACTORS:
        return None
    result = str(node.input[0])
    for axis, size in zip(axes, known, strict=True):
        slices = [
            graph.node("Gather", result, graph.integers([index]), axis=axis)
            for index in range(size)
        ]
        result = slices[0]
        for factor in slices[1:]:
            result = graph.node("Mul", result, factor)
    return _finished(graph, node, result, axes)


def _extreme(graph: CopyGraph, op_type: str, x: str, axes: Sequence[int]) -> str:
    best = graph.reduce(op_type, x, axes)
    hit = graph.node("Cast", graph.node("Equal", x, best), to=TensorProto.FLOAT)
    total = graph.reduce("ReduceSum", graph.node("Mul", x, hit), axes)
    return graph.node("Div", total, graph.reduce("ReduceSum", hit, axes))


def _summed(graph: CopyGraph, node: onnx.NodeProto, terms: str) -> str | None:
    axes = _axes(graph, node)
    if axes is None:
        return None
    return _finished(graph, node, graph.reduce("ReduceSum", terms, axes), axes)


def _finished(graph: CopyGraph, node: onnx.NodeProto, kept: str, axes: Sequence[int]) -> str:
    """Drop the reduced axes if the node does."""
    if integer_of(node, "keepdims", 1) or not axes:
        return kept
    return graph.squeezed(kept, axes)


def _axes(graph: CopyGraph, node: onnx.NodeProto) -> list[int] | None:
    """Reduced axes, counted from the front; None where they are computed."""
    rank = graph.rank(node.input[0])
    stated: list[int] | None = integers_of(node, "axes", [])
    if attribute(node, "axes") is None:
        stated = graph.constant_integers(node, 1)
    if stated is None:
        return None
    if not stated and not integer_of(node, "noop_with_empty_axes", 0):
        stated = list(range(rank))
    return sorted(axis % rank for axis in stated)

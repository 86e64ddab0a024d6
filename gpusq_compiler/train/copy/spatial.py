"""Rewrites of operators that move pixels; see `rewrites`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq_compiler.train.protograph import attribute, word_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from gpusq_compiler.train.copy.copygraph import CopyGraph


def pad(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Reflect, edge and wrap padding as one Gather per padded axis; axes written out."""
    shape = graph.shape(node.input[0])
    amounts = None if shape is None else _amounts(graph, node, len(shape))
    if shape is None or amounts is None:
        return None
    if word_of(node, "mode", "constant") == "constant":
        if len(node.input) < 4 or not node.input[3]:
            return None
        flat = graph.integers(
            [amount for side in zip(*amounts, strict=True) for amount in side]
        )
        return graph.node("Pad", node.input[0], flat, *filter(None, [node.input[2]]))
    x = str(node.input[0])
    for axis, (before, after) in enumerate(amounts):
        if before == after == 0:
            continue
        size = shape[axis]
        if size is None:
            return None
        x = graph.node(
            "Gather", x, graph.integers(_rows(node, size, before, after)), axis=axis
        )
    return x


def _amounts(
    graph: CopyGraph, node: onnx.NodeProto, rank: int
) -> list[tuple[int, int]] | None:
    """(before, after) for every axis."""
    pads, axes = graph.constant_integers(node, 1), graph.constant_integers(node, 3)
    if pads is None or axes is None:
        return None
    half = len(pads) // 2
    amounts = [(0, 0)] * rank
    for axis, before, after in zip(axes or range(rank), pads[:half], pads[half:], strict=True):
        amounts[axis % rank] = before, after
    return amounts


def _rows(node: onnx.NodeProto, size: int, before: int, after: int) -> list[int]:
    """Where each row of the padded axis comes from; negative amounts crop."""
    rows = np.arange(size)[max(0, -before) : size - max(0, -after)]
    mode: Any = word_of(node, "mode", "constant")
    return [int(row) for row in np.pad(rows, (max(0, before), max(0, after)), mode=mode)]


def depth_to_space(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Reshape, Transpose, Reshape."""
    shape = _pixels(graph, node.input[0])
    block = attribute(node, "blocksize")
    if shape is None or not isinstance(block, int):
        return None
    channels, height, width = shape
    depth = channels // block**2
    if attribute(node, "mode", b"DCR") == b"DCR":
        split, order = [0, block, block, depth, height, width], [0, 3, 4, 1, 5, 2]
    else:
        split, order = [0, depth, block, block, height, width], [0, 1, 4, 2, 5, 3]
    whole = [0, depth, height * block, width * block]
    return _shuffled(graph, node.input[0], split, order, whole)


def space_to_depth(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Reshape, Transpose, Reshape."""
    shape = _pixels(graph, node.input[0])
    block = attribute(node, "blocksize")
    if shape is None or not isinstance(block, int):
        return None
    channels, height, width = shape
    rows, columns = height // block, width // block
    split = [0, channels, rows, block, columns, block]
    whole = [0, channels * block**2, rows, columns]
    return _shuffled(graph, node.input[0], split, [0, 3, 5, 1, 2, 4], whole)


def _shuffled(
    graph: CopyGraph, x: str, split: Sequence[int], order: Sequence[int], whole: Sequence[int]
) -> str:
    parts = graph.node("Reshape", x, graph.integers(split))
    moved = graph.node("Transpose", parts, perm=list(order))
    return graph.node("Reshape", moved, graph.integers(whole))


def _pixels(graph: CopyGraph, x: str) -> tuple[int, int, int] | None:
    shape = graph.shape(x)
    if shape is None or len(shape) != 4:
        return None
    _, channels, height, width = shape
    if channels is None or height is None or width is None:
        return None
    return channels, height, width

"""Rewrites of operators that move or pool pixels; see `rewrites`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.train.protograph import attribute

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.train.copygraph import CopyGraph

PAD_MODES = {b"reflect": "reflect", b"edge": "edge", b"wrap": "wrap"}


def pad(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Reflect, edge and wrap padding as one Gather per padded axis."""
    mode = attribute(node, "mode", b"constant")
    amounts = graph.value(node.input[1])
    shape = graph.shape(node.input[0])
    if mode not in PAD_MODES or amounts is None or shape is None or len(node.input) > 3:
        return None
    x, rank = str(node.input[0]), len(shape)
    for axis, (before, after) in enumerate(zip(amounts[:rank], amounts[rank:], strict=True)):
        size = shape[axis]
        if before == after == 0:
            continue
        if size is None or min(before, after) < 0:
            return None
        name = PAD_MODES[mode]
        rows = np.pad(np.arange(size), (int(before), int(after)), mode=name)  # type: ignore[call-overload]
        x = graph.node("Gather", x, graph.integers(rows), axis=axis)
    return x


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


def average_pool(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Where the gradient goes wrong: depthwise Conv with ones, then Div by the counts.

    That is with ``ceil_mode`` and with kernels larger than the input; the process would die.
    """
    kernel = [int(k) for k in np.atleast_1d(np.asarray(attribute(node, "kernel_shape")))]
    shape = graph.shape(node.input[0])
    ceil = bool(attribute(node, "ceil_mode", 0))
    if (
        shape is None
        or None in shape[1:]
        or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET"
    ):
        return None
    sizes = [int(d or 0) for d in shape[2:]]
    oversized = any(k > size for k, size in zip(kernel, sizes, strict=True))
    if not ceil and not oversized:
        return None
    windows = [_windows(node, axis, size, ceil=ceil) for axis, size in enumerate(sizes)]
    return _pooled(graph, node, kernel, windows, int(shape[1] or 0))


def _windows(node: onnx.NodeProto, axis: int, size: int, *, ceil: bool) -> _Axis:
    kernel = _at(node, "kernel_shape", axis, 1)
    rank = len(np.atleast_1d(np.asarray(attribute(node, "kernel_shape"))))
    step, dilation = _at(node, "strides", axis, 1), _at(node, "dilations", axis, 1)
    before, after = _at(node, "pads", axis, 0), _at(node, "pads", axis + rank, 0)
    span = dilation * (kernel - 1) + 1
    free = size + before + after - span
    count = (-(-free // step) if ceil else free // step) + 1
    if ceil and (count - 1) * step >= size + before:
        count -= 1
    counted_pads = bool(attribute(node, "count_include_pad", 0))
    low, high = (0, before + size + after) if counted_pads else (before, before + size)
    taps = np.arange(count)[:, None] * step + dilation * np.arange(kernel)[None]
    counts = ((taps >= low) & (taps < high)).sum(axis=1)
    end = max(0, (count - 1) * step + span - size - before)
    return _Axis(step, dilation, before, end, counts)


class _Axis:
    """One pooled axis: stride, dilation, pads and how many elements each window averages."""

    def __init__(
        self, step: int, dilation: int, before: int, after: int, counts: Array
    ) -> None:
        self.step, self.dilation = step, dilation
        self.before, self.after = before, after
        self.counts = counts


def _pooled(
    graph: CopyGraph,
    node: onnx.NodeProto,
    kernel: Sequence[int],
    axes: Sequence[_Axis],
    channels: int,
) -> str:
    ones = graph.constant(np.ones((channels, 1, *kernel), dtype=np.float32))
    total = graph.node(
        "Conv",
        node.input[0],
        ones,
        group=channels,
        kernel_shape=list(kernel),
        strides=[a.step for a in axes],
        dilations=[a.dilation for a in axes],
        pads=list(itertools.chain([a.before for a in axes], [a.after for a in axes])),
    )
    counts = np.ones((1, 1), dtype=np.float32)
    for axis in axes:
        counts = counts[..., None] * axis.counts.astype(np.float32)
    return graph.node("Div", total, graph.constant(counts))


def _at(node: onnx.NodeProto, name: str, index: int, default: int) -> int:
    values = attribute(node, name)
    return default if values is None else int(np.atleast_1d(np.asarray(values))[index])

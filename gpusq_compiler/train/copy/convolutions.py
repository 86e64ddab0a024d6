"""Rewrites of convolutions; see `rewrites`.

ConvTranspose(x, W)  =  Conv(x with zeros between its elements, W flipped and turned)
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from onnx import helper

from gpusq_compiler.train.copy.pooling import pads_of, windows_of
from gpusq_compiler.train.protograph import integer_of, integers_of, word_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from gpusq_compiler.train.copy.copygraph import CopyGraph


def conv(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Automatic padding written out: its gradient is wrong otherwise."""
    rule, kernel = word_of(node, "auto_pad", "NOTSET"), graph.sizes(node.input[1])
    sizes = graph.sizes(node.input[0])
    if rule == "NOTSET" or kernel is None or (sizes is None and rule != "VALID"):
        return None
    windows = windows_of(node, kernel, sizes or [0] * len(kernel))
    pads = [0] * 2 * len(kernel) if rule == "VALID" else pads_of(windows)
    kept = [a for a in node.attribute if a.name not in {"auto_pad", "pads"}]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("pads", pads)])
    return None


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One axis of a transposed convolution."""

    size: int
    kernel: int
    step: int
    dilation: int
    before: int
    after: int

    @property
    def margins(self) -> tuple[int, int]:
        """What the plain convolution pads; each element brings its own zeros behind it."""
        reach = self.dilation * (self.kernel - 1)
        return reach - self.before, reach - self.after - (self.step - 1)


def conv_transpose(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Zeros between the elements, then Conv."""
    sizes, kernel = graph.sizes(node.input[0]), graph.shape(node.input[1])
    results = graph.sizes(node.output[0])
    if sizes is None or kernel is None or None in kernel or results is None:
        return None
    known = [size for size in kernel if size is not None]
    axes = _axes(node, sizes, known[2:], results)
    groups = integer_of(node, "group", 1)
    x, margins = _spread(graph, node.input[0], axes), [axis.margins for axis in axes]
    x = _cropped(graph, x, axes, margins)
    padded = [[max(0, side) for side in pair] for pair in margins]
    return graph.node(
        "Conv",
        x,
        _turned(graph, node.input[1], known, groups),
        *node.input[2:],
        group=groups,
        dilations=[axis.dilation for axis in axes],
        pads=[pair[side] for side in (0, 1) for pair in padded],
    )


def _axes(
    node: onnx.NodeProto, sizes: Sequence[int], kernel: Sequence[int], results: Sequence[int]
) -> list[_Axis]:
    """Sizes and paddings; what ``output_padding`` adds is a smaller padding behind."""
    rank = len(sizes)
    steps = integers_of(node, "strides", [1] * rank)
    dilations = integers_of(node, "dilations", [1] * rank)
    pads = integers_of(node, "pads", [0] * 2 * rank)
    rule = word_of(node, "auto_pad", "NOTSET")
    automatic = rule.startswith("SAME") or integers_of(node, "output_shape", []) != []
    axes = []
    for axis, size in enumerate(sizes):
        whole = (size - 1) * steps[axis] + dilations[axis] * (kernel[axis] - 1) + 1
        total = whole - results[axis]
        before = 0 if rule == "VALID" else pads[axis]
        if automatic:
            extra = integers_of(node, "output_padding", [0] * rank)[axis]
            split = max(0, total + extra)
            before = split // 2 if rule == "SAME_UPPER" else split - split // 2
        axes.append(
            _Axis(size, kernel[axis], steps[axis], dilations[axis], before, total - before)
        )
    return axes


def _spread(graph: CopyGraph, x: str, axes: Sequence[_Axis]) -> str:
    """Each element of a strided axis with step - 1 zeros behind it."""
    if all(axis.step == 1 for axis in axes):
        return x
    rank = len(axes)
    columns = graph.node("Unsqueeze", x, graph.integers([3 + 2 * i for i in range(rank)]))
    behind = [0, 0] + [value for axis in axes for value in (0, axis.step - 1)]
    padded = graph.node("Pad", columns, graph.integers([0] * len(behind) + behind))
    whole = [0, 0, *(axis.size * axis.step for axis in axes)]
    return graph.node("Reshape", padded, graph.integers(whole))


def _cropped(
    graph: CopyGraph, x: str, axes: Sequence[_Axis], margins: Sequence[tuple[int, int]]
) -> str:
    """Cut off what negative margins take away."""
    if all(side >= 0 for pair in margins for side in pair):
        return x
    starts = [max(0, -before) for before, _ in margins]
    ends = [
        axis.size * axis.step - max(0, -after)
        for axis, (_, after) in zip(axes, margins, strict=True)
    ]
    where = graph.integers(range(2, 2 + len(axes)))
    return graph.node("Slice", x, graph.integers(starts), graph.integers(ends), where)


def _turned(graph: CopyGraph, weight: str, shape: Sequence[int], groups: int) -> str:
    """[in, out / groups, *kernel] as [out, in / groups, *kernel reversed]."""
    inputs, outputs = shape[0] // groups, shape[1]
    split = graph.node("Reshape", weight, graph.integers([groups, inputs, outputs, -1]))
    turned = graph.node("Transpose", split, perm=[0, 2, 1, 3])
    backwards = graph.integers(range(math.prod(shape[2:]) - 1, -1, -1))
    flipped = graph.node("Gather", turned, backwards, axis=3)
    return graph.node(
        "Reshape", flipped, graph.integers([groups * outputs, inputs, *shape[2:]])
    )

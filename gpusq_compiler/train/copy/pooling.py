"""Rewrites of pooling; see `rewrites`."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.train.protograph import integer_of, integers_of, word_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.train.copy.copygraph import CopyGraph


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel moves along one axis.

    Attributes:
        kernel: Its elements.
        step: Stride.
        dilation: Distance of its elements.
        before: Padding in front.
        after: Padding behind, as far as windows reach.
        counts: How many elements each window averages.
    """

    kernel: int
    step: int
    dilation: int
    before: int
    after: int
    counts: Array


def average_pool(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Where the gradient goes wrong: depthwise Conv with ones, then Div by the counts.

    That is with ``ceil_mode``, dilations and kernels larger than the input; the process would
    die of some.
    """
    shape, sizes = graph.shape(node.input[0]), graph.sizes(node.input[0])
    if shape is None or sizes is None or shape[1] is None:
        return None
    kernel = integers_of(node, "kernel_shape", [])
    oversized = any(k > size for k, size in zip(kernel, sizes, strict=True))
    dilated = set(integers_of(node, "dilations", [1])) != {1}
    if not oversized and not dilated and not integer_of(node, "ceil_mode", 0):
        return None
    windows = windows_of(node, kernel, sizes)
    counts = np.ones((1, 1), dtype=np.float32)
    for window in windows:
        counts = counts[..., None] * window.counts.astype(np.float32)
    total = _sums(graph, node.input[0], windows, shape[1])
    return graph.node("Div", total, graph.constant(counts))


def norm_pool(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """``(sum abs(x)^p)^(1/p)``, summed by depthwise Conv with ones."""
    shape, sizes = graph.shape(node.input[0]), graph.sizes(node.input[0])
    if shape is None or sizes is None or shape[1] is None:
        return None
    p = float(integer_of(node, "p", 2))
    windows = windows_of(node, integers_of(node, "kernel_shape", []), sizes)
    power = graph.node("Pow", graph.node("Abs", node.input[0]), graph.constant(p))
    return graph.node("Pow", _sums(graph, power, windows, shape[1]), graph.constant(1 / p))


def windows_of(
    node: onnx.NodeProto, kernel: Sequence[int], sizes: Sequence[int]
) -> list[Window]:
    """The windows of a pooling or convolution along each axis."""
    rank = len(kernel)
    steps = integers_of(node, "strides", [1] * rank)
    dilations = integers_of(node, "dilations", [1] * rank)
    pads = integers_of(node, "pads", [0] * 2 * rank)
    rule = word_of(node, "auto_pad", "NOTSET")
    windows = []
    for axis, size in enumerate(sizes):
        span = dilations[axis] * (kernel[axis] - 1) + 1
        before, after = pads[axis], pads[axis + rank]
        if rule.startswith("SAME"):
            before, after = _same(size, span, steps[axis], upper=rule == "SAME_UPPER")
        elif rule == "VALID":
            before = after = 0
        part = _Part(kernel[axis], steps[axis], dilations[axis], before, after)
        windows.append(part.window(node, size, span))
    return windows


def _same(size: int, span: int, step: int, *, upper: bool) -> tuple[int, int]:
    """Padding that makes as many windows as steps fit the input."""
    total = max(0, (-(-size // step) - 1) * step + span - size)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


@dataclasses.dataclass(frozen=True)
class _Part:
    """A window before it is known how many there are."""

    kernel: int
    step: int
    dilation: int
    before: int
    after: int

    def window(self, node: onnx.NodeProto, size: int, span: int) -> Window:
        """Count windows and what each of them holds."""
        ceil = bool(integer_of(node, "ceil_mode", 0))
        free = size + self.before + self.after - span
        count = (-(-free // self.step) if ceil else free // self.step) + 1
        if ceil and (count - 1) * self.step >= size + self.before:
            count -= 1
        whole = bool(integer_of(node, "count_include_pad", 0))
        low = 0 if whole else self.before
        high = self.before + size + (self.after if whole else 0)
        offsets = self.dilation * np.arange(self.kernel)[None]
        taps = np.arange(count)[:, None] * self.step + offsets
        counts = ((taps >= low) & (taps < high)).sum(axis=1)
        end = max(0, (count - 1) * self.step + span - size - self.before)
        return Window(self.kernel, self.step, self.dilation, self.before, end, counts)


def _sums(graph: CopyGraph, x: str, windows: Sequence[Window], channels: int) -> str:
    kernel = [window.kernel for window in windows]
    return graph.node(
        "Conv",
        x,
        graph.constant(np.ones((channels, 1, *kernel), dtype=np.float32)),
        group=channels,
        kernel_shape=kernel,
        strides=[window.step for window in windows],
        dilations=[window.dilation for window in windows],
        pads=pads_of(windows),
    )


def pads_of(windows: Sequence[Window]) -> list[int]:
    """Padding of all axes, those in front first."""
    ends = [window.before for window in windows], [window.after for window in windows]
    return list(itertools.chain(*ends))

"""The input's gradient of a strided convolution: small convolutions, one per remainder.

    dx[s i + a] = sum over m of dy[i + (a + p) // s - m] w[(a + p) % s + s m]

Each takes every s-th tap, and together they do what one of stride 1 does: no product is with
a zero that was put in. Their results stand side by side in blocks of channels, so that two
joins bring them into place.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.train.kernels import blocked

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from gpusq_compiler.train.kernels.blocked import Images
    from gpusq_compiler.train.kernels.kernelgraph import KernelGraph


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """Along one axis: the elements of ``dx`` with one remainder.

    Attributes:
        taps: Of the weight, in the order in which they meet ``dy``.
        before: Zeros in front of ``dy``.
        after: Zeros behind it.
    """

    taps: tuple[int, ...]
    before: int
    after: int


def phases(*, length: int, taps: int, stride: int, pads: tuple[int, int]) -> list[Phase]:
    """The phases of an axis of ``x``; none where they are no convolutions of one size."""
    outputs = (length + sum(pads) - taps) // stride + 1
    found = []
    for remainder in range(stride):
        ahead, first = divmod(remainder + pads[0], stride)
        chosen = tuple(reversed(range(first, taps, stride)))
        before = len(chosen) - 1 - ahead
        after = length // stride - outputs - before + len(chosen) - 1
        if length % stride or not chosen or min(before, after) < 0:
            return []
        found.append(Phase(taps=chosen, before=before, after=after))
    return found


def take(graph: KernelGraph, node: onnx.NodeProto, form: Images) -> bool:
    """Write the ``dx`` of a gradient node, if it is made of blocked convolutions.

    Args:
        graph: Gets the nodes.
        node: The gradient of a convolution.
        form: That convolution.

    Returns:
        Whether it was.
    """
    x = graph.size(node.input[1])
    if x is None or form.group > 1 or form.dilations != [1, 1]:
        return False
    size = (form.size[1], form.size[0], *form.size[2:])
    turned = dataclasses.replace(form, size=size, strides=[1, 1])
    rows, columns = (
        phases(
            length=x[2 + axis],
            taps=size[2 + axis],
            stride=form.strides[axis],
            pads=(form.pads[axis], form.pads[2 + axis]),
        )
        for axis in (0, 1)
    )
    if not turned.fits or not rows or not columns:
        return False
    parts = _Parts(graph, node, turned)
    width = x[3] * turned.width
    lines = [parts.joined([parts.of(r, c) for c in columns], width) for r in rows]
    whole = parts.joined(lines)
    dx = graph.node("Reshape", whole, graph.integers(x))
    blocked.unblocked(graph, dx, turned, node.output[0])
    return True


class _Parts:
    """The convolutions of one gradient."""

    def __init__(self, graph: KernelGraph, node: onnx.NodeProto, turned: Images) -> None:
        dy, _, weight = node.input
        self._graph = graph
        self._turned = turned
        self._dy = blocked.blocks(graph, dy, turned)
        self._strips = blocked.turned_strips(graph, weight, turned)

    def of(self, row: Phase, column: Phase) -> str:
        """The elements of one remainder each way, a block of channels in a row."""
        graph, turned = self._graph, self._turned
        size = (*turned.size[:2], len(row.taps), len(column.taps))
        pads = [row.before, column.before, row.after, column.after]
        small = dataclasses.replace(turned, size=size, pads=pads)
        chosen = [y * turned.size[3] + x for y in row.taps for x in column.taps]
        rows = blocked.turned_rows(turned, chosen)
        weight = blocked.gathered(graph, self._strips, rows, small)
        part = graph.node_of(blocked.DOMAIN, "Conv", self._dy, weight, **small.attributes)
        return graph.node("Reshape", part, graph.integers([-1, turned.width]))

    def joined(self, parts: Sequence[str], width: int = -1) -> str:
        """Parts side by side, in rows of this width."""
        wide = self._graph.node("Concat", *parts, axis=1)
        if width < 0:
            return wide
        return self._graph.node("Reshape", wide, self._graph.integers([-1, width]))

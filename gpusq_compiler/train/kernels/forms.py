"""What a graph's nodes are run as: the forms that ONNX Runtime's CPU kernels are fast at.

The numbers stay, up to float rounding. Measured on one thread of a Zen 4 core, runtime 1.19.2,
in nanoseconds per element:

    ReluGrad                5.0    comparison, conversions, Mul         0.5
    GeluGrad                3.7    its formula, node by node            1.1
    bool to float           0.40   by way of uint8                      0.15
    Div Add Sub Clip Mul    0.57   QuantizeLinear, DequantizeLinear     0.23
    MatMul, 400 x 384 x 384 7.1    MatMulIntegerToFloat                 1.9
    Mul, ReduceSum          0.48   FusedMatMul of rows                  0.22
    MaxPool with places     26     MaxPool of codes that hold theirs    7

The first two use one thread besides, and the first branches on every element.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gpusq_compiler.train.gradients.reach import inputs_of
from gpusq_compiler.train.kernels import convolutions, integers, pooling
from gpusq_compiler.train.kernels.fakequant import BACKWARD, FORWARD, OPERATOR
from gpusq_compiler.train.kernels.kernelgraph import KernelGraph
from gpusq_compiler.train.protograph import word_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import onnx

    from gpusq_compiler.train.kernels.fakequant import Fake

    Readers = Mapping[str, list[onnx.NodeProto]]


def with_kernels(
    model: onnx.ModelProto,
    fakes: Mapping[str, Fake],
    masks: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> list[str]:
    """Rewrite a graph, in place, in nodes that run fast.

    Args:
        model: A gradient graph or a forward one, each of ``fakes`` a node of its own.
        fakes: Fake-quantized tensors by name.
        masks: By parameter: its gradient is 0 where False.

    Returns:
        Those of ``masks`` that hold now.
    """
    graph = KernelGraph(model, fakes)
    writer = _Writer(graph, masks or {})
    for node in graph.source:
        writer.write(node)
    return writer.masked


class _Writer:
    """Writes node by node."""

    def __init__(self, graph: KernelGraph, masks: Mapping[str, npt.NDArray[np.bool_]]) -> None:
        self._graph = graph
        self._masks = masks
        self._shares: dict[str, str] = {}
        self._unformed: dict[str, onnx.NodeProto] = {}
        readers = _readers(graph)
        self._only_scales = _only_scales(graph, readers)
        self._behind_relus = _behind_relus(graph, readers)
        self._curved = {n.input[1] for n in graph.source if n.op_type == "GeluGrad"}
        self.masked: list[str] = []

    def write(self, node: onnx.NodeProto) -> None:
        """Add the node, or what takes its place."""
        role = word_of(node, "operator", "") if node.op_type == OPERATOR else ""
        if role == FORWARD:
            self._fake_quant(self._graph.fakes[node.output[0]])
        elif role == BACKWARD:
            self._fake_quant_gradient(node)
        elif node.op_type == "ReluGrad":
            if node.input[0] not in self._behind_relus:
                positive = self._positive(node.input[1])
                self._graph.selected(node.input[0], positive, node.output[0])
        elif node.op_type == "Gelu" and node.input[0] in self._curved:
            self._gelu(node)
        elif node.op_type == "GeluGrad" and node.input[1] in self._shares:
            self._gelu_gradient(node)
        elif self._alone(node):
            self._unformed[node.output[0]] = node
            convolutions.without_input(self._graph, node)
        elif not (
            integers.take(self._graph, node)
            or convolutions.take(self._graph, node)
            or pooling.take(self._graph, node)
        ):
            self._graph.add(node)

    def _fake_quant(self, fake: Fake) -> None:
        """``y = s (codes - zero)``."""
        graph, codes = self._graph, self._graph.codes(fake)
        if fake.direct:
            along: dict[str, Any] = {} if fake.axis is None else {"axis": fake.axis}
            scale, zero = graph.scale(fake), graph.zeros(fake)
            graph.into(fake.y, "DequantizeLinear", codes, scale, zero, **along)
        else:
            one = graph.constant(1.0)
            whole = graph.node("DequantizeLinear", codes, one, graph.zero(fake))
            graph.into(fake.y, "Mul", whole, fake.scale)

    def _alone(self, node: onnx.NodeProto) -> bool:
        """Whether a convolution's ``dx`` is wanted for one scale only."""
        return node.op_type == convolutions.GRADIENT and node.output[0] in self._only_scales

    def _scale_gradient(self, node: onnx.NodeProto) -> None:
        """``ds = <dy, y - x inside> / s`` without ``dy``."""
        graph, (dy, x, _, y) = self._graph, node.input
        fake, kept = graph.fakes[y], graph.fresh("kept")
        graph.selected(x, self._inside(fake), kept)
        error = graph.node("Sub", y, kept)
        total = convolutions.along(graph, self._unformed[dy], error)
        if fake.shape:
            total = graph.node("Reshape", total, graph.integers([1] * len(fake.shape)))
        graph.into(node.output[1], "Div", total, fake.scale)

    def _fake_quant_gradient(self, node: onnx.NodeProto) -> None:
        graph = self._graph
        dy, x, _, y = node.input
        dx, ds = (*node.output, "")[:2]
        if dy in self._unformed:
            self._scale_gradient(node)
            return
        fake = graph.fakes[y]
        chosen = self._inside(fake)
        if x in self._masks and dx == f"{x}_grad":
            chosen = graph.node("And", chosen, graph.constant(self._masks[x]))
            self.masked.append(x)
        if dx in self._behind_relus:
            chosen = graph.node("And", chosen, self._positive(x))
        dx = self._behind_relus.get(dx, dx) or graph.fresh("masked")
        graph.selected(dy, chosen, dx)
        if ds:
            gap = graph.node("Sub", self._summed(fake, dy, y), self._summed(fake, dx, x))
            graph.into(ds, "Div", gap, fake.scale)

    def _positive(self, x: str) -> str:
        return self._graph.node("Greater", x, self._graph.constant(0.0))

    def _inside(self, fake: Fake) -> str:
        """Where the rounded ratio is a code; ties round to even."""
        graph, sides = self._graph, []
        ends = [("Less", fake.high + 0.5), ("Greater", fake.low - 0.5)]
        for op_type, bound in ends[:1] if graph.never_negative(fake.x) else ends:
            tie = "OrEqual" if round(bound) in {fake.low, fake.high} else ""
            limit = graph.node("Mul", fake.scale, graph.constant(bound))
            sides.append(graph.node(op_type + tie, fake.x, limit))
        return graph.node("And", *sides) if len(sides) > 1 else sides[0]

    def _summed(self, fake: Fake, a: str, b: str) -> str:
        """Sums of products in the shape of the scale."""
        graph = self._graph
        if fake.axis == 0:
            return graph.node(
                "Reshape", graph.inner_by_first(a, b), graph.integers(fake.shape)
            )
        if len(fake.shape) > 1:
            axes = [axis for axis in range(len(fake.shape)) if axis != fake.axis]
            product = graph.node("Mul", a, b)
            return graph.node("ReduceSum", product, graph.integers(axes), keepdims=1)
        total = graph.inner(a, b, fake.size)
        return graph.node("Reshape", total, graph.integers([1])) if fake.shape else total

    def _gelu(self, node: onnx.NodeProto) -> None:
        """``y = x h`` with h, the normal distribution up to x."""
        graph, x = self._graph, node.input[0]
        erf = graph.node("Erf", graph.node("Mul", x, graph.constant(math.sqrt(0.5))))
        # A line, for erf ends at -1 and 1.
        share = graph.node("HardSigmoid", erf, alpha=0.5, beta=0.5)
        self._shares[x] = share
        graph.into(node.output[0], "Mul", x, share)

    def _gelu_gradient(self, node: onnx.NodeProto) -> None:
        """``dx = dy (h + x exp(-x^2 / 2) / sqrt(2 pi))``."""
        graph, (dy, x) = self._graph, node.input
        power = graph.node("Mul", graph.node("Mul", x, x), graph.constant(-0.5))
        bell = graph.node("Mul", graph.node("Exp", power), x)
        bell = graph.node("Mul", bell, graph.constant(1 / math.sqrt(2 * math.pi)))
        graph.into(node.output[0], "Mul", dy, graph.node("Add", self._shares[x], bell))


def _only_scales(graph: KernelGraph, readers: Readers) -> set[str]:
    """Gradients that a whole tensor's scale alone is computed from."""
    lasting = {value.name for value in graph.graph.output}
    found = set()
    for name, (first, *others) in readers.items():
        if others or name in lasting or word_of(first, "operator", "") != BACKWARD:
            continue
        dx, ds = (*first.output, "")[:2]
        unread = not dx or (dx not in readers and dx not in lasting)
        whole = name == first.input[0] and graph.fakes[first.input[3]].axis is None
        if ds and unread and whole:
            found.add(name)
    return found


def _behind_relus(graph: KernelGraph, readers: Readers) -> dict[str, str]:
    """Gradients of quantized tensors that only pass a Relu's mask then, and what it makes."""
    lasting = {value.name for value in graph.graph.output}
    found = {}
    for node in graph.source:
        if word_of(node, "operator", "") == BACKWARD and node.output[0] not in lasting:
            first, *others = readers.get(node.output[0], [node])
            if not others and first.op_type == "ReluGrad" and first.input[1] == node.input[1]:
                found[node.output[0]] = first.output[0]
    return found


def _readers(graph: KernelGraph) -> Readers:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.source:
        for name in inputs_of(node):
            readers.setdefault(name, []).append(node)
    return readers

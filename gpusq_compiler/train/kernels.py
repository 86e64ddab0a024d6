"""What a graph's nodes are run as: the forms that ONNX Runtime's CPU kernels are fast at.

The numbers stay, up to float rounding. Measured per element, one thread of a Zen 4 core,
runtime 1.19.2, in nanoseconds:

    ReluGrad              5     comparison, two casts, Mul     0.5
    GeluGrad            3.7     its formula, node by node      1.1
    Cast bool to float  0.40    through uint8                  0.13
    Div Add Sub Clip Mul 0.57   Quantize-, DequantizeLinear    0.23

The first two branch on every element and use one thread.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from gpusq_compiler.train import integers
from gpusq_compiler.train.fakequant import BACKWARD, FORWARD, OPERATOR
from gpusq_compiler.train.protograph import ProtoGraph, opset_of, word_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import onnx

    from gpusq_compiler.train.fakequant import Fake

MICROSOFT = "com.microsoft"


class KernelGraph(ProtoGraph):
    """A graph that is written anew in faster nodes.

    Args:
        model: Its node list is emptied; ``source`` keeps the old nodes.
        fakes: Fake-quantized tensors by name.
    """

    def __init__(self, model: onnx.ModelProto, fakes: Mapping[str, Fake]) -> None:
        super().__init__(model.graph, opset_of(model))
        self.source = _without_identities(model.graph)
        self.fakes = fakes
        self._codes: dict[str, str] = {}
        self._zeros: dict[tuple[int, int | None], str] = {}
        del model.graph.node[:]

    def codes(self, fake: Fake) -> str:
        """The unsigned codes of a fake-quantized tensor, computed once."""
        if fake.y not in self._codes:
            self._codes[fake.y] = self._quantized(fake)
        return self._codes[fake.y]

    def _quantized(self, fake: Fake) -> str:
        x, scale, axis = fake.x, fake.scale, fake.axis
        if axis is None or axis == 0:
            scale = self.flat(fake)
            codes = self.node("QuantizeLinear", x, scale, self.zero(fake), **along(axis))
        else:
            ratio, one = self.node("Div", x, scale), self.constant(1.0)
            codes = self.node("QuantizeLinear", ratio, one, self._zero(fake.zero, None))
        if fake.high - fake.low == 255:
            return codes
        bounds = (np.array(value, np.uint8) for value in (0, fake.high - fake.low))
        return self.node("Clip", codes, *map(self.constant, bounds))

    def flat(self, fake: Fake) -> str:
        """The scales as a vector, or as one number."""
        if len(fake.shape) <= 1:
            return fake.scale
        return self.node("Reshape", fake.scale, self.integers([-1]))

    def zero(self, fake: Fake) -> str:
        """The code of 0, as often as there are scales."""
        axis = fake.axis
        return self._zero(fake.zero, None if axis is None else fake.shape[axis])

    def _zero(self, value: int, count: int | None) -> str:
        if (value, count) not in self._zeros:
            array = np.full(() if count is None else count, value, np.uint8)
            self._zeros[value, count] = self.constant(array)
        return self._zeros[value, count]

    def selected(self, x: str, chosen: str, result: str) -> None:
        """``x`` where a bool tensor holds, else 0."""
        byte = self.node("Cast", chosen, to=TensorProto.UINT8)
        factor = self.node("DequantizeLinear", byte, self.constant(1.0), self._zero(0, None))
        self.into(result, "Mul", x, factor)

    def into(self, result: str, op_type: str, *inputs: str, **attributes: object) -> None:
        """Add a node whose output has this name."""
        self.add(
            helper.make_node(
                op_type, inputs, [result], name=self.fresh(op_type), **attributes
            )
        )


def along(axis: int | None) -> dict[str, int]:
    """The attribute for an axis, none for no axis."""
    return {} if axis is None else {"axis": axis}


def with_kernels(
    model: onnx.ModelProto,
    fakes: Mapping[str, Fake],
    masks: Mapping[str, npt.NDArray[np.bool_]],
) -> None:
    """Rewrite a graph, in place, in nodes that run fast.

    Args:
        model: A gradient graph, or a forward one.
        fakes: What `collapsed` made one node of.
        masks: Fake-quantized weights whose gradient is 0 where False.
    """
    graph = KernelGraph(model, fakes)
    curved = {node.input[1] for node in graph.source if _is(node, "GeluGrad", MICROSOFT)}
    shares: dict[str, str] = {}
    for node in graph.source:
        if node.op_type == OPERATOR and word_of(node, "operator", "") == FORWARD:
            _fake_quant(graph, graph.fakes[node.output[0]])
        elif node.op_type == OPERATOR and word_of(node, "operator", "") == BACKWARD:
            _fake_quant_gradient(graph, node, masks)
        elif _is(node, "ReluGrad", MICROSOFT):
            hit = graph.node("Greater", node.input[1], graph.constant(0.0))
            graph.selected(node.input[0], hit, node.output[0])
        elif node.op_type == "Gelu" and node.input[0] in curved:
            shares[node.input[0]] = _gelu(graph, node)
        elif _is(node, "GeluGrad", MICROSOFT) and node.input[1] in shares:
            _gelu_gradient(graph, node, shares[node.input[1]])
        elif integers.take(graph, node):
            pass
        else:
            graph.add(node)


def _without_identities(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes, each reading what an Identity would only have renamed."""
    lasting = {value.name for value in graph.output}
    same: dict[str, str] = {}
    kept = []
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if _is(node, "Identity", "") and node.output[0] not in lasting:
            same[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    return kept


def _is(node: onnx.NodeProto, op_type: str, domain: str) -> bool:
    return bool(node.op_type == op_type and node.domain == domain)


def _fake_quant(graph: KernelGraph, fake: Fake) -> None:
    codes, axis = graph.codes(fake), fake.axis
    if axis is None or axis == 0:
        scale, zero = graph.flat(fake), graph.zero(fake)
        graph.into(fake.y, "DequantizeLinear", codes, scale, zero, **along(axis))
        return
    one, zero = graph.constant(1.0), graph._zero(fake.zero, None)
    whole = graph.node("DequantizeLinear", codes, one, zero)
    graph.into(fake.y, "Mul", whole, fake.scale)


def _fake_quant_gradient(
    graph: KernelGraph,
    node: onnx.NodeProto,
    masks: Mapping[str, npt.NDArray[np.bool_]],
) -> None:
    dy, x, _, y = node.input
    dx, ds = (*node.output, "")[:2]
    fake = graph.fakes[y]
    chosen = _inside(graph, fake)
    if x in masks:
        chosen = graph.node("And", chosen, graph.constant(masks[x]))
    dx = dx or graph.fresh("masked")
    graph.selected(dy, chosen, dx)
    if ds:
        gap = graph.node(
            "Sub", _summed(graph, fake, dy, y), _summed(graph, fake, dx, x)
        )
        graph.into(ds, "Div", gap, fake.scale)


def _inside(graph: KernelGraph, fake: Fake) -> str:
    """Where the rounded ratio is a code; ties round to even."""
    sides = []
    for op_type, bound in (("Less", fake.high + 0.5), ("Greater", fake.low - 0.5)):
        tie = "OrEqual" if round(bound) in {fake.low, fake.high} else ""
        limit = graph.node("Mul", fake.scale, graph.constant(bound))
        sides.append(graph.node(op_type + tie, fake.x, limit))
    return graph.node("And", *sides)


def _summed(graph: KernelGraph, fake: Fake, a: str, b: str) -> str:
    """Sums of products, in the shape of the scale."""
    product = graph.node("Mul", a, b)
    if len(fake.shape) > 1:
        axes = [axis for axis, size in enumerate(fake.shape) if axis != fake.axis]
        return graph.node("ReduceSum", product, graph.integers(axes), keepdims=1)
    total = graph.node("ReduceSum", product, keepdims=0)
    return graph.node("Reshape", total, graph.integers([1])) if fake.shape else total


def _gelu(graph: KernelGraph, node: onnx.NodeProto) -> str:
    """``y = x h``; returns h, the normal distribution up to x."""
    x = node.input[0]
    erf = graph.node("Erf", graph.node("Mul", x, graph.constant(math.sqrt(0.5))))
    share = graph.node("HardSigmoid", erf, alpha=0.5, beta=0.5)  # a line: erf ends at 1
    graph.into(node.output[0], "Mul", x, share)
    return share


def _gelu_gradient(graph: KernelGraph, node: onnx.NodeProto, share: str) -> None:
    """``dx = dy (h + x exp(-x^2 / 2) / sqrt(2 pi))``."""
    dy, x = node.input
    power = graph.node("Mul", graph.node("Mul", x, x), graph.constant(-0.5))
    bell = graph.node("Mul", graph.node("Exp", power), x)
    bell = graph.node("Mul", bell, graph.constant(1 / math.sqrt(2 * math.pi)))
    graph.into(node.output[0], "Mul", dy, graph.node("Add", share, bell))

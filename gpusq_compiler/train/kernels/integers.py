"""Products of two fake-quantized tensors on integer kernels, as the deployed model runs them.

    y = MatMul(sx qx, sw qw)   becomes   y = sx sw * MatMulInteger(qx, qw)

Sums of integers are exact, so the result is that of the float product up to its rounding, in
a third of the time. Both sides are unsigned with a zero point: products of signed and unsigned
bytes saturate on CPUs without VNNI, and two signed ones have no fast kernel on x86-64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx import helper

from gpusq_compiler.train.protograph import integer_of

if TYPE_CHECKING:
    import onnx

    from gpusq_compiler.train.kernels.fakequant import Fake
    from gpusq_compiler.train.kernels.kernelgraph import KernelGraph
    from gpusq_compiler.train.protograph import Shape

MOST_TERMS = (2**31 - 1) // 255**2
"""Products of two bytes whose sum an int32 holds."""


def take(graph: KernelGraph, node: onnx.NodeProto) -> bool:
    """Write the node on integers if that can be; say whether it was."""
    if node.domain or node.op_type not in {"MatMul", "Conv"}:
        return False
    x, weight = (graph.fakes.get(name) for name in node.input[:2])
    if x is None or weight is None or x.axis is not None:
        return False
    if node.op_type == "MatMul":
        return _matmul(graph, node, x, weight)
    return _conv(graph, node, x, weight)


def _matmul(graph: KernelGraph, node: onnx.NodeProto, x: Fake, weight: Fake) -> bool:
    """By a matrix with a scale per column."""
    if weight.axis != 1 or len(weight.shape) != 2 or not _fits(weight.size, (0,)):
        return False
    inputs = [graph.codes(x), graph.codes(weight), graph.scale(x), graph.scale(weight)]
    inputs += [graph.zero(x), graph.zero(weight)]
    name = "MatMulIntegerToFloat"
    graph.into(node.output[0], name, *inputs, domain="com.microsoft")
    return True


def _conv(graph: KernelGraph, node: onnx.NodeProto, x: Fake, weight: Fake) -> bool:
    """An ungrouped convolution of images by a weight with a scale per output."""
    images = weight.axis == 0 and len(weight.shape) == 4
    if not images or integer_of(node, "group", 1) != 1 or not _fits(weight.size, (1, 2, 3)):
        return False
    kept = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    inputs = [graph.codes(x), graph.codes(weight), graph.zero(x), graph.zero(weight)]
    whole = graph.node("ConvInteger", *inputs, **kept)
    scale = graph.node("Mul", graph.scale(x), graph.scale(weight))
    bias = node.input[2] if len(node.input) > 2 else ""
    if not bias:
        graph.into(node.output[0], "DequantizeLinear", whole, scale, axis=1)
        return True
    y = graph.node("DequantizeLinear", whole, scale, axis=1)
    column = graph.node("Reshape", bias, graph.integers([-1, 1, 1]))
    graph.into(node.output[0], "Add", y, column)
    return True


def _fits(size: Shape | None, summed: tuple[int, ...]) -> bool:
    """Whether an int32 holds the sums along these axes."""
    terms = [size[axis] for axis in summed] if size else [None]
    known = [term for term in terms if term is not None]
    return len(known) == len(terms) and math.prod(known) <= MOST_TERMS

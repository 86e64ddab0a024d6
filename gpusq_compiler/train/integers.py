"""Products of two fake-quantized tensors on integer kernels, as the deployed model runs them.

    y = MatMul(sx qx, sw qw)   becomes   y = sx sw * MatMulInteger(qx, qw)

Sums of integers are exact, so the result is that of the float product up to its rounding, in a
third of the time. Both sides are unsigned with a zero point: products of signed and unsigned
bytes saturate on CPUs without VNNI, and two signed ones have no fast kernel on x86-64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from gpusq_compiler.train.protograph import attribute, integer_of

if TYPE_CHECKING:
    import onnx

    from gpusq_compiler.train.fakequant import Fake
    from gpusq_compiler.train.kernels import KernelGraph

MOST_TERMS = 1 << 15
"""Products of two bytes that an int32 can hold the sum of."""


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
    """A matrix with one scale per column, or a whole with one."""
    if weight.axis is not None and (weight.axis, len(weight.shape)) != (1, 2):
        return False
    graph.add(
        helper.make_node(
            "MatMulIntegerToFloat",
            [
                graph.codes(x),
                graph.codes(weight),
                graph.flat(x),
                graph.flat(weight),
                graph._zero(x.zero, None),
                graph._zero(weight.zero, None),
            ],
            list(node.output),
            name=graph.fresh("MatMulIntegerToFloat"),
            domain="com.microsoft",
        )
    )
    return True


def _conv(graph: KernelGraph, node: onnx.NodeProto, x: Fake, weight: Fake) -> bool:
    if len(weight.shape) != 4 or weight.axis not in {0, None}:
        return False
    if integer_of(node, "group", 1) != 1:
        return False
    kept = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    whole = graph.node(
        "ConvInteger",
        graph.codes(x),
        graph.codes(weight),
        graph._zero(x.zero, None),
        graph._zero(weight.zero, None),
        **kept,
    )
    scale = graph.node("Mul", graph.flat(x), graph.flat(weight))
    if len(node.input) < 3 or not node.input[2]:
        graph.into(node.output[0], "DequantizeLinear", whole, scale, axis=1)
        return True
    y = graph.node("DequantizeLinear", whole, scale, axis=1)
    bias = graph.node("Reshape", node.input[2], graph.integers([-1, 1, 1]))
    graph.into(node.output[0], "Add", y, bias)
    return True

"""Nodes that have one type or none of them has it: both half precision or both float32.

Q ─▶ codes ─▶ DQ                  a quantizer and those that read its codes: ONNX Runtime
                                  1.19 fails over pairs with two types
DQ ─▶ moves, c · ─▶ MatMul ◀─ DQ  a product and the scales of both its factors: the builder
                                  of TensorRT for RTX 1.7.1 fails over two types of scales
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.ir import query
from gpusq_compiler.quant.placement.topology import commutes, is_scalar

if TYPE_CHECKING:
    from collections.abc import Iterator

Bond = tuple[ir.Node, ...]


def pairs(graph: ir.Graph) -> Iterator[Bond]:
    """Every QuantizeLinear with the DequantizeLinear that read its codes."""
    for node in graph:
        if query.is_op(node, "QuantizeLinear"):
            yield (node, *_decoders(node.outputs[0]))


def products(model: ir.Model) -> Iterator[Bond]:
    """Every product of two quantized factors, then the way up to their DequantizeLinear."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if query.is_op(node, *query.WEIGHTED):
            factors = [_way_up(node.inputs[index]) for index in (0, 1)]
            if all(factors):
                yield (node, *factors[0], *factors[1])


def _decoders(codes: ir.Value) -> Iterator[ir.Node]:
    for node, _ in codes.uses():
        if query.is_op(node, "DequantizeLinear"):
            yield node
        elif commutes(node):
            for moved in node.outputs:
                yield from _decoders(moved)


def _way_up(value: ir.Value | None) -> Bond:
    """From a factor to its DequantizeLinear; empty where it is not quantized."""
    way: list[ir.Node] = []
    while value is not None and (node := value.producer()) is not None:
        way.append(node)
        if query.is_op(node, "DequantizeLinear"):
            return tuple(way)
        scaled = [read for read in node.inputs if not is_scalar(read)]
        if query.is_op(node, "Mul", "Div") and len(scaled) == 1:
            value = scaled[0]
        elif commutes(node) or query.is_op(node, "Cast"):
            value = node.inputs[0]
        else:
            break
    return ()

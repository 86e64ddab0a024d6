"""The rule about attention: queries, keys, values and softmax all in INT8, or none of them.

Seen on TensorRT for RTX 1.7.1: with q, k, v quantized and the softmax not, the fused kernel
falls apart into two products and a softmax; with all or none of the four it stays whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.ir import query
from gpusq_compiler.quant.placement.attention import HANDED_ON, SCORES
from gpusq_compiler.quant.placement.topology import commutes, is_scalar, readers_of
from gpusq_compiler.trt.legality.constants import PAIR, is_fixed, nodes_of
from gpusq_compiler.trt.legality.rules import Place, Version, at_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

PARTS = ("q", "k", "v", "softmax")
_FARTHEST = 12


def mixed_attention(model: ir.Model, version: Version) -> Iterator[Place]:
    """Some of q, k, v and softmax are quantized, and some are not."""
    del version
    for softmax in nodes_of(model, "Softmax"):
        parts = _parts(softmax)
        if parts is None:
            continue
        quantized = [name for name, is_code in zip(PARTS, parts, strict=True) if is_code]
        if 0 < len(quantized) < len(PARTS):
            rest = [name for name in PARTS if name not in quantized]
            yield at_node(
                softmax, f"{', '.join(quantized)} quantized, but not {', '.join(rest)}"
            )


def _parts(softmax: ir.Node) -> tuple[bool, bool, bool, bool] | None:
    """Whether q, k, v and softmax are quantized; None where this is no attention."""
    below = _mixing(softmax)
    scoring = _scoring(softmax)
    if below is None or scoring is None:
        return None
    mixing, index, through = below
    q, k = (_is_quantized(read) for read in scoring.inputs)
    return q, k, _is_quantized(mixing.inputs[1 - index]), through


def _mixing(softmax: ir.Node) -> tuple[ir.Node, int, bool] | None:
    """The product with the values, the softmax's place in it, whether codes were between."""
    value, quantized = softmax.outputs[0], False
    for _ in range(_FARTHEST):
        readers = readers_of(value)
        if len(readers) != 1:
            return None
        node, index = readers[0]
        if _is_product(node):
            return node, index, quantized
        if not query.is_op(node, *HANDED_ON, *PAIR):
            return None
        quantized |= query.is_op(node, *PAIR)
        value = node.outputs[0]
    return None


def _scoring(softmax: ir.Node) -> ir.Node | None:
    """The product of queries and keys, above scale and mask."""
    pending = [softmax.inputs[0]]
    for _ in range(_FARTHEST):
        value = pending.pop(0) if pending else None
        node = None if value is None else value.producer()
        if node is not None and _is_product(node):
            return node
        if query.is_op(node, *SCORES, *PAIR):
            assert node is not None
            pending += [read for read in node.inputs if read is not None]
    return None


def _is_product(node: ir.Node) -> bool:
    return query.is_op(node, "MatMul") and not any(is_fixed(read) for read in node.inputs)


def _is_quantized(value: ir.Value | None) -> bool:
    """Whether it comes out of a DequantizeLinear, behind moves and the scaling at most."""
    while value is not None:
        producer = value.producer()
        if query.is_op(producer, "DequantizeLinear"):
            return True
        if producer is None:
            return False
        if commutes(producer) or query.is_op(producer, "Cast"):
            value = producer.inputs[0]
            continue
        scaled = [read for read in producer.inputs if not is_scalar(read)]
        if not query.is_op(producer, "Mul", "Div") or len(scaled) != 1:
            return False
        value = scaled[0]
    return False

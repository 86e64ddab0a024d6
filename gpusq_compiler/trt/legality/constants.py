"""What is known of a value before a model runs: its number, its type, whether it is fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common

from gpusq_compiler.ir import edit, query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.runtime.samples import Array

PAIR = ("QuantizeLinear", "DequantizeLinear")
NARROW = frozenset({ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT4E2M1})
"""Codes that TensorRT takes beside int8."""


def prepared(model: ir.Model) -> ir.Model:
    """A clone in which functions are inlined and every constant is an initializer.

    TensorRT's importer sees these things so: constants in nodes and defaults of inputs are
    weights to it. Names stay.
    """
    clone = model.clone()
    if clone.functions:
        common.InlinePass()(clone)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(clone)
    common.RemoveInitializersFromInputsPass()(clone)
    edit.infer_shapes(clone)
    return clone


def nodes_of(model: ir.Model, *op_types: str) -> Iterator[ir.Node]:
    """Nodes with one of these names, in every graph and of any domain."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in op_types:
            yield node


def initializers(model: ir.Model) -> Iterator[ir.Value]:
    """The constants of every graph."""
    for graph in model.graphs():
        yield from graph.initializers.values()


def is_fixed(value: ir.Value | None) -> bool:
    """Whether a value can be computed before the model runs."""
    pending, seen = [value], {value}
    while pending:
        held = pending.pop()
        if held is None or held.const_value is not None:
            continue
        producer = held.producer()
        if producer is None or producer.op_type.startswith("Random"):
            return False
        fresh = [read for read in producer.inputs if read not in seen]
        seen.update(fresh)
        pending += fresh
    return True


def known(value: ir.Value | None) -> Array | None:
    """The values of a constant, seen through Identity and Cast."""
    while value is not None and value.const_value is None:
        if not query.is_op(value.producer(), "Identity", "Cast"):
            return None
        producer = value.producer()
        assert producer is not None
        value = producer.inputs[0]
    return None if value is None or value.const_value is None else value.const_value.numpy()


def zero_point(node: ir.Node) -> ir.Value | None:
    """The third input of a quantizer, if it has one."""
    return node.inputs[2] if len(node.inputs) > 2 else None


def is_blocked(node: ir.Node) -> bool:
    """Whether a quantizer has one scale per block of values."""
    return query.int_attribute(node, "block_size", 0) > 0


def is_per_channel(node: ir.Node) -> bool:
    """Whether a quantizer has several scales, one per index of an axis."""
    scale = node.inputs[1]
    if scale is None or is_blocked(node):
        return False
    if scale.const_value is not None:
        return scale.const_value.size > 1
    return scale.shape is not None and len(scale.shape) == 1 and scale.shape[0] != 1


def code_type(node: ir.Node) -> ir.DataType | None:
    """The integer type of a quantizer's codes; None where the model does not tell."""
    zero = zero_point(node)
    if zero is not None:
        return zero.dtype
    if node.op_type == "DequantizeLinear":
        return node.inputs[0].dtype if node.inputs[0] is not None else None
    named = query.int_attribute(node, "output_dtype", 0)
    return ir.DataType(named) if named else ir.DataType.UINT8

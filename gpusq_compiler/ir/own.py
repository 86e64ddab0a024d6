"""Giving a layer a weight of its own: stored as the layer reads it, read by no one else.

table ─┬▶ Gather                table ──▶ Gather
└▶ Transpose ▶ MatMul    table.own ──▶ MatMul
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import edit, query

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.ir.query import WeightUse
    from gpusq_compiler.runtime.samples import Array


def straighten(use: WeightUse, names: edit.Names) -> int:
    """Store a weight behind layout operators as its node reads it, for all who read it so.

    Args:
        use: A use with ``relaid`` and without quantizers.
        names: Of the model.

    Returns:
        Bytes that the file grows: what else reads the old initializer keeps it alive.
    """
    operand = use.node.inputs[use.operand]
    graph = use.node.graph
    assert operand is not None
    assert graph is not None
    assert use.value.const_value is not None
    array = laid_out(use)
    value = edit.new_initializer(
        graph, names.fresh(f"{use.value.name}.own"), array, dtype=operand.dtype
    )
    operand.replace_all_uses_with(value)
    for node in reversed(use.path):
        result = node.outputs[0]
        if node.graph is not None and not result.uses() and not result.is_graph_output():
            node.graph.remove(node, safe=True)
    return _grown(use.value, value)


def copy(
    value: ir.Value, readers: Sequence[tuple[ir.Node, int]], names: edit.Names
) -> ir.Value:
    """Give these readers a copy of an initializer."""
    readers = list(readers)
    graph = readers[0][0].graph
    tensor = value.const_value
    assert graph is not None
    assert tensor is not None
    name = names.fresh(f"{value.name}.own")
    twin = edit.new_initializer(graph, name, tensor.numpy(), dtype=tensor.dtype)
    edit.redirect(readers, twin)
    return twin


def needless_layouts(uses: Sequence[WeightUse]) -> list[WeightUse]:
    """Uses whose layout operators can go without a byte more: nobody else reads the weight."""
    return [use for use in uses if use.relaid and not use.quantized and _alone(use)]


def _alone(use: WeightUse) -> bool:
    values = [use.value, *(node.outputs[0] for node in use.path[:-1])]
    if any(len(value.uses()) > 1 or value.is_graph_output() for value in values):
        return False
    last, first = use.node.inputs[use.operand], use.value
    return last is not None and _width(last) <= _width(first)


def _width(value: ir.Value) -> float:
    return value.dtype.itemsize if value.dtype is not None else float("inf")


def laid_out(use: WeightUse) -> Array:
    """A weight without quantizers, as its node reads it: after its layout operators."""
    assert use.value.const_value is not None
    array: Array = use.value.const_value.numpy()
    for node in use.path:
        result = node.outputs[0]
        if query.is_op(node, "Transpose"):
            order = node.attributes.get("perm")
            array = np.transpose(array, None if order is None else order.as_ints())
        elif query.is_op(node, "Cast"):
            assert result.dtype is not None
            array = array.astype(result.dtype.numpy())
        elif result.shape is not None:
            array = array.reshape([int(str(d)) for d in result.shape])
    return np.ascontiguousarray(array)


def _grown(old: ir.Value, new: ir.Value) -> int:
    assert old.const_value is not None
    assert new.const_value is not None
    if old.uses() or old.is_graph_output():
        return int(new.const_value.nbytes)
    if isinstance(old.graph, ir.Graph):
        edit.drop_unused(old.graph, [old])
    return max(0, int(new.const_value.nbytes) - int(old.const_value.nbytes))

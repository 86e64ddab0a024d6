"""Who computes in half precision and who in float32, so that the fewest casts are needed.

Some nodes have to stay float32 and some operators know no half; the others are half, but

    wide ─▶ Transpose ─▶ wide       a move between two that are float32 is so, too
    wide ─▶ ArgMax, Greater         what gives no floats takes them as they come
    codes ─▶ DQ ─▶ wide             so does what can write either and has float32 readers alone

Pairs and products have one type each: see `bonds`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.ir import query, schemas
from gpusq_compiler.quant.placement.topology import commutes, readers_of
from gpusq_compiler.trt import bonds

if TYPE_CHECKING:
    from collections.abc import Collection

WIDE = ir.TensorType(ir.DataType.FLOAT)
SOURCES = ("Cast", "DequantizeLinear")
"""What can write either type at no price."""


class Assignment:
    """The type of every float32 tensor of the main graph, before anything is changed.

    Args:
        model: Left as it is.
        wide: Nodes of the main graph that stay float32.
        kind: The half precision of the others.
    """

    def __init__(self, model: ir.Model, wide: Collection[ir.Node], kind: ir.DataType) -> None:
        opset = model.opset_imports.get("", 0)
        self._graph = model.graph
        self._slots = {node: schemas.slots(node, opset, kind) for node in model.graph}
        self._bound = _returned_by_bodies(model)
        self._wide = set(wide)
        self._pairs = {node: bond for bond in bonds.pairs(model.graph) for node in bond}
        self._products = tuple(bonds.products(model))
        while self._bind() or self._settle():
            pass

    def is_half(self, value: ir.Value) -> bool:
        """Whether a computed float32 tensor becomes half precision."""
        node = value.producer()
        if node is None or value.type != WIDE or value in self._bound:
            return False
        index = next(i for i, output in enumerate(node.outputs) if output is value)
        return self._computes_half(node) and self._slots[node].outputs[index]

    def wants_half(self, node: ir.Node, index: int) -> bool:
        """Whether a node reads half precision on an input that is float32."""
        return self._computes_half(node) and self._slots[node].inputs[index]

    def _computes_half(self, node: ir.Node) -> bool:
        return node in self._slots and node not in self._wide

    def _bind(self) -> bool:
        """Let bonds be float32 as a whole; whether any became so."""
        before = len(self._wide)
        for bond in self._pairs.values():
            if not self._wide.isdisjoint(bond):
                self._wide.update(bond)
        for product, *ways in self._products:
            takes_half = self.wants_half(product, 0)
            if not (takes_half and self._wide.isdisjoint(ways)):
                self._wide.update((product, *ways))
        return len(self._wide) > before

    def _settle(self) -> bool:
        """Let nodes follow their neighbours; whether any did."""
        before = len(self._wide)
        for node in self._graph:
            bond = self._pairs.get(node, (node,))
            if self._computes_half(node) and all(
                self._follows(each) for each in bond if each.op_type != "QuantizeLinear"
            ):
                self._wide.update(bond)
        return len(self._wide) > before

    def _follows(self, node: ir.Node) -> bool:
        reads = [v for v in node.inputs if v is not None and v.type == WIDE]
        wide = [v for v in reads if v.const_value is None and not self.is_half(v)]
        gives = [value for value in node.outputs if value.type == WIDE]
        if not gives:
            return bool(wide) and len(wide) == sum(v.const_value is None for v in reads)
        readers = [use for value in gives for use in readers_of(value)]
        outside = [value.is_graph_output() for value in gives]
        if query.is_op(node, *SOURCES):
            return not any(self.wants_half(*use) for use in readers)
        if commutes(node) and wide:
            floats = [use for use in readers if not self.wants_half(*use)]
            takers = [use for use in readers if not any(map(_is_float, use[0].outputs))]
            return bool(floats or takers or any(outside))
        return False


def _is_float(value: ir.Value) -> bool:
    return value.type == WIDE


def _returned_by_bodies(model: ir.Model) -> set[ir.Value]:
    """Tensors of the main graph that a body returns as they are: their type is fixed."""
    bodies = [graph for graph in model.graphs() if graph is not model.graph]
    return {value for body in bodies for value in body.outputs if value.graph is not body}

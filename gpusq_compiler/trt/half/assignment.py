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
from gpusq_compiler.trt.half import bonds

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
        reads = [v for v in node.inputs if v is not None and _is_float(v)]
        computed = [value for value in reads if value.const_value is None]
        gives = [value for value in node.outputs if _is_float(value)]
        if not gives:
            return bool(computed) and not any(map(self.is_half, computed))
        if query.is_op(node, *SOURCES):
            readers = [use for value in gives for use in readers_of(value)]
            return not any(self.wants_half(*use) for use in readers)
        return commutes(node) and self._comes_from_float(node) and self._goes_to_float(node)

    def _comes_from_float(self, move: ir.Node) -> bool:
        """Whether a move, behind moves, hands on what is float32."""
        value = move.inputs[0]
        while value is not None and self.is_half(value):
            producer = value.producer()
            if producer is None or not commutes(producer):
                return False
            value = producer.inputs[0]
        return value is not None and value.const_value is None

    def _goes_to_float(self, move: ir.Node) -> bool:
        """Whether somebody behind a move, and moves, wants float32 or takes it."""
        for value in move.outputs:
            if value.is_graph_output():
                return True
            for node, index in readers_of(value):
                takes = not any(map(_is_float, node.outputs))
                if takes or not self.wants_half(node, index):
                    return True
                if commutes(node) and self._goes_to_float(node):
                    return True
        return False


def _is_float(value: ir.Value) -> bool:
    return value.type == WIDE


def _returned_by_bodies(model: ir.Model) -> set[ir.Value]:
    """Tensors of the main graph that a body returns as they are: their type is fixed."""
    bodies = [graph for graph in model.graphs() if graph is not model.graph]
    return {value for body in bodies for value in body.outputs if value.graph is not body}

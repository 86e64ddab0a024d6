"""Replacing initializers by what is stored of them and the nodes that compute them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import claims, edit, tensors
from gpusq_compiler.ir.packed.chain import AUTHOR, CHAIN, ZEROS, attributes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpusq_compiler.ir.packed.form import Packed
    from gpusq_compiler.runtime.samples import Array


def store(graph: ir.Graph, weights: Mapping[ir.Value, Packed], names: edit.Names) -> None:
    """Pack initializers of one graph.

    Args:
        graph: Owns them.
        weights: Initializers, and what is stored in their place.
        names: Of the model.
    """
    parts = {
        value: (
            _untyped(names.fresh(f"{value.name}.kept"), packed.kept),
            _untyped(names.fresh(f"{value.name}.positions"), packed.positions),
        )
        for value, packed in weights.items()
    }
    edit.exchange(graph, {value.name or "": pair for value, pair in parts.items()})
    first, writer = graph[0], _Writer(graph, names)
    for value, packed in weights.items():
        tensors.carry_notes(value.const_value, parts[value][0].const_value)
        value.const_value = None
        writer.chain(value, packed, *parts[value])
    graph.insert_before(first, writer.nodes)


class _Writer:
    """Makes the nodes; constants and zeros that several chains need stand there once."""

    def __init__(self, graph: ir.Graph, names: edit.Names) -> None:
        self.nodes: list[ir.Node] = []
        self._graph = graph
        self._names = names
        self._constants: dict[tuple[object, ...], ir.Value] = {}
        self._zeros: dict[tuple[int, ...], ir.Value] = {}
        self._count = 0

    def chain(
        self, value: ir.Value, packed: Packed, kept: ir.Value, positions: ir.Value
    ) -> None:
        """Make the nodes that compute a value."""
        zeros = self._zeros_of(packed.room)
        shifts = self._constant("shifts", packed.shifts)
        levels = self._constant("levels", np.array(packed.levels, np.uint8))
        shape = self._constant("shape", np.array(packed.shape, np.int64))
        flowing = positions
        for step, op_type in enumerate(CHAIN):
            inputs = {
                "BitShift": [flowing, shifts],
                "Mod": [flowing, levels],
                "Cast": [flowing],
                "ScatterElements": [zeros, flowing, kept],
                "Reshape": [flowing, shape],
            }
            last = value if op_type == CHAIN[-1] else None
            name = f"{AUTHOR}.{self._count}.{step}"
            flowing = self._node(op_type, inputs[op_type], name, last)
        self._count += 1

    def _zeros_of(self, room: tuple[int, ...]) -> ir.Value:
        if room not in self._zeros:
            shape = self._constant("room", np.array(room, np.int64))
            self._zeros[room] = self._node(ZEROS, [shape], f"{AUTHOR}.zeros")
        return self._zeros[room]

    def _constant(self, wish: str, array: Array) -> ir.Value:
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            value = _untyped(self._names.fresh(f"{AUTHOR}.{wish}"), array)
            self._graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        wish: str,
        result: ir.Value | None = None,
    ) -> ir.Value:
        node = ir.node(
            op_type,
            inputs,
            attributes=attributes(op_type),
            outputs=None if result is None else [result],
            name=self._names.fresh(wish),
            metadata_props={claims.PASS: AUTHOR},
        )
        if result is None:
            node.outputs[0].name = node.name
        self.nodes.append(node)
        return node.outputs[0]


def _untyped(name: str, array: Array) -> ir.Value:
    """A constant without the type and shape that the file would say a second time."""
    return ir.Value(name=name, const_value=ir.tensor(array, name=name))

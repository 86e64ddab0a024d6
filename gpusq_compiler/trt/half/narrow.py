"""From float32 to half precision: types, weights and casts of one graph.

Every tensor has one type, that of the node that writes it: half, or float32 where the node
stays float32 or the standard knows no half there. A reader of the other type reads a Cast,
one per tensor, so that nothing is ever cast back and forth. Inputs and outputs of the model
keep their types, bodies of If, Loop and Scan stay float32.

    x ─▶ Cast ─▶ MatMul ─▶ Add ─▶ Cast ─▶ InstanceNormalization ─▶ Cast ─▶ ...

Scales of quantizers are half precision with what they scale, from opset 19 on. A scale that
serves both types holds the same number in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import edit, query
from gpusq_compiler.trt.half import scales
from gpusq_compiler.trt.half.assignment import WIDE, Assignment

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    Uses = list[tuple[ir.Node, int]]

INDIFFERENT = ("Shape", "Size")
"""Operators to which the type of their input is all the same."""


def narrow(
    model: ir.Model, wide: Collection[ir.Node], kind: ir.DataType, *, author: str
) -> int:
    """Make everything half precision that need not be float32.

    Args:
        model: Edited; its tensors have types.
        wide: Nodes of the main graph that stay float32.
        kind: ``FLOAT16`` or ``BFLOAT16``.
        author: Whom new casts are stamped with.

    Returns:
        How many casts it has now between the two types.
    """
    return _Writer(model, wide, kind, author).write()


class _Writer:
    def __init__(
        self, model: ir.Model, wide: Collection[ir.Node], kind: ir.DataType, author: str
    ) -> None:
        self._graph = model.graph
        self._kind = kind
        self._author = author
        self._names = edit.Names(model)
        self._assigned = Assignment(model, wide, kind)

    def write(self) -> int:
        graph = self._graph
        computed = [v for node in graph for v in node.outputs if v.type == WIDE]
        fed = [value for value in graph.inputs if value.type == WIDE]
        constants = [
            value
            for value in graph.initializers.values()
            if value.type == WIDE and not value.is_graph_input()
        ]
        uses = {value: self._uses(value) for value in (*fed, *computed, *constants)}
        self._round_scales()
        halves = {value for value in computed if self._assigned.is_half(value)}
        for value in halves:
            self._retype(value)
        for value in constants:
            self._convert(value, *uses[value])
        for value in (*fed, *computed):
            as_half, as_float = uses[value]
            self._cast(value, as_float if value in halves else as_half)
        self._restore_outputs(halves)
        return self._drop_casts()

    def _uses(self, value: ir.Value) -> tuple[Uses, Uses]:
        """Who reads a tensor as half, and who as float32."""
        uses = [(n, i) for n, i in value.uses() if not query.is_op(n, *INDIFFERENT)]
        as_half = [use for use in uses if self._assigned.wants_half(*use)]
        return as_half, [use for use in uses if use not in as_half]

    def _retype(self, value: ir.Value) -> None:
        node = value.producer()
        value.type = ir.TensorType(self._kind)
        if query.is_op(node, "Cast"):
            assert node is not None
            node.attributes["to"] = ir.AttrInt64("to", int(self._kind))
        elif query.is_op(node, "ConstantOfShape"):
            assert node is not None
            given = node.attributes.get("value")
            array = np.zeros(1) if given is None else given.as_tensor().numpy()
            filler = ir.tensor(array.astype(self._kind.numpy()), dtype=self._kind)
            node.attributes["value"] = ir.AttrTensor("value", filler)

    def _round_scales(self) -> None:
        """Scales become numbers of the half precision wherever one reader is."""
        for value, nodes in scales.scales_of(self._graph).items():
            tensor = value.const_value
            assert tensor is not None
            if any(self._assigned.wants_half(node, 1) for node in nodes):
                edit.replace_weight(value, scales.rounded(tensor.numpy(), self._kind))

    def _convert(self, value: ir.Value, as_half: Uses, as_float: Uses) -> None:
        """A constant in the type that is read; one copy of each where both are."""
        if not as_half:
            return
        tensor = value.const_value
        assert tensor is not None
        if not as_float and not value.is_graph_output():
            edit.retype(value, self._kind)
            return
        name = self._names.fresh(f"{value.name}.{self._kind.name.lower()}")
        array = tensor.numpy().astype(self._kind.numpy())
        twin = edit.new_initializer(self._graph, name, array, dtype=self._kind)
        twin.metadata_props.update(value.metadata_props)
        edit.redirect(as_half, twin)

    def _cast(self, value: ir.Value, readers: Uses) -> None:
        """Let these readers of a tensor read it in the other type."""
        if not readers:
            return
        dtype = self._kind if value.type == WIDE else ir.DataType.FLOAT
        node = self._new_cast(value, dtype)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(producer, node)
        edit.redirect(readers, node.outputs[0])

    def _new_cast(self, value: ir.Value, dtype: ir.DataType, name: str = "") -> ir.Node:
        stem = f"{value.name}.{dtype.name.lower()}"
        return edit.new_node(
            "Cast",
            [value],
            name=self._names.fresh(f"{stem}.Cast"),
            author=self._author,
            output=name or self._names.fresh(stem),
            like=value,
            dtype=dtype,
            attributes={"to": int(dtype)},
        )

    def _restore_outputs(self, halves: Iterable[ir.Value]) -> None:
        """An output keeps name and type: it is cast from the tensor that it was."""
        changed = [value for value in halves if value.is_graph_output()]
        outputs = self._graph.outputs
        for value in changed:
            name, doc = value.name or "", value.doc_string
            value.name = self._names.fresh(f"{name}.{self._kind.name.lower()}")
            node = self._new_cast(value, ir.DataType.FLOAT, name)
            node.outputs[0].doc_string = doc
            self._graph.append(node)
            for index, output in enumerate(outputs):
                if output is value:
                    outputs[index] = node.outputs[0]

    def _drop_casts(self) -> int:
        """Remove casts that change nothing; count those between the two types."""
        left = 0
        for node in list(self._graph):
            source = node.inputs[0] if query.is_op(node, "Cast") else None
            if source is None:
                continue
            result = node.outputs[0]
            if source.dtype == result.dtype and not result.is_graph_output():
                result.replace_all_uses_with(source)
                self._graph.remove(node, safe=True)
            left += {source.dtype, result.dtype} == {self._kind, ir.DataType.FLOAT}
        return left

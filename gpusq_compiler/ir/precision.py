"""Private float32 copies of models in a precision that no runtime here computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.ir import edit

if TYPE_CHECKING:
    from collections.abc import Iterator

NARROW = ir.DataType.BFLOAT16
WIDE = ir.DataType.FLOAT


def widened(model: ir.Model) -> ir.Model:
    """The model with float32 wherever it has bfloat16: itself if it has none, else a clone.

    Every bfloat16 is a float32, so weights are exact; what is computed from them is rounded
    less than in the original.
    """
    if not any(value.dtype == NARROW for value in _values(model)):
        return model
    clone = model.clone()
    for value in list(_values(clone)):
        if value.dtype != NARROW:
            continue
        if value.const_value is not None:
            edit.retype(value, WIDE)
        value.type = ir.TensorType(WIDE)
    for node in ir.traversal.RecursiveGraphIterator(clone.graph):
        _widen_attributes(node)
    return clone


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _widen_attributes(node: ir.Node) -> None:
    """The type that Cast and the like name, and constants that a node holds."""
    for name, attribute in list(node.attributes.items()):
        if name in {"to", "dtype", "output_dtype"} and attribute.value == NARROW:
            node.attributes[name] = ir.AttrInt64(name, int(WIDE))
        elif attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype == NARROW:
                wide = ir.tensor(tensor.numpy().astype(WIDE.numpy()), dtype=WIDE)
                node.attributes[name] = ir.AttrTensor(name, wide)

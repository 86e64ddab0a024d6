"""Private float32 copies of what the runtime here does not compute, or computes wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.ir import edit, query

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


def quantized_in_float(model: ir.Model) -> ir.Model:
    """The model with float32 around float16 quantizers: itself if it has none, else a clone.

    x ─▶ Cast ─▶ Q ─▶ DQ ─▶ Cast ─▶          the same codes and, rounded again, values
    """
    if not any(_is_half(node) for node in _quantizers(model)):
        return model
    clone = model.clone()
    names, widths = edit.Names(clone), dict[ir.Value, ir.Value]()
    for node in list(_quantizers(clone)):
        if _is_half(node):
            _widen_scale(node, names, widths)
    return clone


def _quantizers(model: ir.Model) -> Iterator[ir.Node]:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if query.is_op(node, *query.QUANTIZERS):
            yield node


def _is_half(node: ir.Node) -> bool:
    scale, data = node.inputs[1], node.inputs[0]
    constant = data is not None and data.const_value is not None
    return scale is not None and scale.dtype == ir.DataType.FLOAT16 and not constant


def _widen_scale(node: ir.Node, names: edit.Names, widths: dict[ir.Value, ir.Value]) -> None:
    graph, scale, data = node.graph, node.inputs[1], node.inputs[0]
    assert graph is not None
    assert scale is not None
    assert data is not None
    if scale not in widths and scale.const_value is not None:
        array = scale.const_value.numpy().astype(WIDE.numpy())
        assert isinstance(scale.graph, ir.Graph)
        name = names.fresh(f"{scale.name}.float")
        widths[scale] = edit.new_initializer(scale.graph, name, array)
    if scale not in widths:
        return
    node.replace_input_with(1, widths[scale])
    result = node.outputs[0]
    if node.op_type == "QuantizeLinear":
        cast = _cast(data, WIDE, names)
        graph.insert_before(node, cast)
        node.replace_input_with(0, cast.outputs[0])
        return
    name, result.name = result.name or "", names.fresh(f"{result.name}.float")
    result.type = ir.TensorType(WIDE)
    cast = _cast(result, ir.DataType.FLOAT16, names, name)
    graph.insert_after(node, cast)
    result.replace_all_uses_with(cast.outputs[0], replace_graph_outputs=True)
    cast.replace_input_with(0, result)


def _cast(value: ir.Value, dtype: ir.DataType, names: edit.Names, output: str = "") -> ir.Node:
    name = names.fresh(f"{value.name}.{dtype.name.lower()}")
    return edit.new_node(
        "Cast",
        [value],
        name=name,
        author="precision",
        output=output or name,
        like=value,
        dtype=dtype,
        attributes={"to": int(dtype)},
    )


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

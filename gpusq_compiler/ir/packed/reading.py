"""Finding packed weights, reading them, and putting them back as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import claims, edit, query, tensors
from gpusq_compiler.ir.packed.chain import AUTHOR, CHAIN, INPUTS, ZEROS, attributes
from gpusq_compiler.ir.packed.form import Packed, damaged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gpusq_compiler.runtime.samples import Array


def packed_values(model: ir.Model) -> Iterator[ir.Value]:
    """Every weight that is stored packed, bodies of If and Loop included."""
    for graph in model.graphs():
        yield from _packed_in(graph)


def read(value: ir.Value) -> Packed:
    """What is stored of a packed weight.

    Raises:
        ModelError: It does not stand there as `store` wrote it.
    """
    return _read(value)[2]


def unpack(model: ir.Model) -> tuple[str, ...]:
    """Put every packed weight back as it was before `store`, in place.

    Returns:
        Their names.

    Raises:
        ModelError: One does not stand there as `store` wrote it.
    """
    restored: list[str] = []
    for graph in model.graphs():
        values = list(_packed_in(graph))
        if values:
            _restore(graph, values)
        restored += [value.name or "" for value in values]
    return tuple(restored)


def _packed_in(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        if node.op_type == CHAIN[-1] and node.metadata_props.get(claims.PASS) == AUTHOR:
            yield node.outputs[0]


def _restore(graph: ir.Graph, values: Sequence[ir.Value]) -> None:
    """Values become initializers again, each in the place of what it keeps."""
    places: dict[str, list[ir.Value]] = {}
    chains: list[ir.Node] = []
    for value in values:
        nodes, kept, packed = _read(value)
        twin = edit.initializer(value.name or "", packed.codes())
        twin.doc_string = value.doc_string
        twin.metadata_props.update(value.metadata_props)
        tensors.carry_notes(kept.const_value, twin.const_value)
        value.replace_all_uses_with(twin, replace_graph_outputs=True)
        places[kept.name or ""] = [twin]
        chains += nodes
    edit.exchange(graph, places)
    _remove(graph, _remove(graph, chains))


def _remove(graph: ir.Graph, nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Remove nodes and their constants; which nodes before them nothing reads any more."""
    inputs = list(dict.fromkeys(v for node in nodes for v in node.inputs if v is not None))
    graph.remove(nodes, safe=True)
    edit.drop_unused(graph, inputs)
    above = dict.fromkeys(value.producer() for value in inputs if not value.uses())
    return [node for node in above if node is not None and node.graph is graph]


def _read(value: ir.Value) -> tuple[list[ir.Node], ir.Value, Packed]:
    """The nodes of a chain from its end, what it keeps, and all that it says."""
    where = value.name or ""
    nodes: list[ir.Node] = []
    rest: dict[str, list[ir.Value | None]] = {}
    flowing: ir.Value | None = value
    for op_type in reversed(CHAIN):
        node = _node_behind(flowing, op_type, where)
        if nodes and (len(node.outputs[0].uses()) > 1 or node.outputs[0].is_graph_output()):
            raise damaged(where, f"something else reads the result of its {op_type}")
        nodes.append(node)
        inputs = list(node.inputs)
        flowing = inputs.pop(1 if op_type == "ScatterElements" else 0)
        rest[op_type] = inputs
    zeros, kept = rest["ScatterElements"]
    room = _node_behind(zeros, ZEROS, where).inputs[0]
    packed = Packed(
        kept=_constant(kept, where, np.int8),
        positions=_constant(flowing, where, np.uint8),
        shifts=_constant(rest["BitShift"][0], where, np.uint8),
        levels=int(_constant(rest["Mod"][0], where, np.uint8).max(initial=0)),
        room=tuple(_constant(room, where, np.int64).ravel().tolist()),
        shape=tuple(_constant(rest["Reshape"][0], where, np.int64).ravel().tolist()),
    )
    packed.require_sound(where)
    assert kept is not None
    return nodes, kept, packed


def _node_behind(value: ir.Value | None, op_type: str, where: str) -> ir.Node:
    """The node that computes a value, if it is the one that `store` puts there."""
    node = value.producer() if value is not None else None
    if node is None or not query.is_op(node, op_type):
        raise damaged(where, f"no {op_type} stands where gpusq puts one")
    same = _plain(node.attributes) == _plain(attributes(op_type))
    if not same or len(node.inputs) != INPUTS[op_type]:
        raise damaged(where, f"its {op_type} is not as gpusq writes it")
    return node


def _plain(found: Mapping[str, ir.Attr]) -> dict[str, object]:
    """Attributes so that equal ones compare equal."""
    plain: dict[str, object] = {}
    for name, attribute in found.items():
        plain[name] = attribute.value
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            plain[name] = (tensor.dtype, tensor.tobytes())
    return plain


def _constant(value: ir.Value | None, where: str, dtype: type[np.generic]) -> Array:
    if value is None or value.const_value is None:
        raise damaged(where, "a part of it is not a constant")
    array: Array = value.const_value.numpy()
    if array.dtype != dtype:
        raise damaged(where, f"'{value.name}' holds {array.dtype.name}")
    return array

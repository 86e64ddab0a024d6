"""The way back: graphs of the model from those of GraphSurgeon and what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import onnx_graphsurgeon as gs
import onnx_ir as ir
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, dtype_to_onnx

from gpusq_compiler.errors import PassBug, first_line
from gpusq_compiler.ir import claims, edit
from gpusq_compiler.ir.query import DEFAULT_DOMAIN
from gpusq_compiler.ir.surgeon.origins import type_of

if TYPE_CHECKING:
    from gpusq_compiler.ir.surgeon.origins import Graph, Origins

Scope: TypeAlias = dict[int | str, ir.Value]
"""Values by the ``id`` of their tensor, and by name."""

NO_GRAPH = ir.Graph([], [], nodes=[])
NO_VALUE = ir.Value()


class Back:
    """Builds graphs from those of GraphSurgeon and what they stand for.

    Attributes:
        untyped: Whether something computed is new and has no type.
    """

    def __init__(self, origins: Origins, author: str) -> None:
        self._origins = origins
        self._author = author
        self.untyped = False

    def graph(self, twin: Graph, outer: Scope | None = None) -> ir.Graph:
        """One graph with the bodies in it, which see the tensors of ``outer`` graphs."""
        origin = self._origins.graphs.get(id(twin), NO_GRAPH)
        scope = dict(outer or {})
        kept = self._initializers(origin, scope)
        constants = [
            self._define(tensor, scope)
            for tensor in twin.tensors(check_duplicates=True).values()
            if isinstance(tensor, gs.Constant) and id(tensor) not in scope
        ]
        inputs = [
            scope[id(t)] if isinstance(t, gs.Constant) else self._define(t, scope)
            for t in twin.inputs
        ]
        for index, value in enumerate(origin.inputs):
            if value in kept:
                inputs.insert(index, kept[value])
        for node in twin.nodes:
            self._define_outputs(node, scope)
        graph = ir.Graph(
            inputs,
            [self._find(tensor, scope, "the graph returns") for tensor in twin.outputs],
            nodes=[self._node(node, scope) for node in twin.nodes],
            initializers=[*kept.values(), *constants],
            name=twin.name or None,
            doc_string=twin.doc_string or None,
            opset_imports=_opsets(twin) if outer is None else None,
            metadata_props=dict(origin.metadata_props),
        )
        graph.meta.update(origin.meta)
        once_read = [new for old, new in kept.items() if old in self._origins.twins]
        for value in once_read:
            if value.is_graph_input() and not value.uses() and not value.is_graph_output():
                graph.inputs.remove(value)
        edit.drop_unused(graph, once_read)
        return graph

    def _initializers(self, origin: ir.Graph, scope: Scope) -> dict[ir.Value, ir.Value]:
        """Those that are still constants, and those that nothing ever read."""
        kept = {}
        for value in origin.initializers.values():
            twin = self._origins.twins.get(value)
            if twin is None:
                kept[value] = _copy(value, value.name or "", value.const_value)
            elif isinstance(twin, gs.Constant):
                kept[value] = self._define(twin, scope)
        return kept

    def _define_outputs(self, node: Any, scope: Scope) -> None:
        for tensor in node.outputs:
            if tensor.is_empty():
                continue
            if id(tensor) in scope:
                raise PassBug(
                    f"left '{tensor.name}' with two origins",
                    where=f"{self._author}, node '{node.name}'",
                )
            value = self._define(tensor, scope)
            self.untyped |= value.type is None and id(tensor) not in self._origins.values

    def _define(self, tensor: Any, scope: Scope) -> ir.Value:
        origin = self._origins.values.get(id(tensor), NO_VALUE)
        value = _copy(origin, tensor.name, None)
        if isinstance(tensor, gs.Constant):
            value.const_value = self._data(tensor)
            if value.const_value is not origin.const_value:
                value.type = ir.TensorType(value.const_value.dtype)
                value.shape = ir.Shape(value.const_value.shape.numpy())
        elif self._origins.states.get(id(tensor)) != type_of(tensor):
            typed = ir.from_proto(OnnxExporter.export_value_info_proto(tensor, False))
            value.type, value.shape = typed.type, _free(typed.shape)
        scope[id(tensor)] = scope[tensor.name] = value
        return value

    def _data(self, constant: Any) -> ir.TensorProtocol:
        """The tensor that a constant came with, or its new values, which are not copied."""
        kept = self._origins.kept(constant)
        if kept is not None:
            return kept
        dtype = ir.DataType(dtype_to_onnx(constant.export_dtype))
        array = constant.values.astype(dtype.numpy(), copy=False)
        return ir.tensor(array, dtype=dtype, name=constant.name)

    def _find(self, tensor: Any, scope: Scope, reader: str) -> ir.Value:
        """The value of a tensor, by name: in a body it may be another object."""
        value = scope.get(tensor.name)
        if value is None:
            raise PassBug(
                f"{reader} '{tensor.name}', which nothing computes", where=self._author
            )
        return value

    def _node(self, node: Any, scope: Scope) -> ir.Node:
        origin = self._origins.nodes.get(id(node))
        reader = f"the node '{node.name}' reads"
        outputs = [
            ir.Value(name="") if tensor.is_empty() else scope[id(tensor)]
            for tensor in node.outputs
        ]
        made = ir.Node(
            node.domain or "",
            node.op,
            [None if t.is_empty() else self._find(t, scope, reader) for t in node.inputs],
            [self._attribute(node, origin, key, scope) for key in node.attrs],
            outputs=outputs,
            name=node.name or f"{node.op}_{outputs[0].name if outputs else ''}",
            metadata_props={claims.PASS: self._author},
        )
        if origin is not None:
            made.name = node.name
            made.version, made.doc_string = origin.version, origin.doc_string
            made.device_configurations = origin.device_configurations
            made.metadata_props.clear()
            made.metadata_props.update(origin.metadata_props)
            made.meta.update(origin.meta)
        return made

    def _attribute(self, node: Any, origin: ir.Node | None, key: str, scope: Scope) -> ir.Attr:
        held = node.attrs[key]
        before = origin.attributes.get(key) if origin is not None else None
        text = before.doc_string if before is not None else None
        if isinstance(held, gs.Graph):
            return ir.AttrGraph(key, self.graph(held, scope), doc_string=text)
        if isinstance(held, gs.Constant):
            return ir.AttrTensor(key, self._data(held), doc_string=text)
        states: Any = self._origins.states.get(id(node), {})
        if before is not None and type(held) is type(states[key]) and held == states[key]:
            return before
        try:
            (proto,) = OnnxExporter.export_attributes({key: held})
        except (ValueError, TypeError) as error:
            raise PassBug(
                f"the attribute '{key}' cannot be written: {first_line(error)}",
                where=f"{self._author}, node '{node.name}'",
            ) from error
        made: ir.Attr = ir.from_proto(proto)
        return made


def _copy(value: ir.Value, name: str, tensor: ir.TensorProtocol | None) -> ir.Value:
    made = ir.Value(
        name=name,
        type=value.type,
        shape=value.shape,
        doc_string=value.doc_string,
        metadata_props=dict(value.metadata_props),
        const_value=tensor,
    )
    made.meta.update(value.meta)
    return made


def _opsets(twin: Graph) -> dict[str, int]:
    """Versions of the domains, 1 for one that is new (as GraphSurgeon writes it)."""
    graphs = (twin, *twin.subgraphs(recursive=True))
    used = {node.domain or "" for graph in graphs for node in graph.nodes}
    versions = {entry.domain: entry.version for entry in twin.import_domains}
    return versions | dict.fromkeys(sorted(used.difference(versions, DEFAULT_DOMAIN)), 1)


def _free(shape: ir.Shape | None) -> ir.Shape | None:
    """GraphSurgeon writes a free dimension as -1."""
    return None if shape is None else ir.Shape([None if d == -1 else d for d in shape])


def new_functions(twin: Graph) -> dict[ir.OperatorIdentifier, ir.Function]:
    """Functions that were made in GraphSurgeon; those of the model did not cross."""
    made = [ir.from_proto(OnnxExporter.export_function(each)) for each in twin.functions]
    return {function.identifier(): function for function in made}

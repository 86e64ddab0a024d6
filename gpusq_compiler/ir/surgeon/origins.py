"""The way out: a GraphSurgeon graph, and what each object in it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import onnx_graphsurgeon as gs
import onnx_ir as ir

from gpusq_compiler.errors import ModelError, PreconditionError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterable

Graph: TypeAlias = gs.Graph
"""For those that may not import GraphSurgeon and still name what they edit."""

READABLE = 1024
"""Bytes up to which the values of a constant cross."""


class Origins:
    """What each object of GraphSurgeon stands for, by its ``id``: they cannot be hashed.

    Attributes:
        twin: The graph to edit.
        tensors: Behind constants and their values.
        states: Types of variables and attributes of nodes, as they were.
    """

    def __init__(self, model: ir.Model) -> None:
        self.graphs: dict[int, ir.Graph] = {}
        self.nodes: dict[int, ir.Node] = {}
        self.values: dict[int, ir.Value] = {}
        self.twins: dict[ir.Value, Any] = {}
        self.tensors: dict[int, ir.TensorProtocol] = {}
        self.states: dict[int, object] = {}
        self._alive: list[object] = []
        try:
            self.twin = gs.import_onnx(ir.to_proto(_hollow(model.graph, model.ir_version)))
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"GraphSurgeon cannot hold the model: {first_line(error.__cause__ or error)}",
                where="model",
                remedy="Run canonicalize first",
            ) from error
        self._pair(model.graph, self.twin)

    def _pair(self, graph: ir.Graph, twin: Graph) -> None:
        self.graphs[id(twin)] = graph
        inputs = [value for value in graph.inputs if value.name not in graph.initializers]
        self._pair_values(inputs, twin.inputs)
        self._pair_values(graph.outputs, twin.outputs)
        for node, other in zip(graph, twin.nodes, strict=True):
            self.nodes[id(other)] = node
            self.states[id(other)] = {key: _frozen(held) for key, held in other.attrs.items()}
            self._pair_values(node.inputs, other.inputs)
            self._pair_values(node.outputs, other.outputs)
            for key, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.GRAPH:
                    self._pair(attribute.as_graph(), other.attrs[key])
                elif attribute.type == ir.AttributeType.TENSOR:
                    self._pair_data(attribute.as_tensor(), other.attrs[key])
            self._alive.append(other)
        self._alive.append(twin)

    def _pair_values(self, values: Iterable[ir.Value | None], twins: Iterable[Any]) -> None:
        # Blanks at the end do not cross.
        for value, twin in zip(values, twins, strict=False):
            if value is None or twin.is_empty():
                continue
            if self.values.setdefault(id(twin), value) is not value or (
                self.twins.setdefault(value, twin) is not twin
            ):
                raise ModelError(
                    "GraphSurgeon cannot hold the model: two tensors have the same name",
                    where=f"tensor '{value.name}'",
                    remedy="Run canonicalize first",
                )
            if isinstance(twin, gs.Constant):
                assert value.const_value is not None
                self._pair_data(value.const_value, twin)
            elif id(twin) not in self.states:
                self.states[id(twin)] = type_of(twin)

    def _pair_data(self, tensor: ir.TensorProtocol, twin: Any) -> None:
        data = twin._values
        for key in (twin, data):
            self.tensors[id(key)] = tensor
            self._alive.append(key)
        if not _readable(tensor):
            data.load = lambda: _refuse(tensor)

    def kept(self, constant: Any) -> ir.TensorProtocol | None:
        """The tensor whose values a constant still has, read or not."""
        unread = self.tensors.get(id(constant._values))
        if unread is not None:
            return unread
        before = self.tensors.get(id(constant))
        return before if before is not None and _equal(constant.values, before) else None


def _hollow(graph: ir.Graph, ir_version: int) -> ir.Model:
    """A clone in which a reference to no file stands for each weight that does not cross."""

    def emptied(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if _readable(tensor):
            return tensor
        shape = ir.Shape(tensor.shape.numpy())
        return ir.ExternalTensor(
            "kept", 0, tensor.nbytes, tensor.dtype, shape=shape, name=tensor.name or ""
        )

    clone = ir.Model(graph.clone(), ir_version=ir_version)
    for each in clone.graphs():
        for value in each.initializers.values():
            if value.const_value is not None:
                value.const_value = emptied(value.const_value)
        for node in each:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR:
                    node.attributes[name] = ir.AttrTensor(name, emptied(attribute.as_tensor()))
    return clone


def _readable(tensor: ir.TensorProtocol) -> bool:
    kind = tensor.dtype.numpy()
    return tensor.nbytes <= READABLE and kind.isbuiltin == 1 and not kind.hasobject


def _refuse(tensor: ir.TensorProtocol) -> NoReturn:
    raise PreconditionError(
        f"its {tensor.nbytes} bytes of {tensor.dtype.name} cannot be read in GraphSurgeon: "
        f"only constants of at most {READABLE} bytes in types of numpy's own can",
        where=f"tensor '{tensor.name}'",
        remedy="Read and write weights in a Pass, on the model",
    )


def _equal(array: Any, tensor: ir.TensorProtocol) -> bool:
    if not _readable(tensor) or array.dtype != tensor.dtype.numpy():
        return False
    return array.shape == tensor.numpy().shape and bool(array.tobytes() == tensor.tobytes())


def _frozen(held: Any) -> Any:
    return list(held) if isinstance(held, list) else held


def type_of(variable: Any) -> tuple[object, ...]:
    """What GraphSurgeon says about a variable."""
    shape = None if variable.shape is None else tuple(variable.shape)
    return variable.dtype, shape, variable.type

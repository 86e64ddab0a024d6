"""Building protobuf graphs node by node: the writer behind copies, losses, optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.runtime.samples import Array

Shape = tuple[int | None, ...]


class ProtoGraph:
    """Appends nodes to a graph; implements `GraphBuilder`.

    Args:
        graph: Extended in place.
        opset: Version of the default domain that the nodes must fit (13 or newer).
    """

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.graph = graph
        self.opset = opset
        self._taken = names_in(graph)
        self._scalars: dict[float, str] = {}

    def node(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """Add a node of the default domain with one output and return the output's name."""
        output = self.fresh(op_type)
        node = helper.make_node(op_type, inputs, [output], name=output)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.add(node)
        return output

    def add(self, node: onnx.NodeProto) -> None:
        """Add a finished node."""
        self.graph.node.append(node)

    def constant(self, value: float | Array) -> str:
        """Add a constant (a Python float becomes one float32 scalar) and return its name."""
        if isinstance(value, float) and value in self._scalars:
            return self._scalars[value]
        array = np.asarray(value, dtype=np.float32 if isinstance(value, float) else None)
        name = self.fresh("constant")
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        if isinstance(value, float):
            self._scalars[value] = name
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Add a 1-d int64 constant, as shapes and axes are."""
        return self.constant(np.array(values, dtype=np.int64))

    def reduce(self, op_type: str, x: str, axes: Sequence[int]) -> str:
        """Add a reduction that keeps its axes, in the form of the opset."""
        if op_type == "ReduceSum" or self.opset >= 18:
            return self.node(op_type, x, self.integers(axes), keepdims=1)
        return self.node(op_type, x, axes=list(axes), keepdims=1)

    def squeezed(self, x: str, axes: Sequence[int]) -> str:
        """Drop axes of size 1."""
        return self.node("Squeeze", x, self.integers(axes))

    def name(self, result: str, wanted: str) -> None:
        """Make ``result`` known as ``wanted`` too."""
        self.add(helper.make_node("Identity", [result], [wanted], name=self.fresh("Identity")))

    def fresh(self, stem: str) -> str:
        """A tensor name that nothing in the graph has."""
        number = len(self._taken)
        while f"train.{stem}.{number}" in self._taken:
            number += 1
        self._taken.add(f"train.{stem}.{number}")
        return f"train.{stem}.{number}"


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Every name of a tensor or node of the main graph."""
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names.add(node.name)
        names.update(node.input)
        names.update(node.output)
    return names


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """The value of a node's attribute."""
    for entry in node.attribute:
        if entry.name == name:
            value: object = helper.get_attribute_value(entry)
            return value
    return default


def integers_of(node: onnx.NodeProto, name: str, default: Sequence[int]) -> list[int]:
    """A node's attribute of integers."""
    value = attribute(node, name)
    return [int(v) for v in np.atleast_1d(np.asarray(default if value is None else value))]


def integer_of(node: onnx.NodeProto, name: str, default: int) -> int:
    """A node's integer attribute."""
    return integers_of(node, name, [default])[0]


def number_of(node: onnx.NodeProto, name: str, default: float) -> float:
    """A node's attribute that is a number."""
    value = attribute(node, name, default)
    assert isinstance(value, int | float)
    return float(value)


def word_of(node: onnx.NodeProto, name: str, default: str) -> str:
    """A node's attribute that is a string."""
    value = attribute(node, name, default.encode())
    assert isinstance(value, bytes)
    return value.decode()


def array_of(tensor: onnx.TensorProto) -> Array:
    """The values of a tensor, 4-bit and bfloat16 ones included."""
    array: Array = ir.serde.deserialize_tensor(tensor).numpy()
    return array


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default operator set."""
    return next(int(i.version) for i in model.opset_import if i.domain in {"", "ai.onnx"})


def tensor_types(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, Shape]]:
    """Element types and shapes of the main graph's tensors, as far as inference finds them."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    shapes: dict[str, Shape] = {
        tensor.name: tuple(int(d) for d in tensor.dims) for tensor in graph.initializer
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor_type = value.type.tensor_type
        kinds.setdefault(value.name, int(tensor_type.elem_type))
        if tensor_type.HasField("shape"):
            dims = tensor_type.shape.dim
            known = (int(d.dim_value) if d.HasField("dim_value") else None for d in dims)
            shapes.setdefault(value.name, tuple(known))
    return kinds, shapes

"""Changing a graph: weights, new nodes, fresh names; new nodes are stamped by their author."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common

from gpusq_compiler.ir import claims, tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gpusq_compiler.runtime.samples import Array


def replace_weight(value: ir.Value, array: Array) -> None:
    """Give an initializer new values of its own type; its claims stay."""
    assert value.const_value is not None, "only initializers have weights"
    replace_tensor(value, tensors.replaced(value.const_value, array))


def replace_tensor(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Give an initializer another tensor; its claims stay."""
    tensor.name = value.name
    value.const_value = tensor
    value.shape = ir.Shape(tensor.shape.numpy())
    value.type = ir.TensorType(tensor.dtype)


def retype(value: ir.Value, dtype: ir.DataType) -> None:
    """Give an initializer another float type; its claims stay."""
    old = value.const_value
    assert old is not None, "only initializers have weights"
    replace_tensor(value, tensors.replaced(old, tensors.values(old), dtype))


class Names:
    """Hands out value and node names that a model does not use yet."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str | None] = set()
        for graph in model.graphs():
            self._taken.update(value.name for value in graph.inputs)
            self._taken.update(graph.initializers)
            for node in graph:
                self._taken.add(node.name)
                self._taken.update(value.name for value in node.outputs)

    def fresh(self, wish: str) -> str:
        """``wish`` itself, or with the first free number behind it."""
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}.{number}"
        self._taken.add(name)
        return name


def new_initializer(
    graph: ir.Graph, name: str, array: Array, *, dtype: ir.DataType | None = None
) -> ir.Value:
    """Register an initializer; the name must be fresh."""
    value = initializer(name, array, dtype=dtype)
    graph.register_initializer(value)
    return value


def initializer(name: str, array: Array, *, dtype: ir.DataType | None = None) -> ir.Value:
    """A constant that no graph owns yet."""
    tensor = ir.tensor(array, dtype=dtype, name=name)
    return ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )


def exchange(graph: ir.Graph, replacements: Mapping[str, Sequence[ir.Value]]) -> None:
    """Put others in the places of some initializers; who reads the old ones is not changed."""
    before = list(graph.initializers.items())
    for name, _ in reversed(before):
        del graph.initializers[name]
    for name, value in before:
        for one in replacements.get(name, (value,)):
            graph.initializers.add(one)


def new_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    *,
    name: str,
    author: str,
    output: str,
    like: ir.Value,
    dtype: ir.DataType | None = None,
    attributes: Mapping[str, int | float | str | Sequence[int]] | None = None,
) -> ir.Node:
    """Make a node with one output of ``like``'s shape, stamped with the pass that made it."""
    node = ir.node(
        op_type,
        inputs,
        attributes=attributes or {},
        name=name,
        metadata_props={claims.PASS: author},
    )
    result = node.outputs[0]
    result.name = output
    result.shape = like.shape
    result.type = ir.TensorType(dtype) if dtype is not None else like.type
    return node


def redirect(uses: Iterable[tuple[ir.Node, int]], value: ir.Value) -> None:
    """Make these inputs of nodes read ``value``."""
    for node, index in uses:
        node.replace_input_with(index, value)


def drop_unused(graph: ir.Graph, values: Iterable[ir.Value]) -> None:
    """Remove initializers that nothing reads any more."""
    for value in values:
        if not value.uses() and not value.is_graph_output() and value.name is not None:
            graph.initializers.pop(value.name, None)


def infer_shapes(model: ir.Model) -> None:
    """Shapes and types of what computes them; operators that we do not know keep none."""
    quiet = logging.getLogger("onnx_ir.passes.common.shape_inference")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    finally:
        quiet.setLevel(level)

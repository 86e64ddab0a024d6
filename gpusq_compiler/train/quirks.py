"""What the gradient builder gets wrong, put right in the graph that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from gpusq_compiler.train.protograph import ProtoGraph, integer_of, opset_of, tensor_types
from gpusq_compiler.train.reach import Reach, inputs_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gpusq_compiler.train.protograph import Shape


def once_per_node(graph: onnx.GraphProto, parameters: Collection[str]) -> None:
    """Let a parameter's further uses in one node go through Identity: the builder fails."""
    twins = ProtoGraph(onnx.GraphProto(node=graph.node), 0)
    first = len(twins.graph.node)
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in parameters and name in node.input[:position]:
                node.input[position] = twins.node("Identity", name)
    nodes = [*twins.graph.node[first:], *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def whole_splits(model: onnx.ModelProto, loss: str) -> None:
    """Gather instead of a Split of which some outputs do not reach the loss.

    The gradient of Split joins the gradients that are there, which has the wrong shape then.
    Slices would not do: the runtime fuses them to a Split.
    """
    if all(node.op_type != "Split" for node in model.graph.node):
        return
    kinds, shapes = tensor_types(model)
    useful = Reach(model.graph, kinds).above([loss])
    graph = ProtoGraph(model.graph, opset_of(model))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "Split" or set(node.output) <= useful:
            graph.add(node)
        else:
            _picked(graph, node, shapes)


def _picked(graph: ProtoGraph, node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> None:
    """Write a Split as one Gather per output, where the sizes are known."""
    known = [shapes.get(name) for name in node.output]
    axis = integer_of(node, "axis", 0)
    sizes = [None if shape is None else shape[axis] for shape in known]
    if None in sizes:
        graph.add(node)
        return
    start = 0
    for name, size in zip(list(node.output), sizes, strict=True):
        rows = range(start, start + (size or 0))
        picked = graph.node("Gather", node.input[0], graph.integers(rows), axis=axis)
        graph.name(picked, name)
        start = rows.stop


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers on which no output depends."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(inputs_of(node))
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)

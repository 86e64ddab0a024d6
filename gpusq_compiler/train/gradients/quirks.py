"""What the gradient builder gets wrong, put right in the graph that it is given."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from gpusq_compiler.runtime.session import session_options
from gpusq_compiler.train.gradients.reach import Reach, inputs_of, taken_by_bodies
from gpusq_compiler.train.protograph import ProtoGraph, integer_of, opset_of, tensor_types

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gpusq_compiler.train.protograph import Shape

STAND_IN = ("ATen", "org.pytorch.aten")
"""An operator of any inputs and outputs, without a body and without a gradient."""
TENSOR = re.compile(r"tensor\((\w+)\)")


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


def without_bodies(
    optimized: bytes, parameters: Collection[str]
) -> tuple[bytes, dict[str, onnx.NodeProto]]:
    """Stand-ins for nodes whose bodies read computed tensors or parameters around them.

    The builder looks for such a tensor among the node's own inputs and ends the process.
    A stand-in takes tensors only: what reads or writes sequences gets one too, and floats
    stand in for the sequences.

    Args:
        optimized: What the runtime made of the graph: it may have resolved an If.
        parameters: What is differentiated for.

    Returns:
        The graph for the builder, and what `with_bodies` needs: name of the stand-in → node.
    """
    model = onnx.load_from_string(optimized)
    graph = model.graph
    computed = {name for node in graph.node for name in node.output}.union(parameters)
    reading = [bool(computed.intersection(taken_by_bodies(node))) for node in graph.node]
    if not any(reading):
        return optimized, {}
    types = _types(model)
    others = {name for name, told in types.items() if told.type.tensor_type.elem_type == 0}
    hidden: dict[str, onnx.NodeProto] = {}
    for index, node in enumerate(graph.node):
        if reading[index] or others.intersection((*node.input, *node.output)):
            name = f"train.body.{index}"
            hidden[name] = onnx.NodeProto()
            hidden[name].CopyFrom(node)
            node.CopyFrom(_stand_in(node, name, graph.input[0].name))
    for name in others:
        types[name].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    _declare(graph, {name: types[name] for n in hidden.values() for name in n.output if name})
    if all(entry.domain != STAND_IN[1] for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(STAND_IN[1], 1))
    return model.SerializeToString(), hidden


def with_bodies(gradient: bytes, hidden: Mapping[str, onnx.NodeProto]) -> bytes:
    """The graph with the nodes themselves where `without_bodies` put stand-ins."""
    if not hidden:
        return gradient
    model = onnx.load_from_string(gradient)
    for node in model.graph.node:
        if node.name in hidden:
            node.CopyFrom(hidden[node.name])
    _declare(model.graph, {name: None for node in hidden.values() for name in node.output})
    return bytes(model.SerializeToString())


def _stand_in(node: onnx.NodeProto, name: str, some: str) -> onnx.NodeProto:
    """A node that writes what this one does and reads the same, or something."""
    operator, domain = STAND_IN
    read = [tensor for tensor in dict.fromkeys(inputs_of(node)) if tensor] or [some]
    return helper.make_node(
        operator, read, node.output, name=name, domain=domain, operator=node.op_type
    )


def _types(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """The types of all computed values as the runtime infers them, 0 for no tensor."""
    import onnxruntime

    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    outputs = open_model.graph.output
    names = {name for node in model.graph.node for name in node.output if name}
    names.difference_update(value.name for value in outputs)
    outputs.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
    session = onnxruntime.InferenceSession(
        open_model.SerializeToString(),
        session_options(threads=1, optimize=False),
        providers=["CPUExecutionProvider"],
    )
    found = {}
    for value in session.get_outputs():
        kind, tensor = 0, TENSOR.fullmatch(value.type)
        if tensor:
            kind = onnx.TensorProto.DataType.Value(tensor.group(1).upper())
        # The runtime tells an unknown shape as that of a scalar.
        found[value.name] = helper.make_tensor_value_info(
            value.name, kind, value.shape or None
        )
    return found


def _declare(graph: onnx.GraphProto, types: Mapping[str, onnx.ValueInfoProto | None]) -> None:
    """Replace what the graph states about these values."""
    kept = [value for value in graph.value_info if value.name not in types]
    del graph.value_info[:]
    graph.value_info.extend([*kept, *(told for told in types.values() if told)])


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

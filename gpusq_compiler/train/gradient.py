"""From a loss graph to one graph of forward and backward: the graph builder's only user."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.session import session_options
from gpusq_compiler.train.protograph import ProtoGraph

if TYPE_CHECKING:
    from collections.abc import Collection


UNREGISTERED = re.compile(r"builder has not been registered: (\w+) for node (\S*)")
NO_KERNEL = re.compile(
    r"implementation for (\w+)Grad\(\d+\) node with name '([^']*?)(?:_Grad/|')"
)
BUILDER_FAILS = (RuntimeError, ValueError, IndexError)
UNSUPPORTED = re.compile(r"::Get(\w+?)Gradient::GetGradientDefsImpl")


class MissingGradient(TrainingError):
    """An operator between the parameters and the loss has no gradient.

    Args:
        op_type: The operator.
        node: Name of the node, empty where the runtime does not say.
    """

    def __init__(self, op_type: str, node: str = "") -> None:
        super().__init__(
            f"{op_type} has no gradient in the installed ONNX Runtime",
            where=f"node '{node}'" if node else "",
            remedy="Freeze the parameters above it",
        )
        self.op_type = op_type
        self.node = node


def gradient_graph(model: onnx.ModelProto, parameters: Collection[str], loss: str) -> bytes:
    """The model extended by its backward pass, with one more output ``<parameter>_grad`` each.

    Args:
        model: Parameters are inputs; ``loss`` is a scalar output.
        parameters: Float inputs to differentiate for; each must reach the loss.
        loss: Name of the scalar.

    Raises:
        MissingGradient: An operator on the way cannot be differentiated.
        TrainingError: The builder fails for another reason.
    """
    flavour.require_training()
    from onnxruntime.capi import _pybind_state as state

    _straight_through_round()
    options = session_options()
    names = set(parameters)
    try:
        optimized = state.get_optimized_model(model.SerializeToString(), names, options)
        builder = state.GradientGraphBuilder(optimized, {loss}, names, loss, options)
        builder.build()
        return bytes(builder.get_model())
    except BUILDER_FAILS as error:
        raise explained(error) from error


def with_inputs(model: onnx.ModelProto, parameters: Collection[str]) -> onnx.ModelProto:
    """A copy of the model in which these initializers are inputs."""
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    graph = moved.graph
    kept = [tensor for tensor in graph.initializer if tensor.name not in parameters]
    gone = [tensor for tensor in graph.initializer if tensor.name in parameters]
    declared = {value.name for value in graph.input}
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in gone
        if tensor.name not in declared
    )
    del graph.initializer[:]
    graph.initializer.extend(kept)
    _once_per_node(graph, parameters)
    if all(entry.domain != "com.microsoft" for entry in moved.opset_import):
        moved.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return moved


def explained(error: Exception) -> TrainingError:
    """The runtime's complaint about a gradient graph as an error that names the operator."""
    text = " ".join(str(error).split())
    for pattern in (UNREGISTERED, NO_KERNEL):
        if found := pattern.search(text):
            return MissingGradient(found.group(1), found.group(2))
    if found := UNSUPPORTED.search(text):
        return MissingGradient(found.group(1))
    told = re.split(r"\) const |FAIL : |Error: ", text)[-1]
    return TrainingError(
        f"the gradient graph cannot be built: {told[-200:]}",
        remedy="Exclude the layers concerned from training",
    )


def _once_per_node(graph: onnx.GraphProto, parameters: Collection[str]) -> None:
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


@functools.cache
def _straight_through_round() -> None:
    """Teach the builder, once per process, that the gradient of Round is the identity."""
    from onnxruntime.capi import _pybind_state as state

    definition = state.GradientNodeDefinition()
    definition.op_type, definition.domain = "Identity", ""
    definition.inputs, definition.outputs = ["GO(0)"], ["GI(0)"]
    definition.attributes = []
    state.register_gradient_definition("::Round", [definition])

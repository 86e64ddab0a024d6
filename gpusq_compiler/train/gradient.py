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
from gpusq_compiler.train import quirks

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

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
        model: Parameters are inputs; ``loss`` is a scalar output. It is adapted in place.
        parameters: Float inputs to differentiate for; each must reach the loss.
        loss: Name of the scalar.

    Raises:
        MissingGradient: An operator on the way cannot be differentiated.
        TrainingError: The builder fails for another reason.
    """
    flavour.require_training()
    from onnxruntime.capi import _pybind_state as state

    _teach()
    options = session_options()
    names = set(parameters)
    quirks.whole_splits(model, loss)
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
    quirks.once_per_node(graph, parameters)
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


DERIVATIVES: Mapping[str, Sequence[tuple[str, tuple[str, ...], str]]] = {
    "Acos": (("Sin", ("O(0)",), "s"), ("Neg", ("s",), "n"), ("Div", ("GO(0)", "n"), "GI(0)")),
    "Acosh": (("Sinh", ("O(0)",), "s"), ("Div", ("GO(0)", "s"), "GI(0)")),
    "Asin": (("Cos", ("O(0)",), "c"), ("Div", ("GO(0)", "c"), "GI(0)")),
    "Asinh": (("Cosh", ("O(0)",), "c"), ("Div", ("GO(0)", "c"), "GI(0)")),
    "Atan": (("Cos", ("O(0)",), "c"), ("Mul", ("c", "c"), "q"), ("Mul", ("GO(0)", "q"), "GI(0)")),
    "Atanh": (("Cosh", ("O(0)",), "c"), ("Mul", ("c", "c"), "q"), ("Mul", ("GO(0)", "q"), "GI(0)")),
    "Cosh": (("Sinh", ("I(0)",), "s"), ("Mul", ("GO(0)", "s"), "GI(0)")),
    "Mod": (("Identity", ("GO(0)",), "GI(0)"),),
    "Round": (("Identity", ("GO(0)",), "GI(0)"),),
    "Sinh": (("Cosh", ("I(0)",), "c"), ("Mul", ("GO(0)", "c"), "GI(0)")),
    "Softplus": (("Sigmoid", ("I(0)",), "s"), ("Mul", ("GO(0)", "s"), "GI(0)")),
    "Tan": (("Cos", ("I(0)",), "c"), ("Div", ("GO(0)", "c"), "d"), ("Div", ("d", "c"), "GI(0)")),
}  # fmt: skip
"""Gradients that the builder lacks: operator, its inputs, its output; Round passes through."""


@functools.cache
def _teach() -> None:
    """Tell the builder, once per process, the gradients that it lacks."""
    from onnxruntime.capi import _pybind_state as state

    for op_type, steps in DERIVATIVES.items():
        definitions = []
        for operator, inputs, output in steps:
            definition = state.GradientNodeDefinition()
            definition.op_type, definition.domain = operator, ""
            definition.inputs, definition.outputs = list(inputs), [output]
            definition.attributes = []
            definitions.append(definition)
        state.register_gradient_definition(f"::{op_type}", definitions)

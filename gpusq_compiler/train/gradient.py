"""From a loss graph to one graph of forward and backward: the graph builder's only user."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.session import session_options

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx

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


def explained(error: Exception) -> TrainingError:
    """The runtime's complaint about a gradient graph as an error that names the operator."""
    text = " ".join(str(error).split())
    for pattern in (UNREGISTERED, NO_KERNEL):
        if found := pattern.search(text):
            return MissingGradient(found.group(1), found.group(2))
    if found := UNSUPPORTED.search(text):
        return MissingGradient(found.group(1))
    return TrainingError(
        f"the gradient graph cannot be built: {text[-200:]}",
        remedy="Report the model's operators with: gpusq inspect MODEL",
    )


@functools.cache
def _straight_through_round() -> None:
    """Teach the builder, once per process, that the gradient of Round is the identity."""
    from onnxruntime.capi import _pybind_state as state

    definition = state.GradientNodeDefinition()
    definition.op_type, definition.domain = "Identity", ""
    definition.inputs, definition.outputs = ["GO(0)"], ["GI(0)"]
    definition.attributes = []
    state.register_gradient_definition("::Round", [definition])

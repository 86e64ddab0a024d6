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
from gpusq_compiler.train.gradients import quirks
from gpusq_compiler.train.gradients.masks import mask_gradients
from gpusq_compiler.train.gradients.reach import has_body
from gpusq_compiler.train.kernels import fakequant
from gpusq_compiler.train.kernels.forms import with_kernels
from gpusq_compiler.train.kernels.ordering import in_order
from gpusq_compiler.train.protograph import ProtoGraph, opset_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    import numpy.typing as npt

    from gpusq_compiler.train.kernels.fakequant import Fake

GRADIENT = "_grad"
"""Ends the name of a parameter's gradient."""
UNREGISTERED = re.compile(r"builder has not been registered: (\w+) for node (\S*)")
NO_KERNEL = re.compile(
    r"implementation for (\w+)Grad\(\d+\) node with name '([^']*?)(?:_Grad/|')"
)
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


def gradient_graph(
    model: onnx.ModelProto,
    parameters: Collection[str],
    loss: str,
    *,
    masks: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    kernels: bool = True,
) -> bytes:
    """The model extended by its backward pass, with one more output ``<parameter>_grad`` each.

    Args:
        model: Parameters are inputs; ``loss`` is a scalar output. It is adapted in place.
        parameters: Float inputs to differentiate for; each must reach the loss.
        loss: Name of the scalar.
        masks: By parameter: its gradient is 0 where False.
        kernels: Whether it is written as `kernels` has it, for sessions on the CPU.

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
    hidden: Mapping[str, onnx.NodeProto] = {}
    fakes: Mapping[str, Fake] = {}
    fails: tuple[type[Exception], ...] = (*flavour.refusals(), IndexError)
    try:
        optimized = state.get_optimized_model(model.SerializeToString(), names, options)
        if any(map(has_body, model.graph.node)):
            optimized, hidden = quirks.without_bodies(optimized, names)
        if kernels:
            optimized, fakes = fakequant.collapsed(optimized)
        builder = state.GradientGraphBuilder(optimized, {loss}, names, loss, options)
        builder.build()
        gradient = quirks.with_bodies(bytes(builder.get_model()), hidden)
    except fails as error:
        raise explained(error, hidden) from error
    return _finished(onnx.load_from_string(gradient), fakes, masks or {}, kernels=kernels)


def _finished(
    model: onnx.ModelProto,
    fakes: Mapping[str, Fake],
    masks: Mapping[str, npt.NDArray[np.bool_]],
    *,
    kernels: bool,
) -> bytes:
    """With masks, and in the order and the nodes in which it runs."""
    left = dict(masks)
    if kernels:
        for name in with_kernels(model, fakes, masks):
            del left[name]
    mask_gradients(ProtoGraph(model.graph, opset_of(model)), left)
    if kernels:
        in_order(model.graph, last=GRADIENT)
    return bytes(model.SerializeToString())


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


def explained(
    error: Exception, hidden: Mapping[str, onnx.NodeProto] | None = None
) -> TrainingError:
    """The runtime's complaint about a gradient graph as an error that names the operator.

    Args:
        error: The complaint.
        hidden: Nodes for which others stood in, by the others' names.
    """
    text = " ".join(str(error).split())
    for pattern in (UNREGISTERED, NO_KERNEL):
        if found := pattern.search(text):
            node = (hidden or {}).get(found.group(2))
            return MissingGradient(
                *(found.groups() if node is None else (node.op_type, node.name))
            )
    if found := UNSUPPORTED.search(text):
        return MissingGradient(found.group(1))
    told = re.split(r"\) const |FAIL : |Error: ", text)[-1]
    return TrainingError(
        f"the gradient graph cannot be built: {told[-200:]}",
        remedy="Exclude the layers concerned from training",
    )


DERIVATIVES: Mapping[str, str] = {
    "Acos": "s = Sin y; n = Neg s; dx = Div dy n",
    "Acosh": "s = Sinh y; dx = Div dy s",
    "Asin": "c = Cos y; dx = Div dy c",
    "Asinh": "c = Cosh y; dx = Div dy c",
    "Atan": "c = Cos y; q = Mul c c; dx = Mul dy q",
    "Atanh": "c = Cosh y; q = Mul c c; dx = Mul dy q",
    "Cosh": "s = Sinh x; dx = Mul dy s",
    "Mod": "dx = Identity dy",
    "Round": "dx = Identity dy",
    "Sinh": "c = Cosh x; dx = Mul dy c",
    "Softplus": "s = Sigmoid x; dx = Mul dy s",
    "Tan": "c = Cos x; q = Mul c c; dx = Div dy q",
}
"""Gradients that the builder lacks, of ``y = operator(x)``; Round passes straight through."""
TENSORS = {"x": "I(0)", "y": "O(0)", "dy": "GO(0)", "dx": "GI(0)"}


@functools.cache
def _teach() -> None:
    """Tell the builder, once per process, the gradients that it lacks."""
    from onnxruntime.capi import _pybind_state as state

    for op_type, steps in DERIVATIVES.items():
        definitions = []
        for step in steps.split("; "):
            output, _, operator, *inputs = step.split()
            definition = state.GradientNodeDefinition()
            definition.op_type, definition.domain = operator, ""
            definition.inputs = [TENSORS.get(name, name) for name in inputs]
            definition.outputs = [TENSORS.get(output, output)]
            definition.attributes = []
            definitions.append(definition)
        state.register_gradient_definition(f"::{op_type}", definitions)

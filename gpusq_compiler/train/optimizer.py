r"""AdamW with its schedule as one ONNX graph over all parameters.

The moments are kept as plain decaying sums, M = b1 M + g and V = b2 V + g^2, and what is
usually multiplied into each of them goes into two scalars per step:

    p' = p (1 - r d) - r c1/c2 * M / (sqrt(V) + eps/c2)
    c1 = (1 - b1) / (1 - b1^t),   c2 = sqrt((1 - b2) / (1 - b2^t)),   t = step + 1

with rate r and decay d: exactly AdamW (Loshchilov and Hutter, 2019) in two passes fewer.
An average of the values, if wanted, starts at their start and forgets it by and by:

    a' = a + (1 - d) (p' - a),   d = min(decay, (1 + step) / (10 + step))

A value of 0 whose gradient is 0 at every step stays 0: so pruned weights do, see `masks`.
Every output reads its own old value only at the same element, so the runtime may write it in
place of the input.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from gpusq_compiler.train.protograph import ProtoGraph
from gpusq_compiler.train.schedule import BETAS, STEP, Scalars

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.train.schedule import Schedule

OPSET = 17
FLOOR = 0.01
"""A relative parameter keeps at least this part of its starting magnitude."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """How one tensor is updated.

    Attributes:
        value: Where it starts.
        start: First step at which it moves.
    """

    value: Array
    learning_rate: float
    weight_decay: float = 0.0
    relative: bool = False
    start: int = 0


def names(index: int) -> tuple[str, str, str, str]:
    """Inputs of parameter ``index``: value, gradient, first and second moment.

    The outputs are called the same with ``.new`` appended; the gradient has none.
    """
    return f"value.{index}", f"gradient.{index}", f"first.{index}", f"second.{index}"


def average_name(index: int) -> str:
    """Input of the average of parameter ``index``; its output has ``.new`` appended too."""
    return f"average.{index}"


def optimizer_graph(
    parameters: Sequence[Parameter],
    schedule: Schedule,
    *,
    clip_norm: float | None = None,
    averaging: float | None = None,
) -> onnx.ModelProto:
    """One update of all parameters, from ``step`` (int64, from 0) and `names`.

    Args:
        parameters: In the order of their numbers.
        schedule: Of the learning rate.
        clip_norm: Bound of the gradients' common norm; None does not clip.
        averaging: Decay of the average of the values; None keeps none.
    """
    model = helper.make_model(
        helper.make_graph([], "adamw", [], []),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    graph = ProtoGraph(model.graph, OPSET)
    model.graph.input.append(helper.make_tensor_value_info(STEP, TensorProto.INT64, []))
    for index, parameter in enumerate(parameters):
        value, gradient, first, second = names(index)
        _declare(
            model.graph, parameter, (value, gradient, first, second), (value, first, second)
        )
    scalars = Scalars(graph, schedule)
    gradients = _gradients(graph, len(parameters), clip_norm)
    for index, parameter in enumerate(parameters):
        _update(graph, scalars, index, parameter, gradients[index])
    if averaging is not None:
        newness = scalars.newness(averaging)
        for index, parameter in enumerate(parameters):
            _average(graph, newness, index, parameter)
    return model


def _declare(
    graph: onnx.GraphProto, parameter: Parameter, inputs: Iterable[str], outputs: Iterable[str]
) -> None:
    """Add inputs, and outputs called the same with ``.new`` appended, of its shape."""
    shape, kind = list(parameter.value.shape), TensorProto.FLOAT
    graph.input.extend(helper.make_tensor_value_info(name, kind, shape) for name in inputs)
    graph.output.extend(
        helper.make_tensor_value_info(f"{name}.new", kind, shape) for name in outputs
    )


def _gradients(graph: ProtoGraph, count: int, clip_norm: float | None) -> list[str]:
    """The gradients' names, scaled so that their common norm is at most ``clip_norm``."""
    gradients = [names(index)[1] for index in range(count)]
    if clip_norm is None:
        return gradients
    squares = [graph.node("ReduceSumSquare", g, keepdims=0) for g in gradients]
    norm = graph.node("Sqrt", graph.node("Sum", *squares))
    bound = graph.constant(float(clip_norm))
    factor = graph.node("Div", bound, graph.node("Max", norm, bound))
    return [graph.node("Mul", gradient, factor) for gradient in gradients]


def _update(
    graph: ProtoGraph, scalars: Scalars, index: int, parameter: Parameter, gradient: str
) -> None:
    value, _, first, second = names(index)
    b1, b2 = (graph.constant(beta) for beta in BETAS)
    mean = graph.node("Add", graph.node("Mul", first, b1), gradient)
    square = graph.node("Mul", gradient, gradient)
    spread = graph.node("Add", graph.node("Mul", second, b2), square)
    denominator = graph.node("Add", graph.node("Sqrt", spread), scalars.epsilon)
    move, remaining = scalars.group(parameter)
    change = graph.node("Mul", graph.node("Div", mean, denominator), move)
    if parameter.relative:
        magnitude = np.abs(parameter.value).astype(np.float32)
        change = graph.node("Mul", change, graph.constant(magnitude))
    kept = value if remaining is None else graph.node("Mul", value, remaining)
    moved = graph.node("Sub", kept, change)
    if parameter.relative:
        floor = np.float32(FLOOR) * magnitude
        moved = graph.node("Max", moved, graph.constant(floor))
    for result, name in ((moved, value), (mean, first), (spread, second)):
        _rename_output(graph.graph, result, f"{name}.new")


def _average(graph: ProtoGraph, newness: str, index: int, parameter: Parameter) -> None:
    value, old = names(index)[0], average_name(index)
    gap = graph.node("Sub", f"{value}.new", old)
    new = graph.node("Add", old, graph.node("Mul", gap, newness))
    _rename_output(graph.graph, new, f"{old}.new")
    _declare(graph.graph, parameter, [old], [old])


def _rename_output(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor of the last update: an Identity would cost a copy per step."""
    for node in reversed(graph.node):
        node.input[:] = [new if name == old else name for name in node.input]
        if node.output[0] == old:
            node.output[0] = new
            return

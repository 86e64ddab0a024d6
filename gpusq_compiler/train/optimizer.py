r"""AdamW with its schedule as one ONNX graph over all parameters.

The moments are kept as plain decaying sums, M = b1 M + g and V = b2 V + g^2, and what is
usually multiplied into each of them goes into two scalars per step:

    p' = p (1 - r d) - r c1/c2 * M / (sqrt(V) + eps/c2)
    c1 = (1 - b1) / (1 - b1^t),   c2 = sqrt((1 - b2) / (1 - b2^t)),   t = step + 1

with rate r and decay d: exactly AdamW (Loshchilov and Hutter, 2019) in two passes fewer.
Every output reads its own old value only at the same element, so the runtime may write it in
place of the input.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from gpusq_compiler.train.protograph import ProtoGraph

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from gpusq_compiler.runtime.samples import Array

OPSET = 17
BETAS = (0.9, 0.999)
EPSILON = 1e-8
FLOOR = 0.01
"""A relative parameter keeps at least this part of its starting magnitude."""
FEWEST_WARM = 10
"""Steps of a warm-up at least, even where training ends before it does."""
STEP = "step"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """How one tensor is updated.

    Attributes:
        value: Where it starts.
        mask: True where it may be non-zero; None leaves it dense.
        start: First step at which it moves.
    """

    value: Array
    learning_rate: float
    weight_decay: float = 0.0
    relative: bool = False
    start: int = 0
    mask: npt.NDArray[np.bool_] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up over a fraction of the steps, then half a cosine down to zero."""

    steps: int
    warmup: float = 0.05

    @property
    def warm(self) -> int:
        """Steps of the warm-up; AdamW's first steps are all as long as the rate."""
        return max(round(self.warmup * self.steps), FEWEST_WARM) if self.warmup > 0 else 0


def names(index: int) -> tuple[str, str, str, str]:
    """Inputs of parameter ``index``: value, gradient, first and second moment.

    The outputs are called the same with ``.new`` appended; the gradient has none.
    """
    return f"value.{index}", f"gradient.{index}", f"first.{index}", f"second.{index}"


def optimizer_graph(
    parameters: Sequence[Parameter], schedule: Schedule, *, clip_norm: float | None = None
) -> onnx.ModelProto:
    """One update of all parameters, from ``step`` (int64, from 0) and `names`."""
    model = helper.make_model(
        helper.make_graph([], "adamw", [], []),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    graph = ProtoGraph(model.graph, OPSET)
    model.graph.input.append(helper.make_tensor_value_info(STEP, TensorProto.INT64, []))
    for index, parameter in enumerate(parameters):
        _declare(model.graph, index, parameter)
    scalars = _Scalars(graph, schedule)
    gradients = _gradients(graph, parameters, clip_norm)
    for index, parameter in enumerate(parameters):
        _update(graph, scalars, index, parameter, gradients[index])
    return model


class _Scalars:
    """Rates and corrections of the current step, computed once per distinct group."""

    def __init__(self, graph: ProtoGraph, schedule: Schedule) -> None:
        self._graph = graph
        self._step = graph.node("Cast", STEP, to=TensorProto.DOUBLE)
        self._done = graph.node("Add", self._step, self._double(1.0))
        self._factor = self._schedule(schedule)
        c1 = self._correction(BETAS[0])
        c2 = graph.node("Sqrt", self._correction(BETAS[1]))
        self._scale = graph.node("Div", c1, c2)
        self.epsilon = self._float(graph.node("Div", self._double(EPSILON), c2))
        self._groups: dict[tuple[float, float, int], tuple[str, str | None]] = {}

    def group(self, parameter: Parameter) -> tuple[str, str | None]:
        """(rate times correction, remaining fraction after decay or None)."""
        key = (parameter.learning_rate, parameter.weight_decay, parameter.start)
        if key not in self._groups:
            self._groups[key] = self._rates(*key)
        return self._groups[key]

    def _rates(self, peak: float, decay: float, start: int) -> tuple[str, str | None]:
        rate = self._graph.node("Mul", self._factor, self._double(peak))
        if start > 0:
            waiting = self._graph.node("Less", self._step, self._double(float(start)))
            rate = self._graph.node("Where", waiting, self._double(0.0), rate)
        move = self._float(self._graph.node("Mul", rate, self._scale))
        if decay == 0:
            return move, None
        lost = self._graph.node("Mul", rate, self._double(decay))
        return move, self._float(self._graph.node("Sub", self._double(1.0), lost))

    def _schedule(self, schedule: Schedule) -> str:
        """``min(1, t / warm) * (1 + cos(pi * progress)) / 2``."""
        graph, warm = self._graph, schedule.warm
        past = graph.node("Sub", self._step, self._double(float(warm)))
        past = graph.node("Max", past, self._double(0.0))
        span = max(1, schedule.steps - warm)
        angle = self._float(graph.node("Mul", past, self._double(math.pi / span)))
        wave = graph.node("Add", graph.node("Cos", angle), graph.constant(1.0))
        half = graph.node("Mul", wave, graph.constant(0.5))
        factor = graph.node("Cast", half, to=TensorProto.DOUBLE)
        if warm == 0:
            return factor
        ramp = graph.node("Div", self._done, self._double(float(warm)))
        return graph.node("Mul", factor, graph.node("Min", ramp, self._double(1.0)))

    def _correction(self, beta: float) -> str:
        """``(1 - beta) / (1 - beta^t)``."""
        power = self._graph.node("Pow", self._double(beta), self._done)
        missing = self._graph.node("Sub", self._double(1.0), power)
        return self._graph.node("Div", self._double(1.0 - beta), missing)

    def _double(self, value: float) -> str:
        return self._graph.constant(np.array(value, dtype=np.float64))

    def _float(self, scalar: str) -> str:
        return self._graph.node("Cast", scalar, to=TensorProto.FLOAT)


def _declare(graph: onnx.GraphProto, index: int, parameter: Parameter) -> None:
    value, gradient, first, second = names(index)
    shape = list(parameter.value.shape)
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in (value, gradient, first, second)
    )
    graph.output.extend(
        helper.make_tensor_value_info(f"{name}.new", TensorProto.FLOAT, shape)
        for name in (value, first, second)
    )


def _gradients(
    graph: ProtoGraph, parameters: Sequence[Parameter], clip_norm: float | None
) -> list[str]:
    """The gradients' names, scaled so that their common norm is at most ``clip_norm``."""
    gradients = [names(index)[1] for index in range(len(parameters))]
    if clip_norm is None:
        return gradients
    gradients = [
        gradient if p.mask is None else _masked(graph, gradient, p.mask)
        for gradient, p in zip(gradients, parameters, strict=True)
    ]
    squares = [graph.node("ReduceSumSquare", g, keepdims=0) for g in gradients]
    norm = graph.node("Sqrt", graph.node("Sum", *squares))
    bound = graph.constant(float(clip_norm))
    factor = graph.node("Div", bound, graph.node("Max", norm, bound))
    return [graph.node("Mul", gradient, factor) for gradient in gradients]


def _update(
    graph: ProtoGraph, scalars: _Scalars, index: int, parameter: Parameter, gradient: str
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
    if parameter.mask is not None:
        moved = _masked(graph, moved, parameter.mask)
    for result, name in ((moved, value), (mean, first), (spread, second)):
        _rename_output(graph.graph, result, f"{name}.new")


def _rename_output(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor of the last update: an Identity would cost a copy per step."""
    for node in reversed(graph.node):
        node.input[:] = [new if name == old else name for name in node.input]
        if node.output[0] == old:
            node.output[0] = new
            return


def _masked(graph: ProtoGraph, x: str, mask: npt.NDArray[np.bool_]) -> str:
    return graph.node("Mul", x, graph.constant(mask.astype(np.float32)))

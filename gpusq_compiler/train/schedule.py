"""What AdamW multiplies with at each step: the learning rate's schedule and corrections."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from gpusq_compiler.train.optimizer import Parameter
    from gpusq_compiler.train.protograph import ProtoGraph

BETAS = (0.9, 0.999)
EPSILON = 1e-8
FEWEST_WARM = 10
"""Steps of a warm-up at least, even where training ends before it does."""
STEP = "step"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up over a fraction of the steps, then half a cosine down to zero."""

    steps: int
    warmup: float = 0.05

    @property
    def warm(self) -> int:
        """Steps of the warm-up; AdamW's first steps are all as long as the rate."""
        return max(round(self.warmup * self.steps), FEWEST_WARM) if self.warmup > 0 else 0


class Scalars:
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

    def newness(self, decay: float) -> str:
        """What the newest value counts in the average, ``1 - d``."""
        later = self._graph.node("Add", self._done, self._double(9.0))
        kept = self._graph.node("Div", self._done, later)
        kept = self._graph.node("Min", kept, self._double(decay))
        return self._float(self._graph.node("Sub", self._double(1.0), kept))

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

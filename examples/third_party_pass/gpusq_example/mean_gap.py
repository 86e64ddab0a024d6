"""mean-gap: the student's mean output should be the teacher's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from gpusq_compiler.train.job import Loss

if TYPE_CHECKING:
    from gpusq_compiler.train.job import LossGraph


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanGap(Loss):
    """``((mean(s) - mean(t)) / spread) ** 2`` of the first output."""

    name: ClassVar[str] = "mean-gap"
    spread: float = 1.0

    def build(self, graph: LossGraph) -> str | None:
        """Compare the two means."""
        if not graph.outputs:
            return None
        student, teacher = (
            graph.node("ReduceMean", tensor, keepdims=0)
            for tensor in (graph.student(graph.outputs[0]), graph.teacher(graph.outputs[0]))
        )
        gap = graph.node("Sub", student, teacher)
        scaled = graph.node("Div", gap, graph.constant(self.spread))
        return graph.node("Mul", scaled, scaled)

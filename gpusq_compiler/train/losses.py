"""The terms of the training loss, as ONNX nodes.

A term returns None where it does not apply (no labels, no teacher, no output of its kind), so
one list of terms serves every model. Formulas: GPUSQ-ViT, CVPR 2023, arXiv 2305.10727.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from gpusq_compiler.errors import OptionError
from gpusq_compiler.train.job import Loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.train.job import LossGraph

TINY = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardLabel(Loss):
    r"""Cross-entropy with the labels (its existence and weight: the paper).

    ``-(1/B) sum_b log softmax(s_b)[y_b]`` on the first output, if that has rank 2.
    """

    name: ClassVar[str] = "hard-label"
    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    def build(self, graph: LossGraph) -> str | None:
        """Pick each row's log-probability at its label."""
        if graph.labels is None or not graph.outputs or graph.rank(graph.outputs[0]) != 2:
            return None
        logs = graph.node("LogSoftmax", graph.student(graph.outputs[0]), axis=-1)
        column = graph.node("Unsqueeze", graph.labels, axes_of(graph, 1))
        picked = graph.node("GatherElements", logs, column, axis=1)
        return graph.node("Neg", mean(graph, picked))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftLogits(Loss):
    r"""Distillation of logits (existence and weight: the paper; T and T^2: our choice).

    ``(T^2/B) sum_b KL(softmax(t_b/T) || softmax(s_b/T))``, summed over outputs of rank 2.
    """

    name: ClassVar[str] = "soft-logits"
    weight: float = 10.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Refuse a temperature that is not positive."""
        if self.temperature <= 0:
            raise OptionError("must be positive", where="soft-logits.temperature")

    def build(self, graph: LossGraph) -> str | None:
        """Sum the divergence of each output of rank 2."""
        names = [name for name in graph.outputs if graph.rank(name) == 2]
        return total(graph, [self._divergence(graph, name) for name in names])

    def _divergence(self, graph: LossGraph, name: str) -> str:
        temperature = graph.constant(float(self.temperature))
        student, teacher = (
            graph.node("LogSoftmax", graph.node("Div", logits, temperature), axis=-1)
            for logits in (graph.student(name), graph.teacher(name))
        )
        gap = graph.node("Sub", teacher, student)
        weighted = graph.node("Mul", graph.node("Exp", teacher), gap)
        rows = graph.node("ReduceSum", weighted, axes_of(graph, -1), keepdims=0)
        return graph.node("Mul", mean(graph, rows), graph.constant(self.temperature**2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputError(Loss):
    r"""Relative squared error of outputs that are not logits (our choice).

    ``mean((t - s)^2) / mean(t^2)``, summed over outputs.

    Attributes:
        logits: Whether outputs of rank 2, which ``soft-logits`` covers, count too.
    """

    name: ClassVar[str] = "output-error"
    logits: bool = False

    def build(self, graph: LossGraph) -> str | None:
        """Sum the relative error of each output that is left."""
        names = [name for name in graph.outputs if self.logits or graph.rank(name) != 2]
        return total(graph, [relative_error(graph, name) for name in names])


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureError(Loss):
    r"""Distillation of the critical layers' features (existence and weight: the paper).

    ``(1/L) sum_i w_i l_i`` with ``l_i = mean((t_i - s_i)^2) / mean(t_i^2)``. Dividing by the
    teacher's mean square and by L are our choices: layers of any size and number weigh alike.
    Each unweighted ``l_i`` is recorded as ``feature/<tensor>``.

    Attributes:
        factors: The w_i in the order of the critical layers; none means 1 each.
    """

    name: ClassVar[str] = "feature-error"
    weight: float = 5.0
    factors: tuple[float, ...] = ()

    def build(self, graph: LossGraph) -> str | None:
        """Record and average the relative error of each critical layer."""
        if not graph.features:
            return None
        factors = self.factors or (1.0,) * len(graph.features)
        if len(factors) != len(graph.features):
            raise OptionError(
                f"{len(factors)} factors for {len(graph.features)} critical layers",
                where="feature-error.factors",
            )
        terms = []
        for name, factor in zip(graph.features, factors, strict=True):
            error = relative_error(graph, name)
            graph.record(f"feature/{name}", error)
            share = graph.constant(factor / len(factors))
            terms.append(graph.node("Mul", error, share))
        return total(graph, terms)


def relative_error(graph: LossGraph, name: str) -> str:
    """Mean squared error over the teacher's mean square."""
    teacher = graph.teacher(name)
    error = mean(graph, _square(graph, graph.node("Sub", teacher, graph.student(name))))
    power = graph.node("Add", mean(graph, _square(graph, teacher)), graph.constant(TINY))
    return graph.node("Div", error, power)


def mean(graph: LossGraph, x: str) -> str:
    """The scalar mean of all elements."""
    return graph.node("ReduceMean", x, keepdims=0)


def total(graph: LossGraph, scalars: Sequence[str]) -> str | None:
    """The sum of scalars, None without any."""
    if not scalars:
        return None
    result = scalars[0]
    for scalar in scalars[1:]:
        result = graph.node("Add", result, scalar)
    return result


def axes_of(graph: LossGraph, axis: int) -> str:
    """One axis as the operators of opset 13 and later want it."""
    import numpy as np

    return graph.constant(np.array([axis], dtype=np.int64))


def _square(graph: LossGraph, x: str) -> str:
    return graph.node("Mul", x, x)

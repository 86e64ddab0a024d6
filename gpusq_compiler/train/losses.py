"""The terms of the training loss, as ONNX nodes.

A term returns None where it does not apply (no labels, no teacher, no output of its kind), so
one list of terms serves every model. Formulas: GPUSQ-ViT, CVPR 2023, arXiv 2305.10727.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar

from gpusq_compiler.errors import OptionError
from gpusq_compiler.train.job import WEIGHT, Loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.train.job import LossGraph

TINY = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardLabel(Loss):
    r"""Cross-entropy with the labels, a term of GPUSQ-ViT.

    ``-(1/B) sum_b log softmax(s_b)[y_b]`` on the first output, if that is class scores.
    """

    name: ClassVar[str] = "hard-label"
    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    def build(self, graph: LossGraph) -> str | None:
        """Pick each row's log-probability at its label."""
        if not graph.logits or graph.logits[0] != graph.outputs[0] or graph.labels is None:
            return None
        logs = graph.node("LogSoftmax", graph.student(graph.outputs[0]), axis=-1)
        column = graph.node("Unsqueeze", graph.labels, axes_of(graph, 1))
        picked = graph.node("GatherElements", logs, column, axis=1)
        return graph.node("Neg", mean(graph, picked))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftLogits(Loss):
    r"""Distillation of class scores, a term of GPUSQ-ViT; T and T^2 are our choice.

    ``(T^2/B) sum_b KL(softmax(t_b/T) || softmax(s_b/T))``, summed over class scores.
    """

    name: ClassVar[str] = "soft-logits"
    weight: Annotated[float, WEIGHT] = 10.0
    temperature: Annotated[float, "what both logits are divided by"] = 2.0

    def __post_init__(self) -> None:
        """Refuse a temperature that is not positive."""
        if self.temperature <= 0:
            raise OptionError("must be positive", where="soft-logits.temperature")

    def build(self, graph: LossGraph) -> str | None:
        """Sum the divergence of each output that is class scores."""
        return total(graph, [self._divergence(graph, name) for name in graph.logits])

    def _divergence(self, graph: LossGraph, name: str) -> str:
        temperature = graph.constant(float(self.temperature))
        student, teacher = (
            graph.node("LogSoftmax", graph.node("Div", logits, temperature), axis=-1)
            for logits in (graph.student(name), graph.teacher(name))
        )
        gap = graph.node("Sub", teacher, student)
        weighted = graph.node("Mul", graph.node("Exp", teacher), gap)
        rows = _sum(graph, weighted, -1)
        return graph.node("Mul", mean(graph, rows), graph.constant(self.temperature**2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputError(Loss):
    r"""Relative squared error of outputs that are no class scores (our choice).

    ``mean((t - s)^2) / mean(t^2)``, summed over outputs. An output that joins tensors, as
    detectors join boxes and scores, is the mean over these: each counts by its own size.

    Attributes:
        logits: Whether class scores, which ``soft-logits`` covers, count too.
    """

    name: ClassVar[str] = "output-error"
    logits: Annotated[bool, "whether class scores count, too"] = False

    def build(self, graph: LossGraph) -> str | None:
        """Sum the relative error of each output that is left."""
        names = [name for name in graph.outputs if self.logits or name not in graph.logits]
        errors = [_mean_of_parts(graph, graph.parts(name)) for name in names]
        return total(graph, [error for error in errors if error is not None])


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureLoss(Loss):
    r"""A distance between the critical layers' features and the teacher's.

    ``(1/L) sum_i w_i l_i`` over the L layers that the distance fits. Dividing by L is our
    choice: any number of layers weighs alike. Each unweighted ``l_i`` is recorded.
    """

    series: ClassVar[str]
    fewest_dimensions: ClassVar[int] = 0
    weight: Annotated[float, WEIGHT] = 5.0

    def build(self, graph: LossGraph) -> str | None:
        """Record and average the distance of each critical layer."""
        fitting = [
            name
            for name in graph.features
            if (graph.rank(name) or 0) >= self.fewest_dimensions
        ]
        terms = []
        for name in fitting:
            distance = self.distance(graph, name)
            graph.record(f"{self.series}/{name}", distance)
            share = graph.constant(graph.factor(name) / len(fitting))
            terms.append(graph.node("Mul", distance, share))
        return total(graph, terms)

    @abc.abstractmethod
    def distance(self, graph: LossGraph, name: str) -> str:
        """The scalar ``l_i`` of one tensor."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureError(FeatureLoss):
    r"""Distillation of the critical layers' features, a term of GPUSQ-ViT.

    ``l_i = mean((t_i - s_i)^2) / mean(t_i^2)``. Dividing by the teacher's mean square is our
    choice: layers of any size weigh alike.
    """

    name: ClassVar[str] = "feature-error"
    series: ClassVar[str] = "feature"

    def distance(self, graph: LossGraph, name: str) -> str:
        """Mean squared error over the teacher's mean square."""
        return relative_error(graph, name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCosine(FeatureLoss):
    r"""Direction of the features' channel vectors, whatever their length (our choice).

    ``l_i = mean(1 - <s, t> / (|s| |t|))`` over samples and positions. The channels are the
    last axis, or axis 1 of maps ``[batch, channels, height, width]``. Two zeros agree.
    """

    name: ClassVar[str] = "feature-cosine"
    series: ClassVar[str] = "feature-cosine"

    def distance(self, graph: LossGraph, name: str) -> str:
        """One minus the mean cosine along the channels."""
        axis = _channels(graph, name)
        s, t = graph.student(name), graph.teacher(name)
        dot, ss, tt = (
            graph.node("Add", _sum(graph, graph.node("Mul", a, b), axis), graph.constant(TINY))
            for a, b in ((s, t), (s, s), (t, t))
        )
        lengths = graph.node("Mul", graph.node("Sqrt", ss), graph.node("Sqrt", tt))
        cosine = mean(graph, graph.node("Div", dot, lengths))
        return graph.node("Sub", graph.constant(1.0), cosine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionTransfer(FeatureLoss):
    r"""Where the features are large (Zagoruyko and Komodakis 2017, arXiv 1612.03928).

    ``l_i = mean_b |q_s/|q_s| - q_t/|q_t||^2`` with one map per sample ``q = sum_c a_c^2`` over
    the channels, as in `FeatureCosine`. To square the norm is our choice; so is the weight.
    Layers without positions, ``[batch, width]``, are left out.
    """

    name: ClassVar[str] = "attention-transfer"
    series: ClassVar[str] = "attention-transfer"
    fewest_dimensions: ClassVar[int] = 3

    def distance(self, graph: LossGraph, name: str) -> str:
        """Squared distance of the two normalised maps."""
        axis = _channels(graph, name)
        maps = [_map(graph, x, axis) for x in (graph.student(name), graph.teacher(name))]
        gap = _square(graph, graph.node("Sub", *maps))
        return mean(graph, _sum(graph, gap, 1))


def relative_error(graph: LossGraph, name: str) -> str:
    """Mean squared error over the teacher's mean square, where positions hold something."""
    teacher = graph.teacher(name)
    error = _square(graph, graph.node("Sub", graph.student(name), teacher))
    power = _square(graph, teacher)
    weights = graph.positions(name)
    if weights is not None:
        error, power = (graph.node("Mul", x, weights) for x in (error, power))
    known = graph.node("Add", mean(graph, power), graph.constant(TINY))
    return graph.node("Div", mean(graph, error), known)


def _mean_of_parts(graph: LossGraph, names: Sequence[str]) -> str | None:
    errors = total(graph, [relative_error(graph, name) for name in names])
    if errors is None or len(names) == 1:
        return errors
    return graph.node("Div", errors, graph.constant(float(len(names))))


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


def _channels(graph: LossGraph, name: str) -> int:
    """The axis of the channels; four dimensions and more are taken for maps."""
    return 1 if (graph.rank(name) or 0) >= 4 else -1


def _map(graph: LossGraph, x: str, channels: int) -> str:
    """Squared channels added up: per sample a vector of length 1 over the positions."""
    spatial = graph.node("Flatten", _sum(graph, _square(graph, x), channels), axis=1)
    power = _sum(graph, _square(graph, spatial), 1, keepdims=1)
    norm = graph.node("Sqrt", graph.node("Add", power, graph.constant(TINY)))
    return graph.node("Div", spatial, norm)


def _sum(graph: LossGraph, x: str, axis: int, keepdims: int = 0) -> str:
    return graph.node("ReduceSum", x, axes_of(graph, axis), keepdims=keepdims)


def _square(graph: LossGraph, x: str) -> str:
    return graph.node("Mul", x, x)

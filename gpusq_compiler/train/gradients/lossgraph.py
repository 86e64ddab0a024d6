"""The student's training copy with the loss on top, its parameters moved to inputs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.runtime.samples import LABELS, is_mask
from gpusq_compiler.train.gradients.blocks import read_instead
from gpusq_compiler.train.gradients.quirks import drop_unused
from gpusq_compiler.train.protograph import ProtoGraph, opset_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.train.copy.trainable import TrainingCopy
    from gpusq_compiler.train.job import Loss

TEACHER = "teacher."
INTEGERS = (TensorProto.INT64, TensorProto.INT32)
NOT_FLOAT = "not imitated: it holds no floating-point numbers"
VOLATILE = "not imitated: its size follows from the values of a sample"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossModel:
    """What is differentiated, evaluated and fed.

    Attributes:
        model: Its outputs are the scalars of ``series``; parameters are still initializers.
        loss: Name of the scalar that is minimised.
        series: Other reported scalars: name of the series → tensor.
        targets: Teacher tensors to feed, by the student's name.
        terms: The terms that apply, in order.
        labels: Whether ``labels`` is fed.
        left_out: Outputs that cannot be compared with the teacher's, with the reason.
    """

    model: onnx.ModelProto
    loss: str
    series: Mapping[str, str]
    targets: tuple[str, ...]
    terms: tuple[Loss, ...]
    labels: bool
    left_out: Mapping[str, str]


class TrainingGraph(ProtoGraph):
    """Implements `LossGraph` on a training copy.

    Args:
        copy: Extended in place.
        features: Critical layers.
        factors: Their w_i, by name; 1 where there is none.
        embeddings: Outputs that are no class scores, whatever their shape.
        parts: The tensors that an output joins, by its name.
        with_teacher: Whether there is a teacher whose tensors can be fed.
        with_labels: Whether the samples have labels.
    """

    def __init__(
        self,
        copy: TrainingCopy,
        features: Sequence[str],
        *,
        factors: Mapping[str, float] | None = None,
        embeddings: Collection[str] = (),
        parts: Mapping[str, tuple[str, ...]] | None = None,
        with_teacher: bool,
        with_labels: bool,
    ) -> None:
        super().__init__(copy.model.graph, opset_of(copy.model))
        floats = {TensorProto.FLOAT, TensorProto.DOUBLE}
        self._copy = copy
        declared = {v.name: v.type.tensor_type.elem_type for v in copy.model.graph.output}
        self.left_out = {
            f"output '{name}'": NOT_FLOAT if kind not in floats else VOLATILE
            for name, kind in declared.items()
            if kind not in floats or name in copy.volatile
        }
        self._outputs = tuple(n for n in declared if f"output '{n}'" not in self.left_out)
        self._features = tuple(name for name in features if name not in copy.volatile)
        self._factors = factors or {}
        self._embeddings = frozenset(embeddings)
        self._parts = {
            output: tensors
            for output, tensors in (parts or {}).items()
            if not copy.volatile.intersection(tensors)
        }
        self._masks: dict[str, str] = {}
        self._with_teacher = with_teacher
        self._with_labels = with_labels
        self.series: dict[str, str] = {}
        self.fed: dict[str, str] = {}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's floating-point outputs."""
        return self._outputs

    @property
    def logits(self) -> tuple[str, ...]:
        """Names of the outputs that are class scores."""
        flat = (name for name in self._outputs if self.rank(name) == 2)
        return tuple(name for name in flat if name not in self._embeddings)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the critical layers' tensors."""
        return self._features

    def parts(self, output: str) -> tuple[str, ...]:
        """The tensors that an output joins, otherwise the output itself."""
        return self._parts.get(output, (output,))

    def factor(self, name: str) -> float:
        """The weight w_i of a critical layer among all."""
        return self._factors.get(name, 1.0)

    @property
    def labels(self) -> str | None:
        """Name of the labels' input, None when there are none."""
        if not self._with_labels:
            return None
        self._feed(LABELS, TensorProto.INT64, 1)
        return LABELS

    def student(self, name: str) -> str:
        """The student's tensor of this name.

        Raises:
            TrainingError: There is none.
        """
        if name not in self._taken:
            raise TrainingError("the student has no such tensor", where=f"tensor '{name}'")
        return name

    def teacher(self, name: str) -> str:
        """The input through which the teacher's tensor of this name is fed.

        Raises:
            TrainingError: There is no teacher.
        """
        if not self._with_teacher:
            raise TrainingError(
                "a loss asks for the teacher and there is none",
                where=f"tensor '{name}'",
                remedy="Give one with --teacher",
            )
        fed = TEACHER + name
        self._feed(fed, TensorProto.FLOAT, self.rank(name))
        self.fed[name] = fed
        return fed

    def rank(self, name: str) -> int | None:
        """Number of dimensions of a tensor of the student, where it is known."""
        shape = self._copy.shapes.get(name)
        return None if shape is None else len(shape)

    def positions(self, name: str) -> str | None:
        """The attention mask of a text model as weights of a tensor's positions."""
        shape = self._copy.shapes.get(name)
        if shape is None or len(shape) != 3:
            return None
        for value in self.graph.input:
            kind = value.type.tensor_type.elem_type
            fits = kind in INTEGERS and self._copy.shapes.get(value.name) == shape[:2]
            if fits and is_mask(value.name):
                return self._weights(value.name)
        return None

    def _weights(self, mask: str) -> str:
        if mask not in self._masks:
            last = self.constant(np.array([-1], dtype=np.int64))
            wide = self.node("Cast", mask, to=TensorProto.FLOAT)
            self._masks[mask] = self.node("Unsqueeze", wide, last)
        return self._masks[mask]

    def record(self, series: str, scalar: str) -> None:
        """Also report this scalar at every step."""
        self.series[series] = scalar

    def declare(self, name: str, array: Array) -> None:
        """Add an input that a loss feeds itself, like ``array``."""
        self._feed(name, int(helper.np_dtype_to_tensor_dtype(array.dtype)), array.ndim)

    def _feed(self, name: str, kind: int, rank: int | None) -> None:
        if any(value.name == name for value in self.graph.input):
            return
        shape = None if rank is None else [f"{name}.{axis}" for axis in range(rank)]
        self.graph.input.append(helper.make_tensor_value_info(name, kind, shape))


def loss_model(
    copy: TrainingCopy,
    terms: Sequence[Loss],
    features: Sequence[str],
    *,
    factors: Mapping[str, float] | None = None,
    embeddings: Collection[str] = (),
    parts: Mapping[str, tuple[str, ...]] | None = None,
    with_teacher: bool,
    with_labels: bool,
    blockwise: bool = False,
) -> LossModel:
    """Put the loss on a training copy, which is used up; for ``blockwise`` see `blocks`.

    Raises:
        TrainingError: No term applies.
    """
    graph = TrainingGraph(
        copy,
        features,
        factors=factors,
        embeddings=embeddings,
        parts=parts,
        with_teacher=with_teacher,
        with_labels=with_labels,
    )
    own = list(graph.graph.node)
    kept: list[Loss] = []
    weighted: list[str] = []
    for term in terms:
        scalar = _term(graph, term)
        if scalar is None:
            continue
        kept.append(term)
        graph.record(_free(graph.series, term.name), scalar)
        weighted.append(graph.node("Mul", scalar, graph.constant(float(term.weight))))
    if not weighted:
        raise TrainingError(
            f"none of the losses {', '.join(term.name for term in terms)} applies",
            where="losses",
            remedy="Give a teacher or labels, or choose losses that fit the outputs",
        )
    if blockwise:
        read_instead(own, {n: graph.fed[n] for n in graph.features if n in graph.fed})
    loss = _sum(graph, weighted)
    series = _distinct(graph)
    _only_outputs(copy.model, [loss, *series.values()])
    drop_unused(copy.model.graph)
    return LossModel(
        model=copy.model,
        loss=loss,
        series=series,
        targets=tuple(graph.fed),
        terms=tuple(kept),
        left_out=graph.left_out,
        labels=any(value.name == LABELS for value in copy.model.graph.input),
    )


def _term(graph: TrainingGraph, term: Loss) -> str | None:
    """The term's scalar, None where something that it needs is missing."""
    if term.weight == 0 or (term.needs_teacher and not graph._with_teacher):
        return None
    if term.needs_labels and not graph._with_labels:
        return None
    if term.host_inputs:
        arrays = term.feeds(0)
        for name in term.host_inputs:
            graph.declare(name, np.asarray(arrays[name]))
    return term.build(graph)


def _sum(graph: TrainingGraph, weighted: Sequence[str]) -> str:
    total = weighted[0]
    for scalar in weighted[1:]:
        total = graph.node("Add", total, scalar)
    return total


def _distinct(graph: TrainingGraph) -> dict[str, str]:
    """Give every series an output of its own, even where two share a tensor."""
    return {series: graph.node("Identity", scalar) for series, scalar in graph.series.items()}


def _only_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in names
    )


def _free(taken: Collection[str], wanted: str) -> str:
    number = 2
    name = wanted
    while name in taken:
        name, number = f"{wanted}#{number}", number + 1
    return name

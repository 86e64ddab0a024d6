"""What is fed at a step: the samples of the batch and what the teacher says about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.errors import DataError, TrainingError
from gpusq_compiler.runtime.samples import (
    LABELS,
    Array,
    Feeds,
    Samples,
    lengths_of,
    training_rows,
)
from gpusq_compiler.runtime.session import Session, fixed_batch, input_specs
from gpusq_compiler.train.gradients.lossgraph import TEACHER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from gpusq_compiler.train.gradients.lossgraph import LossModel
    from gpusq_compiler.train.job import TrainJob

CACHE_LIMIT = 256 << 20
"""Teacher tensors of a set of samples are kept when they need at most this many bytes."""


def dry_runs(job: TrainJob) -> list[Feeds]:
    """Small batches of the student's inputs, which differ in all sizes that are free."""
    fixed = fixed_batch(job.student)
    names = [spec.name for spec in input_specs(job.student)]
    runs: list[Feeds] = []
    sizes = (2, 3) if fixed is None else (fixed, fixed)
    for rows in _extremes(job.data, sizes):
        taken = job.data.take(rows)
        runs.append({name: np.ascontiguousarray(taken[name]) for name in names})
    return runs


class Batches:
    """Feeds of the loss graph, but for its parameters.

    Args:
        job: Gives samples and teacher.
        loss: Says what is fed.
    """

    def __init__(self, job: TrainJob, loss: LossModel) -> None:
        self._job = job
        self._terms, self._with_labels = loss.terms, loss.labels
        self._inputs = [spec.name for spec in input_specs(job.student)]
        self._wide = {
            value.name: np.dtype(np.float32)
            for value in loss.model.graph.input
            if value.type.tensor_type.elem_type == 1
        }
        self.size = fixed_batch(job.student) or job.batch_size
        self._teacher = _Teacher(job, loss.targets) if loss.targets else None
        self._lengths = lengths_of(job.data)
        epochs = job.steps * self.size / max(1, job.data.count)
        often = epochs > 1 and self._lengths is None
        self._known = self._remembered(job.data) if often else None
        self._held_out: list[tuple[Feeds, int]] | None = None

    def training(self, step: int) -> Feeds:
        """The feeds of one training step: a pure function of the job and the step."""
        job = self._job
        rows = training_rows(job.data.count, self.size, job.seed, step, self._lengths)
        known = {name: values[rows] for name, values in (self._known or {}).items()}
        return {**self._batch(job.data, rows, known), **self._hosted(step)}

    def sizes(self) -> dict[str, tuple[int | str, ...]]:
        """Shape of each feed; sizes in which batches differ are words, equal ones one word."""
        if self._lengths is None:
            return {name: array.shape for name, array in self.training(0).items()}
        ends = _extremes(self._job.data, (self.size, self.size))
        short, long = (self._batch(self._job.data, rows, {}) for rows in ends)
        hosted = {name: array.shape for name, array in self._hosted(0).items()}
        return {**{name: _sizes(short[name], long[name]) for name in short}, **hosted}

    def held_out(self, step: int) -> Iterator[tuple[Feeds, int]]:
        """The held-out samples in batches, each with its number of samples.

        A model of fixed batch size sees some samples twice, so that the last batch is full.
        """
        if self._held_out is None:
            batches = list(self._looks())
            if _bytes(feeds for feeds, _ in batches) <= CACHE_LIMIT:
                self._held_out = batches
        else:
            batches = self._held_out
        hosted = self._hosted(step)
        for feeds, count in batches:
            yield {**feeds, **hosted}, count

    def _looks(self) -> Iterator[tuple[Feeds, int]]:
        samples = self._job.held_out
        fixed = fixed_batch(self._job.student) is not None
        lengths = lengths_of(samples)
        order = np.arange(samples.count) if lengths is None else np.argsort(lengths)
        for first in range(0, samples.count, self.size):
            rows = np.arange(first, first + self.size)
            rows = rows % samples.count if fixed else rows[rows < samples.count]
            yield self._batch(samples, order[rows], {}), len(rows)

    def _batch(
        self, samples: Samples, rows: npt.NDArray[np.int64], known: Mapping[str, Array]
    ) -> dict[str, Array]:
        taken = samples.take(rows)
        feeds = {name: self._fitting(name, taken[name]) for name in self._inputs}
        if self._with_labels:
            labels = np.asarray(taken[LABELS])
            if labels.size != len(rows):
                raise DataError(
                    f"labels have shape {list(labels.shape)}, not one class id per sample",
                    where=LABELS,
                    remedy="Give int64 labels of shape [samples]",
                )
            feeds[LABELS] = labels.reshape(-1).astype(np.int64)
        if self._teacher is not None:
            targets = known or self._teacher(taken)
            feeds.update({TEACHER + name: value for name, value in targets.items()})
        return feeds

    def _fitting(self, name: str, array: Array) -> Array:
        return np.ascontiguousarray(array, dtype=self._wide.get(name))

    def _hosted(self, step: int) -> Feeds:
        hosted: dict[str, Array] = {}
        for term in self._terms:
            if term.host_inputs:
                given = term.feeds(step)
                hosted.update({name: np.asarray(given[name]) for name in term.host_inputs})
        return hosted

    def _remembered(self, samples: Samples) -> dict[str, Array] | None:
        """The teacher's tensors for every sample, in an order that no resume changes."""
        if self._teacher is None or samples.count == 0:
            return None
        one = self._teacher(samples.take(np.zeros(self.size, dtype=np.int64)))
        if any(len(value) != self.size for value in one.values() if value.ndim) or any(
            value.ndim == 0 for value in one.values()
        ):
            return None
        if _bytes([one]) / self.size * samples.count > CACHE_LIMIT:
            return None
        return self._teacher.everywhere(samples, self.size)


def _extremes(samples: Samples, sizes: tuple[int, int]) -> list[npt.NDArray[np.int64]]:
    """Rows of the shortest and of the longest samples; the first where all are alike."""
    lengths = lengths_of(samples)
    if lengths is None:
        return [np.arange(size) % max(1, samples.count) for size in dict.fromkeys(sizes)]
    order = np.argsort(lengths, kind="stable")
    return [
        np.resize(rows, size) for rows, size in zip((order, order[::-1]), sizes, strict=True)
    ]


def _sizes(short: Array, long: Array) -> tuple[int | str, ...]:
    pairs = zip(short.shape, long.shape, strict=True)
    return tuple(a if a == b else f"from {a} to {b}" for a, b in pairs)


class _Teacher:
    """The teacher's tensors under the student's names, as float32."""

    def __init__(self, job: TrainJob, targets: tuple[str, ...]) -> None:
        assert job.teacher is not None
        self._names = {name: _counterpart(job, job.teacher, name) for name in targets}
        self._session = Session(
            job.teacher,
            outputs=list(dict.fromkeys(self._names.values())),
            threads=job.threads,
            device=job.device,
            workdir=job.workdir,
        )

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        return self._renamed(self._session(feeds))

    def everywhere(self, samples: Samples, size: int) -> dict[str, Array]:
        """All samples, in order."""
        parts = [self._renamed(found) for _, found in self._session.over(samples, size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._names}

    def _renamed(self, found: Feeds) -> dict[str, Array]:
        for name in self._names.values():
            if not np.isfinite(found[name]).all():
                raise DataError(
                    "the dense model gives NaN or infinity on some samples",
                    where=f"tensor '{name}'",
                    remedy="Leave out the samples on which it does",
                )
        return {
            name: np.ascontiguousarray(found[theirs], dtype=np.float32)
            for name, theirs in self._names.items()
        }


def _counterpart(job: TrainJob, teacher: ir.Model, name: str) -> str:
    """The teacher's tensor of the same name, or its output in the same place."""
    theirs = {value.name for node in teacher.graph for value in node.outputs}
    if name in theirs:
        return name
    outputs = [value.name for value in job.student.graph.outputs]
    if name in outputs and len(outputs) == len(teacher.graph.outputs):
        return teacher.graph.outputs[outputs.index(name)].name or ""
    raise TrainingError(
        "the teacher has no tensor of this name",
        where=f"tensor '{name}'",
        remedy="Give a teacher with the same tensor names, or leave the feature out",
    )


def _bytes(feeds: Iterable[Feeds]) -> int:
    return sum(array.nbytes for batch in feeds for array in batch.values())

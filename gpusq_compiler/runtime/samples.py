"""What flows into a model: feeds, and a set of samples that can be read by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = Mapping[str, Array]

LABELS = "labels"
"""Name of the optional array of targets beside the model's inputs."""
IGNORED = -100
"""Class id of places that have none, where a sample has many."""
MASKS = ("attention_mask", "input_mask")
POOL = 16
"""Batches among which samples are sorted by length, where they differ in it."""


@runtime_checkable
class Samples(Protocol):
    """Samples with random access; arrays are named like the model's inputs.

    Every array has one sample per entry of its first axis. ``labels`` is present in the feeds
    if and only if ``has_labels``.
    """

    @property
    def count(self) -> int:
        """Number of samples."""
        ...

    @property
    def has_labels(self) -> bool:
        """Whether the feeds contain ``labels``."""
        ...

    def take(self, rows: npt.NDArray[np.int64]) -> Feeds:
        """Read these rows, in this order (a row may repeat)."""
        ...


def batches(samples: Samples, size: int) -> Iterator[Feeds]:
    """All samples in order, ``size`` at a time; the last batch may be smaller."""
    for start in range(0, samples.count, size):
        yield samples.take(np.arange(start, min(start + size, samples.count)))


def has_class_ids(samples: Samples) -> bool:
    """Whether there is one class id per sample, the only kind of label that is trained on."""
    if not samples.has_labels or samples.count == 0:
        return False
    labels = np.asarray(samples.take(np.arange(1))[LABELS])
    return labels.size == 1 and labels.dtype.kind in "iu"


def is_mask(name: str) -> bool:
    """Whether an input of integers is 1 where a text has a token and 0 where nothing is."""
    return any(word in name.lower() for word in MASKS)


def lengths_of(samples: Samples) -> npt.NDArray[np.int64] | None:
    """How long each sample is, None where all are equally long."""
    found: npt.NDArray[np.int64] | None = getattr(samples, "lengths", None)
    return found


def with_padding(samples: Samples) -> Samples:
    """The same samples with the padding that was cut off, if any was."""
    found: Samples = getattr(samples, "whole", samples)
    return found


def training_rows(
    count: int,
    size: int,
    seed: int,
    step: int,
    lengths: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Rows of training step ``step``: a pure function, so that a resumed run sees the same.

    Each epoch is a fresh permutation; a batch may straddle two epochs. All batches are full.
    With ``lengths`` each batch has samples of like length.
    """
    if lengths is not None:
        pool, place = divmod(step, POOL)
        rows = training_rows(count, size * POOL, seed, pool)
        order = np.argsort(lengths[rows], kind="stable").reshape(POOL, size)
        turn = np.random.default_rng([seed, pool]).permutation(POOL)[place]
        batch: npt.NDArray[np.int64] = rows[order[turn]]
        return batch
    first = step * size
    epochs = range(first // count, (first + size - 1) // count + 1)
    orders = [np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs]
    offset = first - epochs[0] * count
    return np.concatenate(orders)[offset : offset + size]

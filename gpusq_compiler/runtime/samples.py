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


def training_rows(count: int, size: int, seed: int, step: int) -> npt.NDArray[np.int64]:
    """Rows of training step ``step``: a pure function, so that a resumed run sees the same.

    Each epoch is a fresh permutation; a batch may straddle two epochs. All batches are full.
    """
    first = step * size
    epochs = range(first // count, (first + size - 1) // count + 1)
    orders = [np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs]
    offset = first - epochs[0] * count
    return np.concatenate(orders)[offset : offset + size]

"""Samples over columns, and parts of other samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpusq_compiler.runtime.samples import LABELS, Array, Feeds, Samples, lengths_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpusq_compiler.calibration.columns import Column


class StoredSamples:
    """Samples in shards; every shard holds the same columns. Class ids are int64.

    Args:
        shards: Columns by name, as `checks.checked` gives them.
        whole: Inputs without a batch dimension: one per sample, the first of a batch is fed.
    """

    def __init__(self, shards: Sequence[Mapping[str, Column]], whole: frozenset[str]) -> None:
        self._shards = shards
        # Whoever asks a batch for its length meets one that has a batch dimension first.
        self._names = sorted(shards[0], key=lambda name: (name in whole, name == LABELS))
        self._whole = whole
        lengths = [shard[self._names[0]].shape[0] for shard in shards]
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self._ends[-1])

    @property
    def has_labels(self) -> bool:
        """Whether the feeds contain ``labels``."""
        return LABELS in self._names

    def take(self, rows: npt.NDArray[np.int64]) -> Feeds:
        """Read these rows, in this order."""
        owners = np.searchsorted(self._ends, rows, side="right")
        feeds = {name: self._gather(name, rows, owners) for name in self._names}
        return {k: np.asarray(v[0]) if k in self._whole else v for k, v in feeds.items()}

    def _gather(
        self, name: str, rows: npt.NDArray[np.int64], owners: npt.NDArray[np.int64]
    ) -> Array:
        first = self._shards[0][name]
        ids = name == LABELS and first.dtype.kind in "iu"
        values = np.empty((len(rows), *first.shape[1:]), np.int64 if ids else first.dtype)
        for owner in np.unique(owners):
            mine = owners == owner
            values[mine] = self._shards[owner][name].read(rows[mine] - self._starts[owner])
        return values


class Subset:
    """Some rows of other samples, in a given order."""

    def __init__(self, samples: Samples, rows: npt.NDArray[np.int64]) -> None:
        self._samples = samples
        self._rows = rows

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self._rows)

    @property
    def has_labels(self) -> bool:
        """Whether the feeds contain ``labels``."""
        return self._samples.has_labels

    @property
    def lengths(self) -> npt.NDArray[np.int64] | None:
        """How long each sample is, None where all are equally long."""
        lengths = lengths_of(self._samples)
        return None if lengths is None else lengths[self._rows]

    def take(self, rows: npt.NDArray[np.int64]) -> Feeds:
        """Read these rows of the subset."""
        return self._samples.take(self._rows[rows])

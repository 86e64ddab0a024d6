"""What is counted of one tensor, batch by batch, in constant memory.

Both histograms divide the magnitudes by rules that do not depend on what is seen first, so the
order of batches, and how they are cut, cannot matter.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CACHED = 1 << 16
"""Values that are counted together, so that they stay in a processor's cache."""
DROPPED_BITS = 16
FIXED_BINS = 1 << 15
LINEAR_BINS = 1 << 12

SHOWN_BINS = 40

_SMALLEST_POWER = -126
"""Of a normal float32: finer bins than this one divides into are not needed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histogram:
    """The magnitudes of one tensor, for people to look at.

    Attributes:
        largest: Upper end of the last of the equal bins; the first begins at 0.
        shares: Of the values that are not zero, by bin; together 1.
        zeros: Share of zeros among all values.
    """

    largest: float
    shares: tuple[float, ...]
    zeros: float


@runtime_checkable
class Counted(Protocol):
    """A range state that has counted and can show it."""

    def histogram(self) -> Histogram:
        """What was seen."""
        ...

    def beyond(self, limit: float) -> float:
        """Share of the values, other than zeros, whose magnitude is above the limit."""
        ...


class Largest:
    """A running maximum of the magnitude."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.lowest = 0.0

    def update(self, values: npt.NDArray[Any]) -> None:
        """See one batch."""
        flat = values.reshape(-1)
        for first in range(0, flat.size, CACHED):
            part = flat[first : first + CACHED]
            self.lowest = min(self.lowest, float(part.min()))
            self.see(np.abs(part.astype(np.float32, copy=False)))

    def see(self, magnitudes: npt.NDArray[np.float32]) -> None:
        """See one batch that is not empty."""
        self.largest = max(self.largest, float(magnitudes.max()))

    def absmax(self) -> float:
        """The largest magnitude."""
        return self.largest


class _Counting(Largest, abc.ABC):
    """Shows its counts; values are taken as equally spread inside a bin."""

    def __init__(self) -> None:
        super().__init__()
        self._size = 0

    def see(self, magnitudes: npt.NDArray[np.float32]) -> None:
        """Count one batch."""
        super().see(magnitudes)
        self._size += magnitudes.size

    @abc.abstractmethod
    def occupied(self) -> tuple[Counts, Floats, Floats]:
        """Counts, lower and upper edges of the bins that are not empty, in rising order."""

    def _below(self, limits: Floats) -> Floats:
        """How many of the counted values are below each limit."""
        counts, low, high = self.occupied()
        total = np.cumsum(counts)
        edges = np.stack([low, np.minimum(high, self.largest)], axis=1).ravel()
        sums = np.stack([total - counts, total], axis=1).ravel().astype(float)
        result: Floats = np.interp(limits, edges, sums, left=0.0)
        return result

    def histogram(self) -> Histogram:
        """What was seen, in equal bins."""
        count = int(self.occupied()[0].sum())
        if not count:
            return Histogram(largest=0.0, shares=(), zeros=1.0 if self._size else 0.0)
        edges = np.linspace(0, self.largest, SHOWN_BINS + 1)
        shares = np.diff(self._below(edges)) / count
        return Histogram(
            largest=self.largest,
            shares=tuple(float(f"{share:.4g}") for share in shares),
            zeros=1 - count / self._size,
        )

    def beyond(self, limit: float) -> float:
        """Share of the values, other than zeros, whose magnitude is above the limit."""
        count = int(self.occupied()[0].sum())
        if not count or limit >= self.largest:
            return 0.0
        return 1 - float(self._below(np.array([limit]))[0]) / count


class FixedBins(_Counting):
    """Magnitudes by the upper 15 bits of a float32: 128 equal bins in each power of two.

    A bin ``[a, a + width]`` has ``width <= a / 128``, whatever the distribution.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counts = np.zeros(FIXED_BINS, dtype=np.int64)

    def see(self, magnitudes: npt.NDArray[np.float32]) -> None:
        """Count one batch."""
        super().see(magnitudes)
        bins = (magnitudes.view(np.uint32) >> DROPPED_BITS).astype(np.intp)
        self._counts += np.bincount(bins, minlength=FIXED_BINS)

    def occupied(self) -> tuple[Counts, Floats, Floats]:
        """Counts, lower and upper edges of the bins that are not empty, in rising order.

        Zeros, and what is smaller than 2**-133, are left out.
        """
        bins = np.flatnonzero(self._counts[1:]) + 1
        low, high = (
            ((bins + step).astype(np.uint32) << DROPPED_BITS).view(np.float32).astype(float)
            for step in (0, 1)
        )
        return self._counts[bins], low, np.minimum(high, np.finfo(np.float32).max)


class LinearBins(_Counting):
    """Magnitudes in 4096 equal bins of ``[0, 2**power)``, the smallest such range.

    A larger value doubles the range: neighbours are merged, exactly. So the bins are those
    that the largest value of all asks for, as if it had been known from the start. Zeros are
    left out: they are exact at every scale.
    """

    def __init__(self) -> None:
        super().__init__()
        self._power = _SMALLEST_POWER
        self._counts: Counts = np.zeros(LINEAR_BINS, dtype=np.int64)

    def see(self, magnitudes: npt.NDArray[np.float32]) -> None:
        """Count one batch."""
        super().see(magnitudes)
        self._widen(math.frexp(self.largest)[1])
        scaled = np.ldexp(magnitudes[magnitudes > 0].astype(float), -self._power)
        bins = (scaled * LINEAR_BINS).astype(np.int64)
        self._counts += np.bincount(bins, minlength=LINEAR_BINS)

    def _widen(self, power: int) -> None:
        merged = 1 << min(max(0, power - self._power), 12)
        sums = self._counts.reshape(-1, merged).sum(axis=1)
        self._counts = np.concatenate([sums, np.zeros(LINEAR_BINS - len(sums), np.int64)])
        self._power = max(power, self._power)

    def used(self) -> tuple[Counts, float]:
        """Counts up to the bin of the largest value, 2049 to 4096 of them, and their width."""
        filled = np.flatnonzero(self._counts)
        end = int(filled[-1]) + 1 if len(filled) else 0
        return self._counts[:end], math.ldexp(1 / LINEAR_BINS, self._power)

    def occupied(self) -> tuple[Counts, Floats, Floats]:
        """Counts, lower and upper edges of the bins that are not empty, in rising order."""
        counts, width = self.used()
        bins = np.flatnonzero(counts)
        low = bins.astype(float) * width
        return counts[bins], low, low + width

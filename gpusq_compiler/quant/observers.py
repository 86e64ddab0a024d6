"""Clip ranges of activations from batches, in constant memory.

An observer is configuration; `Observer.start` gives the state that sees the batches of one
tensor. Zero is exact at every scale, so what is learnt is the largest magnitude worth keeping.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from gpusq_compiler.components import Component
from gpusq_compiler.errors import OptionError


class RangeState(Protocol):
    """What is known of one tensor so far; the order of updates does not matter."""

    def update(self, values: npt.NDArray[Any]) -> None:
        """See one batch of finite values, of any shape."""
        ...

    def absmax(self) -> float:
        """The magnitude that gets the largest code; 0 when nothing but zeros was seen."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observer(Component, abc.ABC):
    """Chooses the clip range of a symmetric quantizer."""

    kind: ClassVar[str] = "observer"

    @abc.abstractmethod
    def start(self) -> RangeState:
        """A fresh state for one tensor."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinMax(Observer):
    """The largest magnitude: nothing seen in calibration is clipped."""

    name: ClassVar[str] = "minmax"

    def start(self) -> RangeState:
        """A running maximum."""
        return _Largest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Percentile(Observer):
    """The magnitude under which ``percentile`` per cent of the non-zero values lie.

    Zeros do not vote: they are exact at every scale, and in a tensor that is almost all zeros
    (one-hot rows, a sparse ReLU) they would pull the range to nothing.

    Magnitudes are counted in bins that divide each power of two into 128 equal parts: the
    upper 15 bits of a float32. The wanted value lies in a bin ``[a, a + width]`` with ``width
    <= a / 128``, and so does the answer: its relative error is at most 1/128 for every
    distribution, outliers or not. Bins are fixed, so the order of batches cannot matter.
    """

    name: ClassVar[str] = "percentile"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise OptionError(
                f"percentile {self.percentile} is not in (0, 100]",
                where="observer percentile",
                remedy="The default is 99.99",
            )

    def start(self) -> RangeState:
        """A histogram of 256 KiB."""
        return _Histogram(self.percentile)


class _Largest:
    def __init__(self) -> None:
        self._largest = 0.0

    def update(self, values: npt.NDArray[Any]) -> None:
        if values.size:
            largest = float(np.max(np.abs(values.astype(np.float32))))
            self._largest = max(self._largest, largest)

    def absmax(self) -> float:
        return self._largest


class _Histogram(_Largest):
    _DROPPED_BITS = 16
    _BINS = 1 << 15

    def __init__(self, percentile: float) -> None:
        super().__init__()
        self._percentile = percentile
        self._counts = np.zeros(self._BINS, dtype=np.int64)

    def update(self, values: npt.NDArray[Any]) -> None:
        super().update(values)
        magnitudes = np.abs(values.astype(np.float32)).ravel()
        bins = magnitudes.view(np.uint32) >> self._DROPPED_BITS
        self._counts += np.bincount(bins, minlength=self._BINS)

    def absmax(self) -> float:
        counts = self._counts.copy()
        counts[0] = 0  # zeros, and what is smaller than 2**-133
        below = np.cumsum(counts)
        rank = np.ceil(below[-1] * (self._percentile / 100))
        found = int(np.searchsorted(below, max(rank, 1)))
        if found == self._BINS:
            return 0.0
        edges = np.arange(found, found + 2, dtype=np.uint32) << self._DROPPED_BITS
        low, high = (float(edge) for edge in edges.astype(np.uint32).view(np.float32))
        inside = 1 - (below[found] - rank) / counts[found]
        return min(low + (high - low) * float(inside), self._largest)

"""Clip ranges of activations from batches, in constant memory.

An observer is configuration; `Observer.start` gives the state that sees the batches of one
tensor. Zero is exact at every scale, so what is learnt is the largest magnitude worth keeping.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from gpusq_compiler.components import Component
from gpusq_compiler.errors import OptionError
from gpusq_compiler.quant.histograms import Counts, FixedBins, Floats, Largest, LinearBins

_KEPT = 0.99
"""Of the values, the part that `Entropy` never clips."""

_TOGETHER = 32
"""Ranges whose cost is computed at once."""

_ROUNDING = 1e-9
"""Divergences per value that differ by no more are equal: sums of logarithms are not exact."""


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

    def start_unsigned(self) -> RangeState:
        """The same for codes without a sign, which have twice as many magnitudes."""
        return self.start()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinMax(Observer):
    """The largest magnitude: nothing seen in calibration is clipped."""

    name: ClassVar[str] = "minmax"

    def start(self) -> RangeState:
        """A running maximum."""
        return Largest()


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
    percentile: Annotated[float, "of the magnitudes that are not 0"] = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise OptionError(
                f"percentile {self.percentile} is not in (0, 100]",
                where="observer percentile",
                remedy="The default is 99.99",
            )

    def start(self) -> RangeState:
        """A histogram of 256 KiB."""
        return _Rank(self.percentile)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanSquare(Observer):
    """The range at which quantizing the values seen costs the least squared error.

    With ``s = c / high`` and ``code(x) = min(round(x / s), high)`` the cost of a range ``c``
    is the mean of ``(x - s * code(x)) ** 2``: rounding below ``c``, clipping above. Magnitudes
    are counted as for `Percentile` and taken as equally spread inside a bin, so that the mean
    over a bin ``[a, b]`` is ``(F(b) - F(a)) / (b - a)``, with the closed form

        F(x) = s ** 3 * (k / 12 + (x / s - k) ** 3 / 3),   k = code(x).

    The best range is at least a quarter of the mean magnitude: from there to half the mean,
    clipping less saves more than rounding can ever cost. Between there and the maximum it is
    searched at steps of 1/16 of a power of two, then at 1/256 around the best.
    """

    name: ClassVar[str] = "mse"
    bits: Annotated[int, "of the integer type"] = 8

    def __post_init__(self) -> None:
        _require_bits(self.bits, self.name)

    def start(self) -> RangeState:
        """A histogram of 256 KiB."""
        return _LeastSquares(2 ** (self.bits - 1) - 1)

    def start_unsigned(self) -> RangeState:
        """A histogram for one more bit of magnitude."""
        return _LeastSquares(2**self.bits - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entropy(Observer):
    """The range that loses the least information: the choice of TensorRT's calibrator.

    S. Migacz, "8-bit Inference with TensorRT", GTC 2017. Of a histogram of magnitudes the
    first ``i`` bins are the candidate. ``P`` is those bins, everything above added to the
    last; ``Q`` is those bins alone, merged into 128 levels, each spread equally over its bins
    that are not empty. Both sum to 1. The candidate with the least

        KL(P || Q) = sum over bins of P * log(P / Q)

    wins, the largest of equal ones. Candidates whose last bin has ``Q = 0 < P`` are out.

    Ours, not TensorRT's: 2049 to 4096 bins (a power of two is divided) where the original has
    2048; zeros do not vote; the answer is the upper edge of the last bin, not its middle;
    level borders are ``floor(i * level / 128)``; no candidate clips more than 1 % of the
    values, because of a few distinct values (pixels) the first alone has ``KL = 0``. As there,
    the finest candidate is 128 bins: one value that is thousands of times larger than all
    others spoils the resolution.
    """

    name: ClassVar[str] = "entropy"
    bits: Annotated[int, "of the integer type"] = 8

    def __post_init__(self) -> None:
        _require_bits(self.bits, self.name)

    def start(self) -> RangeState:
        """A histogram of 32 KiB."""
        return _LeastDivergence(2 ** (self.bits - 1))

    def start_unsigned(self) -> RangeState:
        """A histogram for one more bit of magnitude."""
        return _LeastDivergence(2**self.bits)


def _require_bits(bits: int, observer: str) -> None:
    if not 2 <= bits <= 8:
        raise OptionError(
            f"{bits} bits are not between 2 and 8",
            where=f"observer {observer}",
            remedy="The default is 8",
        )


class _Rank(FixedBins):
    def __init__(self, percentile: float) -> None:
        super().__init__()
        self._percentile = percentile

    def absmax(self) -> float:
        counts, low, high = self.occupied()
        if not len(counts):
            return 0.0
        below = np.cumsum(counts)
        rank = max(np.ceil(below[-1] * (self._percentile / 100)), 1)
        found = int(np.searchsorted(below, rank))
        inside = 1 - (below[found] - rank) / counts[found]
        return min(float(low[found] + (high[found] - low[found]) * inside), self.largest)


class _LeastSquares(FixedBins):
    _COARSE, _FINE = 16, 256

    def __init__(self, top: int) -> None:
        super().__init__()
        self._top = top

    def absmax(self) -> float:
        bins = self.occupied()
        counts, low, high = bins
        if not len(counts):
            return 0.0
        least = np.average((low + high) / 2, weights=counts) / 4
        octaves = max(np.log2(self.largest / least), 0.0)
        steps = np.arange(math.ceil(octaves * self._COARSE) + 1)
        ranges = self.largest * 2.0 ** -(steps / self._COARSE)
        best = ranges[np.argmin(_squared_errors(ranges, bins, self._top))]
        near = self._FINE // self._COARSE
        ranges = best * 2.0 ** -(np.arange(-near, near + 1) / self._FINE)
        ranges = np.minimum(ranges, self.largest)
        return float(ranges[np.argmin(_squared_errors(ranges, bins, self._top))])


def _squared_errors(ranges: Floats, bins: tuple[Counts, Floats, Floats], top: int) -> Floats:
    """What each range costs, summed over the values."""
    counts, low, high = bins
    edges = np.unique(np.concatenate([low, high]))  # where a bin ends another begins, mostly
    first, last = np.searchsorted(edges, low), np.searchsorted(edges, high)
    density = counts / (high - low)
    costs = np.empty(len(ranges))
    for begin in range(0, len(ranges), _TOGETHER):
        scales = (ranges[begin : begin + _TOGETHER] / top)[:, None]
        steps = edges / scales
        codes = np.minimum(np.rint(steps), top)
        steps -= codes
        sums = codes / 12
        sums += steps * steps * steps / 3
        part = (sums[:, last] - sums[:, first]) @ density
        costs[begin : begin + _TOGETHER] = part * scales[:, 0] ** 3
    return costs


class _LeastDivergence(LinearBins):
    def __init__(self, levels: int) -> None:
        super().__init__()
        self._levels = levels

    def absmax(self) -> float:
        counts, width = self.used()
        if not len(counts):
            return 0.0
        ends = np.arange(min(self._levels, len(counts)), len(counts) + 1)
        divergence = _divergences(counts, ends, self._levels)
        divergence[counts.cumsum()[ends - 1] < _KEPT * counts.sum()] = np.inf
        equal = divergence <= divergence.min() + _ROUNDING * counts.sum()
        return min(float(ends[equal][-1]) * width, self.largest)


def _divergences(counts: Counts, ends: Counts, levels: int) -> Floats:
    """KL(P || Q) of every candidate, from sums up to each bin: no loop over candidates.

    With ``n`` values, ``m`` of them below the end, ``t = n - m`` above it, and in level ``l``
    a sum ``S_l`` over ``o_l`` bins that are not empty, ``n * KL`` is

        sum_j c_j log c_j - S log(S / o) summed over levels - t log(S_last / o_last)
        + n log m - n log n,   with t added to the last c_j.
    """
    total = counts.sum()
    log = np.log(np.maximum(counts, 1))
    before = [np.concatenate([[0], np.cumsum(x)]) for x in (counts, counts > 0, counts * log)]
    below, occupied, own = before
    borders = ends[:, None] * np.arange(levels + 1) // levels
    sums, bins = np.diff(below[borders]), np.diff(occupied[borders])
    spread = np.log(np.maximum(sums, 1) / np.maximum(bins, 1))
    inside, last = below[ends], counts[ends - 1]
    tail = total - inside
    heaped = last + tail
    result: Floats = (
        own[ends - 1]
        + heaped * np.log(np.maximum(heaped, 1))
        - (sums * spread).sum(axis=1)
        - tail * spread[:, -1]
        + total * np.log(np.maximum(inside, 1) / total)
    )
    return np.where((last == 0) & (tail > 0), np.inf, result)

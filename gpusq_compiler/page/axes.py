"""From values to places on a drawing, and the round numbers that an axis is labelled with."""

from __future__ import annotations

import dataclasses
import itertools
import math

DECADES_FOR_LOG = 1.0
"""From this many powers of ten on, positive values are drawn by their logarithm."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """A straight or logarithmic map from values to places.

    Attributes:
        low: Value at ``start``.
        high: Value at ``end``; differs from ``low``.
        start: Place of ``low``.
        end: Place of ``high``.
        log: Whether equal factors, not equal steps, are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; what lies outside is put at the border."""
        low, high = self._bend(self.low), self._bend(self.high)
        part = (self._bend(max(value, self.low)) - low) / (high - low)
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    def _bend(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, most: int = 5) -> list[float]:
        """Round values inside, in rising order."""
        return _decades(self.low, self.high) if self.log else rounds(self.low, self.high, most)


def spanning(values: list[float], start: float, end: float, *, log: bool = False) -> Scale:
    """A scale that shows all values, with some air around them."""
    low, high = min(values), max(values)
    if log and low > 0 and math.log10(high / low) >= DECADES_FOR_LOG:
        air = (high / low) ** 0.05
        return Scale(low=low / air, high=high * air, start=start, end=end, log=True)
    air = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low=low - air, high=high + air, start=start, end=end)


def rounds(low: float, high: float, most: int = 5) -> list[float]:
    """At most so many multiples of 1, 2 or 5 times a power of ten, but at least one."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * number for number in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(found) >= 3:
            break
    every = math.ceil(len(found) / 6)
    return found[::every]


def label(value: float, ticks: list[float]) -> str:
    """A tick's label, with the digits that tell it from its neighbours."""
    if len(ticks) < 2 or not value:
        return f"{value:.3g}"
    step = min(b - a for a, b in itertools.pairwise(ticks))
    if 1e-4 <= abs(value) < 1e5:
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return f"{value:.{min(digits, 6)}f}"
    return f"{value:.2g}"

"""Figures of merit in numpy: class decisions, and how far two sets of values are apart."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array


HUGE = np.float32(1e8)
"""From here on float32 is so coarse that what was added to a mask is lost."""
CACHED = 1 << 13
"""Values that are compared together: their doubles stay in a processor's cache, and BLAS
starts no threads for them, which would take ten times as long."""


def hits(outputs: Array, labels: Array, k: int = 1) -> npt.NDArray[np.bool_]:
    """Where the label is among the k largest scores; ties favour the lower class.

    Args:
        outputs: Scores ``[..., classes]``; a label whose score is NaN is never hit.
        labels: Class ids ``[...]``.
        k: How many guesses count.
    """
    own = np.take_along_axis(outputs, labels[..., None], axis=-1)
    lower = np.arange(outputs.shape[-1]) < labels[..., None]
    ahead = (outputs > own) | ((outputs == own) & lower) | np.isnan(outputs)
    found: npt.NDArray[np.bool_] = ~np.isnan(own[..., 0])
    found &= np.count_nonzero(ahead, axis=-1) < k
    return found


def accuracy(outputs: Array, labels: Array) -> float:
    """Fraction of labels that have the largest score."""
    return float(np.mean(hits(outputs, labels)))


def topk(outputs: Array, labels: Array, k: int = 5) -> float:
    """Fraction of labels among the k largest scores."""
    return float(np.mean(hits(outputs, labels, k)))


@dataclasses.dataclass
class Difference:
    """Sums over pairs of values, from which all distances follow; batches add up.

    Attributes:
        count: Number of pairs.
        product: Sum of ``value * reference``.
        energy: Sum of ``value ** 2``.
        reference_energy: Sum of ``reference ** 2``.
        error_energy: Sum of ``(value - reference) ** 2``.
        max_error: Largest ``|value - reference|``.
        low: Smallest reference.
        high: Largest reference.
    """

    count: int = 0
    product: float = 0.0
    energy: float = 0.0
    reference_energy: float = 0.0
    error_energy: float = 0.0
    max_error: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def update(self, values: Array, reference: Array) -> None:
        """Add a batch of pairs of the same shape."""
        sides = [side.reshape(-1) for side in (values, reference)]
        with np.errstate(invalid="ignore", over="ignore"):
            for first in range(0, sides[0].size, CACHED):
                part = slice(first, first + CACHED)
                a, b = (side[part].astype(np.float64) for side in sides)
                self._add(a, b, a - b)

    def _add(
        self,
        a: npt.NDArray[np.float64],
        b: npt.NDArray[np.float64],
        error: npt.NDArray[np.float64],
    ) -> None:
        self.count += a.size
        self.product += float(a @ b)
        self.energy += float(a @ a)
        self.reference_energy += float(b @ b)
        self.error_energy += float(error @ error)
        self.max_error = float(np.maximum(self.max_error, np.abs(error).max()))
        self.low = min(self.low, float(b.min()))
        self.high = max(self.high, float(b.max()))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two sides; 1 when both are zero."""
        if self.energy == 0 and self.reference_energy == 0:
            return 1.0
        norm = math.sqrt(self.energy) * math.sqrt(self.reference_energy)
        return float(np.clip(self.product / norm, -1, 1)) if norm else 0.0

    @property
    def sqnr(self) -> float:
        """Signal to error ratio in dB; infinite without any error."""
        return decibel(self.reference_energy, self.error_energy)

    @property
    def psnr(self) -> float:
        """Squared range of the reference to mean squared error, in dB."""
        if not self.count:
            return math.inf
        return decibel((self.high - self.low) ** 2, self.error_energy / self.count)


def but_shared_masks(values: Array, reference: Array) -> tuple[Array, Array]:
    """What a sum can hold: infinities and huge values that both sides share, as in a mask, go.

    They agree, and the energy of one of them would drown that of all the rest.
    """
    huge = ~(np.abs(reference) < HUGE)
    if not huge.any():
        return values, reference
    told = ~(huge & (values == reference))
    return values[told], reference[told]


def difference(values: Array, reference: Array) -> Difference:
    """The sums for one pair of arrays."""
    sums = Difference()
    sums.update(values, reference)
    return sums


def cosine(values: Array, reference: Array) -> float:
    """Cosine of the angle between two arrays, flattened."""
    return difference(values, reference).cosine


def sqnr(values: Array, reference: Array) -> float:
    """Signal to quantization error ratio in dB."""
    return difference(values, reference).sqnr


def psnr(values: Array, reference: Array) -> float:
    """Peak signal to noise ratio in dB; the peak is the reference's range."""
    return difference(values, reference).psnr


def max_error(values: Array, reference: Array) -> float:
    """Largest absolute difference."""
    return difference(values, reference).max_error


def energies(values: Array, reference: Array) -> tuple[float, float]:
    """Sums of ``(value - reference) ** 2`` and of ``reference ** 2``, for large arrays."""
    sides = [side.reshape(-1) for side in (values, reference)]
    error = energy = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for first in range(0, sides[0].size, CACHED):
            part = slice(first, first + CACHED)
            a, b = (side[part].astype(np.float64) for side in sides)
            energy += float(b @ b)
            a -= b
            error += float(a @ a)
    return error, energy


def decibel(signal: float, noise: float) -> float:
    """The ratio of two energies in dB; infinite where there is no noise."""
    if noise == 0:
        return math.inf
    ratio = signal / noise
    return 10 * math.log10(ratio) if ratio else -math.inf

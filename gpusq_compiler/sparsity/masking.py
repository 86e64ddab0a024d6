"""What a mask leaves of a weight: the values, and how much of the weight they are."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq_compiler.sparsity.nm import NM, TWO_OF_FOUR, mask_of, parts, whole_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt

    Values = npt.NDArray[Any]
    Truths = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask as bits, for keeping.

    Attributes:
        bits: Eight truth values a byte, in C order, the first one highest.
        shape: Of the weight.
    """

    bits: npt.NDArray[np.uint8]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mask: Truths) -> Mask:
        """Keep a mask."""
        return cls(np.packbits(mask), mask.shape)

    def __call__(self, weight: Values) -> Values:
        """What the mask leaves of the weight, as `masked` has it."""
        bits = np.unpackbits(self.bits, count=weight.size)
        return masked(weight, bits.view(np.bool_).reshape(self.shape))


def mask_by(
    importance: Callable[[Values], Values],
    weight: Values,
    pattern: NM = TWO_OF_FOUR,
    *,
    axis: int,
) -> Truths:
    """True at the most important values of a weight.

    Args:
        importance: Of a part of the weight, from its values alone.
        weight: Of any rank.
        pattern: How many of how many stay.
        axis: The reduction axis.
    """
    mask = np.empty(weight.shape, np.bool_)
    for part in whole_parts(weight, pattern, axis):
        mask[part] = mask_of(importance(weight[part]), pattern, axis=axis)
    return mask


def masked(weight: Values, mask: Truths) -> Values:
    """A copy of the weight with zeros, none of them negative, where the mask is False."""
    bits = np.dtype(f"u{weight.itemsize}")  # several times faster than numpy's where
    kept = np.empty(weight.shape, weight.dtype)
    for part in parts(weight.shape):
        plain = np.ascontiguousarray(weight[part]).view(bits)
        np.multiply(plain, mask[part].astype(bits), out=kept[part].view(bits))
    return kept


def kept_magnitude(weight: Values, mask: Truths) -> float:
    """Fraction of the sum of magnitudes that the mask keeps; 1 for a weight of zeros.

    Not a number where the weight holds what is none, or infinity.
    """
    return _share(_sums(weight[part], mask[part]) for part in parts(weight.shape))


def _sums(weight: Values, mask: Truths) -> tuple[float, float]:
    """Of the magnitudes under a mask, and of all."""
    magnitude = np.abs(weight.astype(np.promote_types(weight.dtype, np.float32), copy=False))
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(magnitude.sum())
    if not math.isfinite(total) and magnitude.dtype != np.float64:
        return _sums(weight.astype(np.float64), mask)
    magnitude *= mask
    return float(magnitude.sum()), total


def _share(sums: Iterable[tuple[float, float]]) -> float:
    kept, total = map(float, np.sum([(0.0, 0.0), *sums], axis=0))
    return kept / total if total else 1.0

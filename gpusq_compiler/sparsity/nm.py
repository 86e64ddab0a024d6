"""N:M masks: of every m consecutive values, or pairs, along one axis at most n are not zero.

    axis of length 8, 2:4    | 5  1 -7  2 | 0  3  3  3 |
    kept (largest, ties low) | x  .  x  . | .  x  x  . |

    axis of length 8, 4:8-pairs    | (5 1) (-7 2) (0 3) (3 3) |
    kept (largest sum of the pair) | (. .) ( x x) (. .) (x x) |

Groups never straddle anything that divides the axis into multiples of m, so the groups of a
grouped convolution need no special care beyond `NM.fits`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpusq_compiler.errors import OptionError, PreconditionError

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHED = 1 << 18
"""Values that are worked on together, so that they stay in a processor's cache."""
_REMEDY = "Write N:M with 0 < N < M, as 2:4, or pairs of values, as 4:8-pairs"


@dataclasses.dataclass(frozen=True)
class NM:
    """A sparsity pattern: n units kept of every m.

    Attributes:
        n: Units kept.
        m: Units in a group.
        unit: Consecutive values that live or die together: 1, or 2 for pairs, the form in
            which Sparse Tensor Cores take 4-bit weights.

    Raises:
        OptionError: Not ``0 < n < m``.
    """

    n: int = 2
    m: int = 4
    unit: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise OptionError(f"'{self}' is not a sparsity pattern", remedy=_REMEDY)

    def __str__(self) -> str:
        pairs = "-pairs" if self.unit == 2 else ""
        return f"{self.n * self.unit}:{self.span}{pairs}"

    @property
    def span(self) -> int:
        """Values in a group."""
        return self.m * self.unit

    @classmethod
    def parse(cls, text: str) -> NM:
        """Read what ``str`` wrote.

        Raises:
            OptionError: The text is no pattern.
        """
        found = re.fullmatch(r"(\d{1,4}):(\d{1,4})(-pairs)?", text.strip())
        if found is None:
            raise OptionError(f"'{text}' is not a sparsity pattern", remedy=_REMEDY)
        n, m, unit = int(found[1]), int(found[2]), 2 if found[3] else 1
        if n % unit or m % unit:
            raise OptionError(f"'{text}' does not consist of pairs", remedy=_REMEDY)
        return cls(n // unit, m // unit, unit)

    def fits(self, length: int, groups: int = 1) -> bool:
        """Whether an axis of this length, in ``groups`` equal parts, divides into groups."""
        return length % (groups * self.span) == 0


TWO_OF_FOUR = NM()
"""What sparse tensor cores run."""


def mask_of(
    scores: npt.NDArray[Any], pattern: NM = TWO_OF_FOUR, *, axis: int
) -> npt.NDArray[np.bool_]:
    """True at the n largest scores of every group; ties keep the lowest index, NaN ranks last.

    Args:
        scores: Importance of each weight, as `scores.Score.importance` gives it; any rank.
        pattern: How many of how many.
        axis: The reduction axis.
    """
    if pattern.unit > 1:
        units = _units(_ordered(scores), pattern, axis).sum(axis=axis % scores.ndim + 1)
        mask = mask_of(units, NM(pattern.n, pattern.m), axis=axis)
        return np.repeat(mask, pattern.unit, axis=axis)
    groups, inner = _grouped(_ordered(scores), pattern, axis)
    mask = np.empty(groups.shape, np.bool_)
    for part in parts(groups.shape):
        columns, kept = (np.moveaxis(side[part], inner, 0) for side in (groups, mask))
        for place, better in enumerate(_ranks(columns)):
            np.less(better, pattern.n, out=kept[place])
    return mask.reshape(scores.shape)


def _ranks(columns: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """How many of its group are better than each value; the group is axis 0."""
    last = len(columns) - 1
    count = _count_type(last)
    better = [np.full(columns.shape[1:], last - i, count) for i in range(last + 1)]
    for late in range(last + 1):
        for early in range(late):
            early_wins = (columns[early] >= columns[late]).view(np.uint8)
            better[late] += early_wins
            better[early] -= early_wins
    return better


def _count_type(most: int) -> type[np.unsignedinteger[Any]]:
    """Counts are bytes where they can be: bytes are added to truth values as they lie."""
    return np.uint8 if most < 1 << 8 else np.uint16


def parts(shape: tuple[int, ...], multiple: int = 1) -> Iterator[slice]:
    """Parts of the first axis that fit into a processor's cache.

    Work on large weights goes from part to part: an array of a whole weight for every step on
    the way costs more time than the step.

    Args:
        shape: Of the weight.
        multiple: Parts begin at multiples of this: that of a group, where it lies on axis 0.
    """
    fitting = CACHED * shape[0] // max(math.prod(shape), 1)
    step = max(fitting // multiple, 1) * multiple
    return (slice(first, first + step) for first in range(0, shape[0], step))


def whole_parts(weight: npt.NDArray[Any], pattern: NM, axis: int) -> Iterator[slice]:
    """Parts of a weight that divide none of its groups."""
    _grouped(weight, pattern, axis)  # refuses an axis that does not divide
    return parts(weight.shape, pattern.span if axis % weight.ndim == 0 else 1)


def mask_from_zeros(
    weight: npt.NDArray[Any], pattern: NM = TWO_OF_FOUR, *, axis: int
) -> npt.NDArray[np.bool_]:
    """The mask that a sparse weight implies: non-zeros first, then the lowest index.

    Exactly n are kept in every group, so a weight that trained to zero may leave it again.
    """
    alive: npt.NDArray[np.bool_] = weight != 0
    if pattern.unit == 1 and np.all(_alive(alive, pattern, axis) == pattern.n):
        return alive
    return mask_of(alive, pattern, axis=axis)


def violations(
    weight: npt.NDArray[Any], pattern: NM = TWO_OF_FOUR, *, axis: int
) -> npt.NDArray[np.int64]:
    """Indices of the groups with more than n non-zeros, for float weights or integer codes.

    Groups are counted in C order of the weight's shape with ``axis`` divided by m; `describe`
    reads such an index.
    """
    found = list(_violations(weight, pattern, axis))
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def obeys(weight: npt.NDArray[Any], pattern: NM = TWO_OF_FOUR, *, axis: int) -> bool:
    """Whether there are no `violations`; of a dense weight the first part tells."""
    return not any(len(part) for part in _violations(weight, pattern, axis))


def _violations(
    weight: npt.NDArray[Any], pattern: NM, axis: int
) -> Iterator[npt.NDArray[np.int64]]:
    """The same, part by part."""
    single = NM(pattern.n, pattern.m)
    done = 0
    for part in whole_parts(weight, pattern, axis):
        alive = weight[part] != 0
        if pattern.unit > 1:
            alive = _units(alive, pattern, axis).any(axis=axis % weight.ndim + 1)
        counts = _alive(alive, single, axis)
        yield np.flatnonzero(counts > pattern.n) + done
        done += counts.size


def _alive(alive: npt.NDArray[np.bool_], pattern: NM, axis: int) -> npt.NDArray[Any]:
    """How many are True in every group."""
    groups, inner = _grouped(alive.view(np.uint8), pattern, axis)
    columns = np.moveaxis(groups, inner, 0)
    counts: npt.NDArray[Any] = columns[0].astype(_count_type(pattern.m))
    for column in columns[1:]:
        counts += column
    return counts


def has_pattern(weight: npt.NDArray[Any], pattern: NM = TWO_OF_FOUR, *, axis: int) -> bool:
    """Whether a weight has the pattern along an axis and is not simply empty."""
    if not pattern.fits(weight.shape[axis]):
        return False
    alive = int(np.count_nonzero(weight))
    sparse = 0 < pattern.m * alive <= pattern.n * weight.size
    return sparse and not len(violations(weight, pattern, axis=axis))


def describe(
    weight: npt.NDArray[Any], group: int, pattern: NM = TWO_OF_FOUR, *, axis: int
) -> str:
    """Where a group is and what it holds: ``[3, 8:12] = 0.5, 0, -1, 2``."""
    groups, inner = _grouped(weight, pattern, axis)
    outer = groups.shape[:inner] + groups.shape[inner + 1 :]
    index = [int(i) for i in np.unravel_index(group, outer)]
    values = np.moveaxis(groups, inner, -1)[tuple(index)].astype(np.float64)
    start = index[inner - 1] * pattern.span
    place = [str(i) for i in index]
    place[inner - 1] = f"{start}:{start + pattern.span}"
    return f"[{', '.join(place)}] = {', '.join(f'{value:.6g}' for value in values)}"


def _grouped(values: npt.NDArray[Any], pattern: NM, axis: int) -> tuple[npt.NDArray[Any], int]:
    """The values with ``axis`` split into (groups, span) and the span's axis; no copy."""
    if not -values.ndim <= axis < values.ndim:
        raise PreconditionError(f"a weight of rank {values.ndim} has no axis {axis}")
    axis %= values.ndim
    length = values.shape[axis]
    if not pattern.fits(length):
        raise PreconditionError(
            f"{pattern} sparsity needs a multiple of {pattern.span} along axis {axis}, "
            f"which has {length}"
        )
    split = (length // pattern.span, pattern.span)
    return values.reshape(*values.shape[:axis], *split, *values.shape[axis + 1 :]), axis + 1


def _units(values: npt.NDArray[Any], pattern: NM, axis: int) -> npt.NDArray[Any]:
    """The values with ``axis`` split into (units, values of a unit)."""
    _grouped(values, pattern, axis)  # refuses an axis that does not divide
    axis %= values.ndim
    shape = values.shape
    split = (shape[axis] // pattern.unit, pattern.unit)
    return values.reshape(*shape[:axis], *split, *shape[axis + 1 :])


def _ordered(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Scores in a type that numpy compares fast and that has no NaN; the order is the same."""
    if scores.dtype.kind in "iub":
        return scores
    wide = scores if scores.dtype == np.float64 else scores.astype(np.float32, copy=False)
    if not wide.size or not np.isnan(wide.min()):
        return wide
    return np.where(np.isnan(wide), -np.inf, wide)

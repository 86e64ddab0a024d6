"""What is stored of a sparse weight: the values it keeps, and their positions, several a byte.

    codes   5 0 0 -7 | 0 3 0 1      kept       5 -7 | 3 1
                                    positions  0  3 | 1 3, at 2 bits each

A weight is rows of groups of m units along its sparse axis, and behind that axis columns:

    codes      [slabs, rows, m, unit, slabs, columns]    as they lie in memory
    kept       [slabs, rows, n, unit, slabs, columns]
    positions  [1,     rows, n, 1,    1,     columns]    a byte for the same place in each slab

Only rows or columns are cut into slabs; lengths of 1 behind the third are left out. The unit
is 1, or 2 for pairs. What `Packed.codes` computes is what the nodes of a file compute.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.runtime.samples import Array

PLACES = 2
"""The axis of the units of a group, kept or not."""
WIDTHS = (1, 2, 4)
"""Bits of a position: these divide a byte."""
LEVELS = tuple(2**width for width in WIDTHS)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """A sparse integer weight without its zeros.

    Attributes:
        kept: The values that are kept, and zeros where fewer than n of a group are none.
        positions: Bytes, each with the positions of a kept unit in several groups.
        shifts: How far each of these stands from the lowest bit.
        levels: Positions that fit into the bits of one: 4.
        room: Shape of the weight in groups; ``kept`` has it but for axis 2.
        shape: Shape of the weight.
    """

    kept: Array
    positions: Array
    shifts: Array
    levels: int
    room: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the weight in the file."""
        return int(self.kept.nbytes + self.positions.nbytes)

    def codes(self) -> Array:
        """The weight itself."""
        dense = np.zeros(self.room, self.kept.dtype)
        np.put_along_axis(dense, self._places().astype(np.intp), self.kept, axis=PLACES)
        return dense.reshape(self.shape)

    def _places(self) -> Array:
        """Where in its group each kept value goes, shaped as ``kept``."""
        places: Array = (self.positions >> self.shifts) % np.uint8(self.levels)
        return places

    def require_sound(self, where: str) -> None:
        """Refuse parts that do not fit together.

        Raises:
            ModelError: Shapes differ, a position lies outside its group, or two are one.
        """
        if self.levels not in LEVELS or not self._fits():
            raise damaged(where, "its parts do not fit together")
        places, units = self._places(), self.room[PLACES]
        if np.any(places >= units):
            raise damaged(where, f"a position lies outside of its group of {units}")
        if np.any(places[:, :, 1:] <= places[:, :, :-1]):
            raise damaged(where, "the positions of a group do not ascend")

    def _fits(self) -> bool:
        """Whether the shapes are those of one weight."""
        kept, room = self.kept.shape, self.room
        if len(kept) <= PLACES or len(room) != len(kept) or min(*room, *self.shape) < 1:
            return False
        try:
            spread = np.broadcast_shapes(self.positions.shape, self.shifts.shape)
        except ValueError:
            return False
        others = [axis for axis in range(len(kept)) if axis != PLACES]
        return (
            spread == kept
            and all(kept[axis] == room[axis] for axis in others)
            and room[PLACES] <= self.levels
            and math.prod(room) == math.prod(self.shape)
        )


def damaged(where: str, reason: str) -> ModelError:
    """The error for a packed weight that cannot be read."""
    return ModelError(
        f"is stored packed, and {reason}",
        where=f"tensor '{where}'",
        remedy="Take the file as gpusq wrote it, or compile the model again",
    )


def pack(
    codes: Array, mask: Array, *, axis: int, n: int, m: int, unit: int = 1
) -> Packed | None:
    """Store what a mask keeps of a weight; None where a position takes more than 4 bits.

    Args:
        codes: Zero wherever the mask is false.
        mask: The same number of whole units in every group.
        axis: The sparse axis.
        n: Units of a group that are kept.
        m: Units in a group.
        unit: Consecutive values that are kept or left together.
    """
    bits = _bits(m)
    if bits is None or not codes.size:
        return None
    above, rows, beside, columns = _slabbed(codes.shape, axis, m * unit, 8 // bits)
    room = (above, rows, m, unit, beside, columns)
    places = _places(mask.reshape(room)[:, :, :, 0], n)
    shifts = (bits * np.arange(above * beside, dtype=np.uint8)).reshape(above, 1, 1, beside, 1)
    positions = np.bitwise_or.reduce(places << shifts, axis=(0, 3), keepdims=True)
    wide = np.expand_dims(places, 3).astype(np.intp)
    kept = np.take_along_axis(codes.reshape(room), wide, axis=PLACES)
    return Packed(
        kept=_short(kept, room),
        positions=_short(np.expand_dims(positions, 3), room),
        shifts=_short(np.repeat(np.expand_dims(shifts, 3), unit, axis=3), room),
        levels=2**bits,
        room=(*room[:3], *(length for length in room[3:] if length > 1)),
        shape=codes.shape,
    )


def packed_bytes(
    shape: Sequence[int], *, axis: int, n: int, m: int, unit: int = 1
) -> int | None:
    """What `pack` would make of a weight of int8 codes; None where it would not.

    Args:
        shape: Of the weight.
        axis: The sparse axis.
        n: Units of a group that are kept.
        m: Units in a group.
        unit: Consecutive values that are kept or left together.
    """
    bits = _bits(m)
    if bits is None or not math.prod(shape):
        return None
    _, rows, _, columns = _slabbed(shape, axis, m * unit, 8 // bits)
    return math.prod(shape) * n // m + rows * n * columns


def _bits(units: int) -> int | None:
    """Bits of a position among so many; None where none of the widths holds it."""
    return next((width for width in WIDTHS if 2**width >= units), None)


def _slabbed(
    shape: Sequence[int], axis: int, span: int, most: int
) -> tuple[int, int, int, int]:
    """Slabs of rows, rows of groups of this span, slabs of columns, columns."""
    axis %= len(shape)
    rows, columns = math.prod(shape[: axis + 1]) // span, math.prod(shape[axis + 1 :])
    above, beside = _slabs(rows, columns, most)
    return above, rows // above, beside, columns // beside


def _slabs(rows: int, columns: int, most: int) -> tuple[int, int]:
    """Into how many equal parts rows or columns are divided; as many as a byte takes."""
    while rows % most and columns % most:
        most //= 2
    return (1, most) if rows % most else (most, 1)


def _places(alive: Array, n: int) -> Array:
    """Ascending positions of the kept units of each group, along axis 2."""
    lanes = np.moveaxis(alive, PLACES, 0)
    seen = np.zeros(lanes.shape[1:], np.uint8)
    places = np.zeros((n, *seen.shape), np.uint8)
    for place, here in enumerate(lanes):
        for number in range(min(n, place + 1)):
            places[number] += np.uint8(place) * (here & (seen == number))
        seen += here
    return np.moveaxis(places, 0, PLACES)


def _short(array: Array, room: tuple[int, ...]) -> Array:
    """Without the lengths of 1 behind the third, which would slow the runtime down."""
    last = [axis for axis in range(PLACES + 1, len(room)) if room[axis] == 1]
    return np.squeeze(array, axis=tuple(last))

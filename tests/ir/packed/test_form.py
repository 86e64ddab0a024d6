from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir.packed import Packed, pack
from gpusq_compiler.sparsity.nm import NM, TWO_OF_FOUR, mask_from_zeros, mask_of

Codes = npt.NDArray[np.int8]
PATTERNS = (NM(), NM(1, 4), NM(3, 4), NM(1, 2), NM(4, 8), NM(2, 16), NM(2, 4, 2), NM(1, 2, 2))


def packed_of(codes: Codes, pattern: NM = TWO_OF_FOUR, *, axis: int) -> Packed:
    mask = mask_from_zeros(codes, pattern, axis=axis)
    found = pack(codes, mask, axis=axis, n=pattern.n, m=pattern.m, unit=pattern.unit)
    assert found is not None
    return found


def sparse(rng: np.random.Generator, shape: Any, pattern: NM, axis: int) -> Codes:
    """Random codes in the pattern; some of what may be kept is zero, too."""
    codes = rng.integers(-127, 128, shape)
    mask = mask_of(rng.random(shape), pattern, axis=axis) & (rng.random(shape) < 0.8)
    return np.where(mask, codes, 0).astype(np.int8)


@st.composite
def weights(draw: st.DrawFn) -> tuple[Codes, NM, int]:
    """A weight of any rank whose lengths divide well or not at all."""
    pattern = draw(st.sampled_from(PATTERNS))
    shape = draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] = pattern.span * draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    where = axis - len(shape) if draw(st.booleans()) else axis
    return sparse(rng, shape, pattern, where), pattern, where


@settings(max_examples=150, deadline=None)
@given(weights())
def test_what_is_packed_comes_back(weight: tuple[Codes, NM, int]) -> None:
    codes, pattern, axis = weight
    found = packed_of(codes, pattern, axis=axis)
    back = found.codes()
    assert back.dtype == codes.dtype
    assert np.array_equal(back, codes)
    found.require_sound("w")
    again = packed_of(codes, pattern, axis=axis)
    assert again.positions.tobytes() == found.positions.tobytes()
    assert again.kept.tobytes() == found.kept.tobytes()


@settings(max_examples=75, deadline=None)
@given(weights())
def test_every_group_is_stored_where_the_format_says(weight: tuple[Codes, NM, int]) -> None:
    """The format once more, as a loop over the groups of a weight in C order."""
    codes, pattern, axis = weight
    axis %= codes.ndim
    found = packed_of(codes, pattern, axis=axis)
    rows = int(np.prod(codes.shape[: axis + 1])) // pattern.span
    columns = int(np.prod(codes.shape[axis + 1 :]))
    bits = {2: 1, 4: 2, 8: 4, 16: 4}[pattern.m]
    slabs = found.shifts.size // pattern.unit
    by_rows = rows % slabs == 0
    assert slabs == 8 // bits or (rows % (2 * slabs) and columns % (2 * slabs))
    dense = codes.reshape(rows, pattern.m, pattern.unit, columns)
    kept = found.kept.reshape(rows, pattern.n, pattern.unit, columns)
    alone = found.positions.reshape(
        (rows // slabs, pattern.n, columns) if by_rows else (rows, pattern.n, columns // slabs)
    )
    for row, column in itertools.product(range(rows), range(columns)):
        group = dense[row, :, :, column]
        alive = [unit for unit in range(pattern.m) if group[unit].any()]
        dead = [unit for unit in range(pattern.m) if not group[unit].any()]
        places = sorted((alive + dead)[: pattern.n])
        slab, at = divmod(row, rows // slabs) if by_rows else divmod(column, columns // slabs)
        for number, place in enumerate(places):
            byte = alone[at, number, column] if by_rows else alone[row, number, at]
            assert byte >> (slab * bits) & (2**bits - 1) == place
            assert np.array_equal(kept[row, number, :, column], group[place])


def test_an_example() -> None:
    codes = np.array([5, 0, 0, -7, 0, 3, 0, 1, 0, 0, 9, 0, 0, 0, 0, 0], np.int8)
    found = packed_of(codes, axis=0)
    # A group with one value keeps a zero, the lowest; one with none keeps the first two.
    assert found.kept.ravel().tolist() == [5, -7, 3, 1, 0, 9, 0, 0]
    first = 0 | 1 << 2 | 0 << 4 | 0 << 6
    second = 3 | 3 << 2 | 2 << 4 | 1 << 6
    assert found.positions.ravel().tolist() == [first, second]
    assert found.shifts.ravel().tolist() == [0, 2, 4, 6]
    assert (found.levels, found.room, found.shape) == (4, (4, 1, 4), (16,))


BITS = [
    # Bits that a group takes, of 8 m; against float32 that is 32 m.
    (NM(2, 4), 20),
    (NM(1, 4), 10),
    (NM(1, 2), 9),
    (NM(4, 8), 48),
    (NM(2, 16), 24),
    (NM(2, 4, 2), 36),
]


@pytest.mark.parametrize(("pattern", "bits"), BITS)
@pytest.mark.parametrize(("shape", "axis"), [((64, 24), 0), ((8, 32, 3, 3), 1), ((48, 64), 1)])
def test_the_size_is_exact(pattern: NM, bits: int, shape: tuple[int, ...], axis: int) -> None:
    codes = sparse(np.random.default_rng(0), shape, pattern, axis)
    found = packed_of(codes, pattern, axis=axis)
    assert 8 * found.nbytes * pattern.span == codes.size * bits


def test_two_of_four_at_int8_is_a_sixth_of_float32_and_less() -> None:
    codes = sparse(np.random.default_rng(0), (384, 1152), TWO_OF_FOUR, 0)
    assert codes.size * 4 / packed_of(codes, axis=0).nbytes == 128 / 20 == 6.4


@pytest.mark.parametrize(
    ("shape", "positions"),
    [((4, 3), 6), ((12, 4), 6), ((4, 6), 6), ((8, 3), 6), ((12, 1), 6), ((20, 3), 30)],
)
def test_what_does_not_divide_takes_more_of_a_byte(
    shape: tuple[int, int], positions: int
) -> None:
    """Rows (groups) or columns are cut into 4, else 2, else 1."""
    codes = sparse(np.random.default_rng(0), shape, TWO_OF_FOUR, 0)
    found = packed_of(codes, axis=0)
    assert found.positions.size == positions
    assert np.array_equal(found.codes(), codes)


def test_positions_of_more_than_four_bits_are_not_packed() -> None:
    codes, pattern = np.zeros((32, 4), np.int8), NM(2, 32)
    mask = mask_from_zeros(codes, pattern, axis=0)
    assert pack(codes, mask, axis=0, n=2, m=32) is None


def test_an_empty_weight_is_not_packed() -> None:
    codes = np.zeros((0, 4), np.int8)
    assert pack(codes, codes != 0, axis=1, n=2, m=4) is None


def with_byte(array: Any, byte: int) -> Any:
    changed = array.copy()
    changed.flat[0] = byte
    return changed


DAMAGE = [
    ({"levels": 3}, "its parts do not fit together"),
    ({"levels": 0}, "its parts do not fit together"),
    ({"room": (4, 4, 4)}, "its parts do not fit together"),
    ({"room": (4, 4, 8, 6)}, "its parts do not fit together"),
    ({"room": (4, -4, 4, 6)}, "its parts do not fit together"),
    ({"shape": (64, 7)}, "its parts do not fit together"),
    ({"shape": (-1, -384)}, "its parts do not fit together"),
    ({"shifts": np.zeros(5, np.uint8)}, "its parts do not fit together"),
    ({"kept": np.zeros((4, 4, 3, 6), np.int8)}, "its parts do not fit together"),
    ({"kept": np.zeros(8, np.int8)}, "its parts do not fit together"),
    ({"room": (4, 4, 2, 6), "shape": (32, 6)}, "a position lies outside of its group of 2"),
    ({"positions": 0xFF}, "the positions of a group do not ascend"),
]


@pytest.mark.parametrize(("change", "says"), DAMAGE)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], says: str) -> None:
    codes = sparse(np.random.default_rng(1), (64, 6), TWO_OF_FOUR, 0)
    found = packed_of(codes, axis=0)
    assert found.room == (4, 4, 4, 6)
    if isinstance(change.get("positions"), int):
        change = {"positions": with_byte(found.positions, change["positions"])}
    broken = dataclasses.replace(found, **change)
    with pytest.raises(ModelError, match=rf"tensor 'w': is stored packed, and {says}"):
        broken.require_sound("w")

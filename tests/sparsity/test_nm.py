from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq_compiler.errors import OptionError, PreconditionError
from gpusq_compiler.sparsity.masking import kept_magnitude
from gpusq_compiler.sparsity.nm import (
    NM,
    describe,
    has_pattern,
    mask_from_zeros,
    mask_of,
    violations,
)
from gpusq_compiler.sparsity.scores import Magnitude

Weight = npt.NDArray[Any]
FLOATS = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)
PATTERNS = (NM(2, 4), NM(1, 4), NM(3, 4), NM(1, 2), NM(4, 8))


@st.composite
def weights(draw: st.DrawFn) -> tuple[Weight, NM, int]:
    """A weight of any rank and type, with ties and zeros, and where its groups lie."""
    pattern = draw(st.sampled_from(PATTERNS))
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] = pattern.m * draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Few distinct values, so that ties are common; all of them exact in bfloat16.
    values = rng.integers(-4, 5, shape) * 2.0 ** rng.integers(-6, 6, shape)
    dtype = draw(st.sampled_from(FLOATS))
    negative = draw(st.booleans())
    return values.astype(dtype), pattern, axis - len(shape) if negative else axis


def groups_of(values: Weight, pattern: NM, axis: int) -> list[tuple[tuple[int, ...], Weight]]:
    """Every group with the index of its first element, by a plain loop in C order."""
    axis %= values.ndim
    lengths = list(values.shape)
    lengths[axis] //= pattern.m
    found = []
    for index in itertools.product(*(range(n) for n in lengths)):
        start = list(index)
        start[axis] *= pattern.m
        place: list[Any] = list(start)
        place[axis] = slice(start[axis], start[axis] + pattern.m)
        found.append((tuple(start), values[tuple(place)]))
    return found


@settings(max_examples=150, deadline=None)
@given(weights())
def test_mask_is_the_best_of_all_choices_and_ties_keep_the_lowest(
    case: tuple[Weight, NM, int],
) -> None:
    weight, pattern, axis = case
    mask = mask_of(Magnitude().importance(weight), pattern, axis=axis)
    assert mask.shape == weight.shape
    for (_, group), (_, kept) in zip(
        groups_of(weight, pattern, axis), groups_of(mask, pattern, axis), strict=True
    ):
        magnitude = np.abs(group.astype(np.float64))
        # Combinations come in lexicographic order, so max() prefers the lowest indices.
        best = max(
            itertools.combinations(range(pattern.m), pattern.n),
            key=lambda chosen: magnitude[list(chosen)].sum(),
        )
        assert tuple(np.flatnonzero(kept)) == best


@settings(max_examples=100, deadline=None)
@given(weights())
def test_masked_weight_obeys_and_its_mask_is_found_again(
    case: tuple[Weight, NM, int],
) -> None:
    weight, pattern, axis = case
    mask = mask_of(np.abs(weight), pattern, axis=axis)
    sparse = np.where(mask, weight, weight.dtype.type(0))
    assert not violations(sparse, pattern, axis=axis).size
    again = mask_from_zeros(sparse, pattern, axis=axis)
    assert not (sparse != 0)[~again].any()
    assert all(g.sum() == pattern.n for _, g in groups_of(again, pattern, axis))
    np.testing.assert_array_equal(
        mask_of(np.abs(sparse), pattern, axis=axis) & (sparse != 0), sparse != 0
    )
    if (weight != 0).all():
        np.testing.assert_array_equal(again, mask)


@settings(max_examples=100, deadline=None)
@given(weights())
def test_violations_are_those_of_the_loop(case: tuple[Weight, NM, int]) -> None:
    weight, pattern, axis = case
    expected = [
        number
        for number, (_, group) in enumerate(groups_of(weight, pattern, axis))
        if sum(bool(value != 0) for value in group) > pattern.n
    ]
    assert violations(weight, pattern, axis=axis).tolist() == expected


def test_bfloat16_ranks_by_value_not_by_bits() -> None:
    # As raw bits -0.5 (0xBF00) is above 2 (0x4000).
    weight = np.array([2, -0.5, 1, 0.25], dtype=ml_dtypes.bfloat16)
    assert mask_of(np.abs(weight), axis=0).tolist() == [True, False, True, False]
    assert mask_of(weight, axis=0).tolist() == [True, False, True, False]


def test_all_ties_keep_the_first_and_nan_goes_last() -> None:
    assert mask_of(np.ones(4), axis=0).tolist() == [True, True, False, False]
    scores = np.array([np.nan, 1, np.nan, -5])
    assert mask_of(scores, axis=0).tolist() == [False, True, False, True]
    signed_zeros = np.array([0.0, -0.0, 0.0, -0.0], dtype=np.float32)
    assert mask_of(signed_zeros, axis=0).tolist() == [True, True, False, False]


def test_unsigned_and_int4_codes_are_checked_as_they_are() -> None:
    codes = np.array([0, 1, 2, 3, 0, 0, 255, 1], dtype=np.uint8)
    assert violations(codes, axis=0).tolist() == [0]
    assert violations(codes.astype(ml_dtypes.int4), axis=0).tolist() == [0]


def test_describe_names_place_and_values_of_a_group() -> None:
    weight = np.zeros((3, 8, 2), dtype=np.float32)
    weight[2, 4:8, 1] = [0.5, 0, -1, 2]
    bad = violations(weight, axis=1)
    assert len(bad) == 1
    assert describe(weight, int(bad[0]), axis=1) == "[2, 4:8, 1] = 0.5, 0, -1, 2"


@settings(max_examples=50, deadline=None)
@given(weights())
def test_describe_agrees_with_the_loop(case: tuple[Weight, NM, int]) -> None:
    weight, pattern, axis = case
    for number, (start, group) in enumerate(groups_of(weight, pattern, axis)):
        place = [str(i) for i in start]
        first = start[axis]
        place[axis] = f"{first}:{first + pattern.m}"
        values = ", ".join(f"{float(value):.6g}" for value in group)
        assert describe(weight, number, pattern, axis=axis) == (
            f"[{', '.join(place)}] = {values}"
        )


def test_kept_magnitude_is_a_fraction() -> None:
    weight = np.array([3, -1, 0, 4], dtype=np.float16)
    assert kept_magnitude(weight, mask_of(np.abs(weight), axis=0)) == 7 / 8
    assert kept_magnitude(np.zeros(4), np.zeros(4, dtype=bool)) == 1


def test_kept_magnitude_is_that_of_the_loop() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float16)
    mask = mask_of(np.abs(weight), axis=1)
    kept = sum(abs(float(w)) for w, kept in zip(weight.flat, mask.flat, strict=True) if kept)
    total = sum(abs(float(w)) for w in weight.flat)
    # 96 float16 values are exact in float64, and in float32 to seven digits.
    assert kept_magnitude(weight, mask) == pytest.approx(kept / total, rel=1e-6)


def test_has_pattern_means_sparse_and_not_empty() -> None:
    weight = np.zeros((8, 8), np.float32)
    assert not has_pattern(weight, axis=0), "it obeys, for it is empty"
    weight[0] = 1
    assert has_pattern(weight, axis=0)
    assert not has_pattern(weight, axis=1), "four of four in the first row"
    weight[:3] = 1
    assert not has_pattern(weight, axis=0)
    assert not has_pattern(np.ones((6, 4), np.float32), axis=0), "6 is no multiple of 4"
    assert has_pattern(np.eye(8, dtype=np.int8), axis=-1)
    assert has_pattern(np.eye(8), NM(1, 8), axis=0)
    assert not has_pattern(np.eye(8) + np.eye(8, k=1), NM(1, 8), axis=0)


def test_an_empty_weight_has_an_empty_mask() -> None:
    weight = np.zeros((0, 4), dtype=np.float32)
    assert mask_of(weight, axis=1).shape == (0, 4)
    assert not violations(weight, axis=1).size


def test_pattern_text_round_trip() -> None:
    for pattern in PATTERNS:
        assert NM.parse(str(pattern)) == pattern


@pytest.mark.parametrize("text", ["", "2", "4:2", "0:4", "2:2", "2:4:8", "a:b", "-1:4", "2/4"])
def test_text_that_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="sparsity pattern"):
        NM.parse(text)


def test_length_that_holds_no_whole_groups_is_refused() -> None:
    with pytest.raises(PreconditionError, match="multiple of 4 along axis 1, which has 6"):
        mask_of(np.ones((4, 6)), axis=1)
    with pytest.raises(PreconditionError, match="no axis 2"):
        violations(np.ones((4, 4)), axis=2)


def test_fits_counts_the_groups_of_a_convolution() -> None:
    assert NM().fits(8, groups=2)
    assert not NM().fits(12, groups=2)
    assert not NM().fits(6)


PAIRS = NM.parse("4:8-pairs")


def test_pairs_are_read_and_written() -> None:
    assert NM(2, 4, unit=2) == PAIRS
    assert str(PAIRS) == "4:8-pairs"
    assert PAIRS.span == 8
    assert PAIRS.fits(16)
    assert not PAIRS.fits(12)


def test_odd_numbers_are_no_pairs() -> None:
    with pytest.raises(OptionError, match="does not consist of pairs"):
        NM.parse("3:8-pairs")


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_of_four_aligned_pairs_the_two_of_largest_sum_stay(axis: int) -> None:
    weight = np.random.default_rng(axis % 2).standard_normal((16, 24)).astype(np.float32)
    mask = mask_of(np.abs(weight), PAIRS, axis=axis)
    lines = np.moveaxis(np.abs(weight), axis, -1).reshape(-1, 4, 2)
    kept = np.moveaxis(mask, axis, -1).reshape(-1, 4, 2)
    for pairs, stays in zip(lines, kept, strict=True):
        best = max(
            itertools.combinations(range(4), 2), key=lambda two: float(pairs[list(two)].sum())
        )
        assert [bool(pair.all()) for pair in stays] == [i in best for i in range(4)]
        assert stays.sum() == 4
    sparse = weight * mask
    assert violations(sparse, PAIRS, axis=axis).size == 0
    assert np.array_equal(mask_from_zeros(sparse, PAIRS, axis=axis), mask)


def test_a_third_pair_is_a_violation_though_four_values_are_zero() -> None:
    column = np.array([1, 0, 0, 2, 0, 3, 0, 0], dtype=np.float32)
    assert violations(column, PAIRS, axis=0).tolist() == [0]
    column[0] = 0
    assert violations(column, PAIRS, axis=0).size == 0

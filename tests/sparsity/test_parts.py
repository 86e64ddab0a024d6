"""Work on large weights goes from part to part: no part may show in the outcome."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from gpusq_compiler.errors import PreconditionError
from gpusq_compiler.sparsity import nm
from gpusq_compiler.sparsity.masking import Mask, kept_magnitude, mask_by, masked
from gpusq_compiler.sparsity.nm import NM, mask_from_zeros, mask_of, parts, violations
from gpusq_compiler.sparsity.scores import Magnitude

PATTERNS = (NM(2, 4), NM(1, 4), NM(4, 8), NM(2, 4, unit=2))
SHAPES = (((48, 20), 0), ((20, 48), 1), ((24, 16, 3, 3), 1), ((3, 40, 8), -2), ((64,), 0))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few groups, so that small weights have many of them."""
    monkeypatch.setattr(nm, "CACHED", 70)


def weight_of(shape: tuple[int, ...], dtype: Any = np.float32) -> npt.NDArray[Any]:
    rng = np.random.default_rng(0)
    return (rng.integers(-3, 4, shape) * 0.5).astype(dtype)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_parts_do_not_show(
    shape: tuple[int, ...], axis: int, pattern: NM, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = weight_of(shape)
    found = []
    for cached in (1 << 20, 70, 1):
        monkeypatch.setattr(nm, "CACHED", cached)
        sparse = masked(weight, mask_by(Magnitude().importance, weight, pattern, axis=axis))
        found.append(
            (
                sparse.tobytes(),
                mask_of(np.abs(weight), pattern, axis=axis).tobytes(),
                violations(weight, pattern, axis=axis).tolist(),
                violations(sparse, pattern, axis=axis).tolist(),
            )
        )
        # Sums of few multiples of 0.5 are exact, in whatever order.
        mask = mask_from_zeros(sparse, pattern, axis=axis)
        assert kept_magnitude(weight, mask) == np.abs(sparse).sum() / np.abs(weight).sum()
        assert not nm.obeys(weight, pattern, axis=axis)
        assert nm.obeys(sparse, pattern, axis=axis)
    assert found[0] == found[1] == found[2]
    assert found[0][2]
    assert not found[0][3]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_masks_are_kept_as_bits_and_leave_the_weight_what_they_are_of(dtype: Any) -> None:
    weight = weight_of((48, 20), dtype)
    mask = mask_by(Magnitude().importance, weight, axis=0)
    np.testing.assert_array_equal(mask, mask_of(np.abs(weight.astype(np.float32)), axis=0))
    kept = Mask.of(mask)
    assert kept.bits.nbytes == weight.size // 8
    for sparse in (masked(weight, mask), kept(weight)):
        assert sparse.dtype == weight.dtype
        np.testing.assert_array_equal(sparse, np.where(mask, weight, dtype(0)))


def test_a_mask_of_no_whole_number_of_bytes_is_kept() -> None:
    mask = np.array([[True, False, True], [False, True, True]])
    weight = weight_of((2, 3)) + 9
    np.testing.assert_array_equal(Mask.of(mask)(weight), np.where(mask, weight, 0))


def test_shares_of_values_that_float32_cannot_add() -> None:
    weight = np.full((4, 4), 3e38, np.float32)
    assert kept_magnitude(weight, mask_of(weight, axis=0)) == pytest.approx(0.5)
    weight[0, 0] = np.inf
    assert np.isnan(kept_magnitude(weight, mask_of(weight, axis=0)))


def test_what_is_dropped_is_plus_zero_whatever_it_was() -> None:
    weight = np.array([-1.0, -0.0, np.nan, -np.inf, 5.0, -0.0], np.float32)
    mask = np.array([False, False, False, False, True, True])
    found = masked(weight, mask)
    assert found.tobytes() == np.array([0, 0, 0, 0, 5, -0.0], np.float32).tobytes()
    assert weight[0] == -1
    np.testing.assert_array_equal(
        masked(weight.reshape(2, 3).T, mask.reshape(2, 3).T)[2, 1], 0
    )


def test_a_full_pattern_is_its_own_mask_and_no_other() -> None:
    full = np.array([[1, 0, 2, 0], [0, 0, 3, 4]], np.float32)
    np.testing.assert_array_equal(mask_from_zeros(full, axis=1), full != 0)
    # As many non-zeros as the pattern has, but three in one group and one in the other.
    wrong = np.array([[1, 5, 2, 0], [0, 0, 3, 0]], np.float32)
    counts = np.count_nonzero(mask_from_zeros(wrong, axis=1), axis=1)
    assert counts.tolist() == [2, 2]


def test_a_dense_weight_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nm, "CACHED", 70)
    looked: list[int] = []
    alive = nm._alive

    def counted(values: npt.NDArray[np.bool_], pattern: NM, axis: int) -> Any:
        looked.append(len(values))
        return alive(values, pattern, axis)

    monkeypatch.setattr(nm, "_alive", counted)
    assert not nm.obeys(np.ones((48, 20), np.float32), axis=0)
    assert len(looked) == 1
    last = np.zeros((48, 20), np.float32)
    last[-4:, -1] = 1
    assert not nm.obeys(last, axis=0)
    assert len(looked) == 13


def test_parts_cover_and_begin_at_multiples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nm, "CACHED", 70)
    for shape, multiple in (((48, 20), 4), ((7, 100), 1), ((1000,), 8), ((0, 4), 4)):
        slices = list(parts(shape, multiple))
        rows = [row for part in slices for row in range(*part.indices(shape[0]))]
        assert rows == list(range(shape[0]))
        assert all(part.start % multiple == 0 for part in slices)
    assert len(list(parts((48, 20), 4))) == 12


def test_an_axis_that_does_not_divide_is_refused() -> None:
    with pytest.raises(PreconditionError, match="multiple of 4"):
        mask_by(Magnitude().importance, np.ones((6, 4), np.float32), axis=0)

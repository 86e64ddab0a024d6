from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq_compiler.runtime import metrics


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.booleans())
def test_hits_are_those_of_a_stable_sort(seed: int, k: int, deep: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (5, 3) if deep else (7,)
    scores = rng.integers(0, 4, (*shape, 6)).astype(np.float32)  # ties are common
    labels = rng.integers(0, 6, shape)
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
    wanted = (order == labels[..., None]).any(axis=-1)
    np.testing.assert_array_equal(metrics.hits(scores, labels, k), wanted)
    assert metrics.topk(scores, labels, k) == pytest.approx(wanted.mean())
    by_argmax = np.mean(scores.argmax(axis=-1) == labels)
    assert metrics.accuracy(scores, labels) == pytest.approx(by_argmax)


def test_a_score_that_is_nan_never_wins() -> None:
    scores = np.array([[np.nan, 1, 0], [np.nan, np.nan, np.nan]], dtype=np.float32)
    assert metrics.accuracy(scores, np.array([0, 0])) == 0
    assert metrics.accuracy(scores, np.array([1, 0])) == 0, "argmax would have said NaN"


def pair(seed: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal((20, 3, 4)).astype(np.float32)
    return reference + 0.1 * rng.standard_normal(reference.shape, np.float32), reference


def test_distances_are_those_of_numpy() -> None:
    a, b = (side.astype(np.float64) for side in pair())
    mse = np.mean((a - b) ** 2)
    assert metrics.cosine(a, b) == pytest.approx(
        float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
    )
    assert metrics.sqnr(a, b) == pytest.approx(10 * math.log10(np.mean(b**2) / mse))
    assert metrics.psnr(a, b) == pytest.approx(10 * math.log10(np.ptp(b) ** 2 / mse))
    assert metrics.max_error(a, b) == np.abs(a - b).max()


def test_batches_add_up() -> None:
    a, b = pair()
    sums = metrics.Difference()
    for part in np.array_split(np.arange(20), 6):
        sums.update(a[part], b[part])
    sums.update(a[:0], b[:0])
    whole = metrics.difference(a, b)
    assert sums.count == whole.count == 240
    assert sums.cosine == pytest.approx(whole.cosine, rel=1e-12)
    assert sums.sqnr == pytest.approx(whole.sqnr, rel=1e-12)
    assert sums.psnr == pytest.approx(whole.psnr, rel=1e-12)
    assert sums.max_error == whole.max_error


def test_equal_zero_and_opposite_values() -> None:
    a, _ = pair()
    zero = np.zeros_like(a)
    assert metrics.cosine(a, a) == pytest.approx(1)
    assert metrics.cosine(a, a) <= 1
    assert metrics.cosine(a, -a) == pytest.approx(-1)
    assert metrics.cosine(zero, zero) == 1
    assert metrics.cosine(a, zero) == metrics.cosine(zero, a) == 0
    assert metrics.sqnr(a, a) == metrics.psnr(a, a) == math.inf
    assert metrics.sqnr(a, zero) == -math.inf
    assert metrics.Difference().psnr == math.inf


@pytest.mark.parametrize("huge", [np.inf, np.finfo(np.float32).max, 1e9])
def test_masks_that_both_sides_share_go(huge: float) -> None:
    a, b = pair()
    assert metrics.but_shared_masks(a, b)[0] is a, "as they are"
    shared = [np.append(side, [-huge, huge]) for side in (a, b)]
    whole = metrics.difference(a, b)
    sums = metrics.difference(*metrics.but_shared_masks(*shared))
    assert (sums.sqnr, sums.count) == (whole.sqnr, whole.count)
    only = np.full(3, -huge)
    for other in (-only, np.full(3, np.nan), np.zeros(3)):
        assert np.array_equal(
            metrics.but_shared_masks(other, only), (other, only), equal_nan=True
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows_and_does_not_warn(bad: float) -> None:
    a, b = pair()
    a[3, 1, 2] = bad
    assert not math.isfinite(metrics.max_error(a, b))
    assert not metrics.cosine(a, b) > 0
    assert not metrics.sqnr(a, b) > 0
    b[3, 1, 2] = bad
    assert not metrics.cosine(a, b) > 0
    assert math.isnan(metrics.max_error(a, b))


def test_small_types_are_summed_in_double() -> None:
    ones = np.ones(100_000, dtype=np.float16)
    assert metrics.difference(ones, ones).energy == 100_000
    assert metrics.max_error(np.array([0], np.uint8), np.array([255], np.uint8)) == 255


@pytest.mark.parametrize("size", [0, 5, metrics.CACHED, 2 * metrics.CACHED + 3])
def test_large_arrays_are_compared_part_by_part(size: int) -> None:
    rng = np.random.default_rng(size)
    a, b = (rng.integers(-8, 9, size).astype(np.float32) for _ in range(2))
    found = metrics.difference(a, b)
    wide = a.astype(np.float64), b.astype(np.float64)
    # Integers: every sum is exact, in whatever order.
    assert found.count == size
    assert found.product == float(wide[0] @ wide[1])
    assert found.error_energy == float(((wide[0] - wide[1]) ** 2).sum())
    assert metrics.energies(a, b) == (found.error_energy, found.reference_energy)
    if size:
        assert (found.low, found.high) == (b.min(), b.max())
        assert found.max_error == np.abs(a - b).max()

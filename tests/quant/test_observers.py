from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq_compiler.errors import OptionError
from gpusq_compiler.quant.observers import MinMax, Observer, Percentile

RELATIVE = 1 / 128
"""Width of a bin over its lower edge, at most."""


def watched(observer: Observer, *batches: np.ndarray) -> float:  # type: ignore[type-arg]
    state = observer.start()
    for batch in batches:
        state.update(batch)
    return state.absmax()


def test_minmax_is_the_largest_magnitude() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((3, 5)).astype(np.float32) for _ in range(4)]
    assert watched(MinMax(), *batches) == np.abs(np.stack(batches)).max()
    assert watched(MinMax()) == 0
    assert watched(MinMax(), np.zeros((0, 3), np.float32)) == 0


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    percentile=st.sampled_from((1.0, 25.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0)),
    tail=st.sampled_from((0.5, 1.0, 3.0)),
    size=st.integers(1, 3000),
)
def test_percentile_is_within_its_bound_of_numpy(
    seed: int, percentile: float, tail: float, size: int
) -> None:
    rng = np.random.default_rng(seed)
    x = np.exp(rng.standard_normal(size) * tail).astype(np.float32)
    x *= rng.choice(np.float32([-1, 1]), size)
    exact = float(np.percentile(np.abs(x), percentile, method="inverted_cdf"))
    found = watched(Percentile(percentile=percentile), x)
    assert abs(found - exact) <= exact * RELATIVE


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_order_and_cuts_of_batches_do_not_matter(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(500) * 10.0 ** rng.integers(-6, 6, 500)).astype(np.float32)
    whole = watched(Percentile(percentile=97.0), x)
    shuffled = np.array_split(rng.permutation(x), parts)
    assert watched(Percentile(percentile=97.0), *shuffled) == whole


def test_an_outlier_does_not_spoil_the_resolution() -> None:
    rng = np.random.default_rng(0)
    x = np.append(rng.random(100_000), 1e9).astype(np.float32)
    found = watched(Percentile(percentile=99.9), x)
    assert found == pytest.approx(0.999, rel=RELATIVE)


def test_zeros_do_not_vote() -> None:
    x = np.zeros(100_000, dtype=np.float32)
    x[:100] = np.linspace(1, 2, 100)
    assert watched(Percentile(percentile=50.0), x) == pytest.approx(1.5, rel=RELATIVE + 0.01)
    assert watched(Percentile(), np.zeros(8, np.float32)) == 0
    assert watched(Percentile()) == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_float_types_count_by_value(dtype: type) -> None:
    x = np.array([-3, 1, 2, 0.5]).astype(dtype)
    assert watched(MinMax(), x) == 3
    assert watched(Percentile(percentile=100.0), x) == 3


def test_the_whole_is_never_more_than_the_largest() -> None:
    x = np.float32([1.0, 1.0, 1.0])
    assert watched(Percentile(percentile=100.0), x) == 1
    assert watched(Percentile(), x * 3) <= 3


def test_memory_does_not_grow() -> None:
    state = Percentile().start()
    rng = np.random.default_rng(0)
    for power in range(-30, 30):
        state.update((rng.standard_normal(100) * 10.0**power).astype(np.float32))
    held = [value for value in vars(state).values() if isinstance(value, np.ndarray)]
    assert sum(value.nbytes for value in held) == 2**15 * 8


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.1, math.nan])
def test_no_percentile_is_refused(percentile: float) -> None:
    with pytest.raises(OptionError, match="percentile"):
        Percentile(percentile=percentile)

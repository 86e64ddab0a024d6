from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpusq_compiler.quant.histograms import SHOWN_BINS, Counted, FixedBins, LinearBins
from gpusq_compiler.quant.observers import Entropy, MeanSquare, MinMax, Percentile

if TYPE_CHECKING:
    import numpy.typing as npt

KINDS = (FixedBins, LinearBins)


def counted(kind: type[FixedBins | LinearBins], *batches: object) -> FixedBins | LinearBins:
    state = kind()
    for batch in batches:
        state.update(np.asarray(batch, np.float32))
    return state


def relu(size: int = 20_000) -> npt.NDArray[np.float32]:
    values = np.maximum(np.random.default_rng(0).standard_normal(size), 0)
    return values.astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_shares_are_those_of_numpy(kind: type[FixedBins | LinearBins]) -> None:
    x = relu()
    found = counted(kind, x).histogram()
    positive = x[x > 0]
    wanted, _ = np.histogram(positive, bins=SHOWN_BINS, range=(0, positive.max()))
    assert found.largest == float(x.max())
    assert found.zeros == pytest.approx(1 - positive.size / x.size)
    assert sum(found.shares) == pytest.approx(1, abs=1e-3)  # four digits of each are kept
    # A counted bin that straddles a border is divided as if its values were spread evenly. In
    # FixedBins it is at most 1/128 of its value wide, so 40/128 of a bin that is shown.
    slack = 40 / 128 * np.maximum(wanted, np.roll(wanted, 1)) / positive.size
    assert np.all(np.abs(np.array(found.shares) - wanted / positive.size) <= slack + 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_batches_does_not_matter(kind: type[FixedBins | LinearBins]) -> None:
    x = relu(1000)
    whole = counted(kind, x).histogram()
    assert counted(kind, x[700:], x[:700]).histogram() == whole


@pytest.mark.parametrize("kind", KINDS)
def test_beyond_counts_what_is_larger(kind: type[FixedBins | LinearBins]) -> None:
    x = np.linspace(0.001, 4, 4000, dtype=np.float32)
    state = counted(kind, -x)
    for limit in (0.5, 1.0, 3.0):
        # The limit's own bin is at most 1/128 of it wide.
        assert state.beyond(limit) == pytest.approx(1 - limit / 4, abs=limit / 128)
    assert state.beyond(4.0) == state.beyond(9.0) == 0
    assert state.beyond(0.0) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_one_value_is_all_of_it(kind: type[FixedBins | LinearBins]) -> None:
    found = counted(kind, [6.0, -6.0]).histogram()
    assert found.largest == 6
    assert found.zeros == 0
    assert found.shares[-1] == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_and_nothing_but_zeros(kind: type[FixedBins | LinearBins]) -> None:
    assert counted(kind).histogram().zeros == 0
    state = counted(kind, np.zeros(8))
    assert state.histogram().shares == ()
    assert state.histogram().zeros == 1
    assert state.beyond(1.0) == 0


def test_observers_that_count_can_show_it() -> None:
    for observer in (Percentile(), MeanSquare(), Entropy()):
        assert isinstance(observer.start(), Counted)
    assert not isinstance(MinMax().start(), Counted)

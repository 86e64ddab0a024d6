"""Timing in turn: what is counted, when it ends, and what a ratio may say."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from gpusq_compiler.runtime import latency
from gpusq_compiler.runtime.latency import FEWEST_ROUNDS, Times, interleaved, on_host
from gpusq_compiler.runtime.session import Session
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Clock:
    """A clock that only moves when somebody runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def turn(self, name: str, *seconds: float) -> Callable[[], Sequence[float]]:
        """Runs that take so long."""

        def take() -> Sequence[float]:
            self.ran.append(name)
            self.now += sum(seconds)
            return seconds

        return take


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_models_take_turns(clock: Clock) -> None:
    a, b = interleaved([clock.turn("a", 1.0), clock.turn("b", 3.0)], seconds=28)
    assert len(clock.ran) == 2 * (1 + 7)
    rounds = {tuple(clock.ran[i : i + 2]) for i in range(0, len(clock.ran), 2)}
    assert rounds == {("a", "b"), ("b", "a")}
    assert (a.median, b.median) == (1.0, 3.0)
    assert len(a.seconds) == len(b.seconds) == 7


def test_the_warm_up_does_not_count(clock: Clock) -> None:
    durations = itertools.count(100.0, -1.0)

    def turn() -> Sequence[float]:
        taken = next(durations)
        clock.now += taken
        return [taken]

    (times,) = interleaved([turn], seconds=0, warm_up=150)
    # 100 and 99 seconds of warming up, then the fewest rounds.
    assert times.seconds.tolist() == [98, 97, 96, 95, 94]


def test_there_are_five_rounds_at_least(clock: Clock) -> None:
    (times,) = interleaved([clock.turn("a", 9.0)], seconds=0, runs=1)
    assert len(times.seconds) == FEWEST_ROUNDS == 5


def test_runs_end_it(clock: Clock) -> None:
    a, b = interleaved([clock.turn("a", 1, 1, 1), clock.turn("b", 1)], seconds=1e6, runs=20)
    assert (len(a.seconds), len(b.seconds)) == (60, 20)


def test_figures() -> None:
    times = Times(turns=[[float(i)] for i in range(1, 102)])
    assert times.median == times.mean == 51
    assert times.p99 == 100
    assert Times(turns=times.turns[:99]).p99 is None


def test_a_ratio_compares_rounds() -> None:
    """Both slow down alike in the second half: the ratio does not notice."""
    drift = np.where(np.arange(40) < 20, 1.0, 5.0)
    fast = Times(turns=[[x, x] for x in drift])
    slow = Times(turns=[[2 * x] for x in drift])
    assert fast.faster_than(slow) == latency.Ratio(median=2, low=2, high=2)
    assert slow.faster_than(fast).median == 0.5


@pytest.mark.parametrize("count", [5, 6, 10, 37, 100, 1000])
def test_an_interval_holds_the_median(count: int) -> None:
    """P(low <= median <= high) is that of a binomial variable between the two ranks."""
    times = Times(turns=[[1.0]] * count)
    other = Times(turns=[[float(i)] for i in range(1, count + 1)])
    ratio = times.faster_than(other)
    below = int(ratio.low) - 1  # values under the interval
    assert ratio.high == count - below
    outside = 2 * stats.binom.cdf(below, count, 0.5)
    # With five rounds even their whole range holds it in 15 of 16 cases only.
    assert outside <= (0.0625 if count == 5 else 0.05)
    assert outside > 0.02 or count < 20


def test_a_session_is_timed() -> None:
    model = tiny.mlp()
    turn = on_host(Session(model, threads=1), tiny.samples(model).take(np.arange(4)))
    (first,) = turn()
    assert 0 < first < 10

"""How long models take on this machine: in turn, so that drift hits all alike.

In every round each model has its turn, in an order drawn anew: in a fixed one, the same file
timed twice differed from itself by 2 % on a busy machine, for where a turn stands matters.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Feeds
    from gpusq_compiler.runtime.session import Session

FEWEST_ROUNDS = 5
ENOUGH_FOR_P99 = 100
"""Runs below which the slowest of a hundred was not met."""

Turn: TypeAlias = Callable[[], Sequence[float]]
"""Runs a model a few times on the inputs it was made for; gives the seconds of each run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times faster one model is than another; above 1 it is faster.

    Attributes:
        median: Of the ratios of runs that followed each other.
        low: With ``high`` about a 95 % interval of it.
        high: Where it lies above 1 and ``low`` below, no difference was found.
    """

    median: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """How long the runs of a model took.

    Attributes:
        turns: Seconds of every run, by turn.
    """

    turns: Sequence[Sequence[float]]

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Of every run, in order."""
        return np.concatenate([np.asarray(turn, np.float64) for turn in self.turns])

    @property
    def median(self) -> float:
        """Half of the runs took longer."""
        return float(np.median(self.seconds))

    @property
    def mean(self) -> float:
        """All seconds over the runs: what throughput follows from."""
        return float(np.mean(self.seconds))

    @property
    def p99(self) -> float | None:
        """One in a hundred runs took longer; None where there were too few to tell."""
        seconds = self.seconds
        return float(np.percentile(seconds, 99)) if len(seconds) >= ENOUGH_FOR_P99 else None

    def faster_than(self, other: Times) -> Ratio:
        """How many times faster this model is than another that ran in turn with it.

        Turns are compared with the turn of the same round, so that what slows both cancels.
        The interval stands between order statistics of these ratios: of n values the median
        lies between those of ranks ``n/2 - 0.98 sqrt(n)`` from below and from above in about
        95 of 100 cases, whatever their distribution, if rounds do not depend on each other.
        """
        mine, theirs = (np.array([np.median(t) for t in x.turns]) for x in (self, other))
        ratios = np.sort(theirs / mine)
        outside = max(0, int(len(ratios) / 2 - 0.98 * len(ratios) ** 0.5) - 1)
        return Ratio(
            median=float(np.median(ratios)),
            low=float(ratios[outside]),
            high=float(ratios[-1 - outside]),
        )


def on_host(session: Session, feeds: Feeds) -> Turn:
    """One run of a session on a batch, by the clock of the host."""

    def turn() -> list[float]:
        start = time.perf_counter()
        session(feeds)
        return [time.perf_counter() - start]

    return turn


def interleaved(
    turns: Sequence[Turn],
    *,
    seconds: float,
    warm_up: float = 0.0,
    runs: int | None = None,
) -> list[Times]:
    """The times of each model.

    Args:
        turns: Each is taken once in a round.
        seconds: About how long to measure in all.
        warm_up: Seconds of rounds before that, which do not count; at least one round.
        runs: Stop after so many of every model. There are five rounds at least.
    """
    for _ in _rounds(warm_up, fewest=1):
        for turn in turns:
            turn()
    taken: list[list[Sequence[float]]] = [[] for _ in turns]
    draw = np.random.default_rng(0)
    for count in _rounds(seconds, fewest=FEWEST_ROUNDS):
        for index in draw.permutation(len(turns)):
            taken[index].append(turns[index]())
        # No work here that grows with the number of rounds: the next turn would feel it.
        fewest = count * min(len(times[-1]) for times in taken)
        if runs is not None and count >= FEWEST_ROUNDS and fewest >= runs:
            break
    return [Times(turns=times) for times in taken]


def _rounds(seconds: float, *, fewest: int) -> Iterator[int]:
    """Count rounds from 1 until time is over and there were enough."""
    end = time.perf_counter() + seconds
    for count in itertools.count(1):
        if count > fewest and time.perf_counter() >= end:
            return
        yield count

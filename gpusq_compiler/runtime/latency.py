"""How long models take on this machine: interleaved, so that drift hits all alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.runtime.samples import Feeds
    from gpusq_compiler.runtime.session import Session

FEWEST_ROUNDS = 5


def interleaved(sessions: Sequence[Session], feeds: Feeds, *, seconds: float) -> list[float]:
    """Median seconds per run of each session on the same batch.

    Args:
        sessions: Run in turn, A B A B, after one warm-up each.
        feeds: One batch.
        seconds: About how long to measure in all.
    """
    for session in sessions:
        session(feeds)
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < FEWEST_ROUNDS:
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session(feeds)
            taken.append(time.perf_counter() - start)
    return [float(np.median(taken)) for taken in times]

"""Work in numpy on several processors: it lets go of the interpreter."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")

_END = object()
MOST = 4
"""Threads at most: what they do is bound by memory."""


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items; each next one is made while the last is worked on.

    Args:
        items: Made by what lets go of the interpreter; memory holds two of them.
    """
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, source, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, source, _END)
            yield item  # type: ignore[misc]


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Iterator[Result]:
    """What a function makes of each item, in their order, a few of them at once.

    Args:
        function: Must not mind being called for several items at once.
        items: Asked for no further ahead than there are threads.
        threads: None: one for every processor.
    """
    workers = min(threads or os.cpu_count() or 1, MOST)
    if workers == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

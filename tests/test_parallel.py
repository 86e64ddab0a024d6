"""A few at once, and nobody sees it but the clock."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from gpusq_compiler.parallel import ahead, in_order

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize("threads", [1, 2, 3, 99])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    assert list(in_order(lambda i: i * i, range(20), threads)) == [i * i for i in range(20)]
    assert list(in_order(str, [], threads)) == []


def test_two_are_worked_on_at_once() -> None:
    meeting = threading.Barrier(2, timeout=20)
    assert sorted(in_order(lambda _: meeting.wait(), range(2), 2)) == [0, 1]


def test_items_are_asked_for_no_further_ahead_than_there_are_threads() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            asked.append(number)
            yield number

    results = in_order(lambda i: i, items(), 2)
    assert next(results) == 0
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_is_that_of_the_first_item_that_has_one(threads: int) -> None:
    def half(number: int) -> int:
        if number % 2:
            raise ValueError(str(number))
        return number

    results = in_order(half, range(8), threads)
    assert next(results) == 0
    with pytest.raises(ValueError, match="1"):
        next(results)


def test_the_next_item_is_made_ahead_and_none_behind_it() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    coming = ahead(items())
    assert next(coming) == 0
    assert made[1].wait(20)
    assert not made[2].is_set()
    assert list(coming) == [1, 2, 3]
    assert list(ahead([])) == []


def test_an_error_on_the_way_to_an_item_comes_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("second")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(ValueError, match="second"):
        next(coming)


def test_who_stops_early_leaves_nothing_running() -> None:
    coming = ahead(iter(range(5)))
    next(coming)
    assert isinstance(coming, Generator)
    coming.close()
    assert not [one for one in threading.enumerate() if "ThreadPool" in one.name]

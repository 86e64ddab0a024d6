"""How long to train by default follows from model and data alone."""

from __future__ import annotations

import pytest

from gpusq_compiler.train.budget import (
    FEWEST_STEPS,
    MOST_EPOCHS,
    boldness,
    default_batch_size,
    default_learning_rate,
    default_steps,
    seconds_per_step,
    steps_within,
)


@pytest.mark.parametrize(("samples", "size"), [(10, 8), (128, 8), (300, 32), (10**6, 64)])
def test_the_batch_is_a_power_of_two_and_grows_with_the_samples(
    samples: int, size: int
) -> None:
    assert default_batch_size(samples) == size


def test_a_larger_model_gets_more_time_but_fewer_steps() -> None:
    small = default_steps(10**5, 2 * 10**6, 8192, 64)
    large = default_steps(2 * 10**7, 7 * 10**8, 8192, 64)
    assert FEWEST_STEPS <= large < small


def test_default_steps_take_the_time_that_is_said() -> None:
    cost, batch = 2 * 10**6, 64
    steps = default_steps(10**5, cost, 8192, batch)
    # 34 s at 10^5 parameters, rounded down to whole steps.
    assert 34 - seconds_per_step(cost, batch) < steps * seconds_per_step(cost, batch) <= 34


def test_few_samples_bound_the_steps() -> None:
    steps = default_steps(10**5, 2 * 10**6, 100, 8)
    assert steps == MOST_EPOCHS * 100 // 8


def test_the_rate_grows_with_the_weights() -> None:
    assert default_learning_rate(0.2) == pytest.approx(2 * default_learning_rate(0.1))


@pytest.mark.parametrize(("steps", "bold"), [(1, 1), (60, 1), (120, 2), (240, 4), (9000, 4)])
def test_convolutions_bear_a_larger_rate_given_steps(steps: int, bold: float) -> None:
    assert boldness(steps, convolutional=True) == bold
    assert boldness(steps, convolutional=False) == 1
    assert default_learning_rate(0.1, bold) == pytest.approx(bold * default_learning_rate(0.1))


def test_a_budget_gives_at_least_one_step() -> None:
    assert steps_within(0.001, 10.0) == 1
    assert steps_within(100.0, 1.0) == 90

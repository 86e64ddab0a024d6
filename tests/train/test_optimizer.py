"""AdamW, its schedule, masks, decay and relative steps against a loop in numpy."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpusq_compiler.train.optimizer import (
    FLOOR,
    Parameter,
    average_name,
    names,
    optimizer_graph,
)
from gpusq_compiler.train.schedule import Schedule
from tests.train import nets

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

STEPS = 12


def oracle(
    parameters: list[Parameter],
    gradients: list[list[Array]],
    schedule: Schedule,
    clip: float | None = None,
) -> list[list[Array]]:
    """AdamW as its authors write it, in float64; the values after every step."""
    values = [p.value.astype(np.float64) for p in parameters]
    first = [np.zeros(v.shape) for v in values]
    second = [np.zeros(v.shape) for v in values]
    history = []
    for step, found in enumerate(gradients):
        warm, t = schedule.warm, step + 1
        ramp = min(1.0, t / warm) if warm else 1.0
        progress = max(0, step - warm) / max(1, schedule.steps - warm)
        factor = ramp * (1 + math.cos(math.pi * progress)) / 2
        g = list(found)
        if clip is not None:
            norm = math.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in g))
            g = [a * min(1.0, clip / norm) for a in g]
        for i, p in enumerate(parameters):
            first[i] = 0.9 * first[i] + 0.1 * g[i]
            second[i] = 0.999 * second[i] + 0.001 * g[i] ** 2
            m_hat, v_hat = first[i] / (1 - 0.9**t), second[i] / (1 - 0.999**t)
            rate = p.learning_rate * factor if step >= p.start else 0.0
            update = m_hat / (np.sqrt(v_hat) + 1e-8)
            if p.relative:
                update = update * np.abs(p.value)
            values[i] = values[i] - rate * p.weight_decay * values[i] - rate * update
            if p.relative:
                values[i] = np.maximum(values[i], FLOOR * np.abs(p.value))
        history.append([v.copy() for v in values])
    return history


def trained(
    parameters: list[Parameter],
    gradients: list[list[Array]],
    schedule: Schedule,
    clip: float | None = None,
) -> list[list[Array]]:
    """The values after every step of the graph."""
    model = optimizer_graph(parameters, schedule, clip_norm=clip)
    state = {}
    for index, p in enumerate(parameters):
        value, _, first, second = names(index)
        state.update({value: p.value, first: 0 * p.value, second: 0 * p.value})
    history = []
    for step, found in enumerate(gradients):
        fed = {names(index)[1]: gradient for index, gradient in enumerate(found)}
        out = nets.run(model, {**state, **fed, "step": np.array(step)})
        state = {name.removesuffix(".new"): value for name, value in out.items()}
        history.append([state[names(index)[0]] for index in range(len(parameters))])
    return history


def case(count: int = 1, **options: Any) -> tuple[list[Parameter], list[list[Array]]]:
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(3, 4)).astype(np.float32) for _ in range(count)]
    parameters = [
        dataclasses.replace(Parameter(value=value, learning_rate=0.05), **options)
        for value in values
    ]
    gradients = [
        [rng.normal(size=(3, 4)).astype(np.float32) for _ in range(count)]
        for _ in range(STEPS)
    ]
    return parameters, gradients


MASK = np.arange(12).reshape(3, 4) % 4 < 2
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": 0.3},
    "relative": {"relative": True},
    "late": {"start": 5, "weight_decay": 0.1},
}


@pytest.mark.parametrize("clip", [None, 1.5])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_adamw(name: str, warmup: float, clip: float | None) -> None:
    parameters, gradients = case(2, **OPTIONS[name])
    schedule = Schedule(steps=STEPS, warmup=warmup)
    expected = oracle(parameters, gradients, schedule, clip)
    for ours, theirs in zip(
        trained(parameters, gradients, schedule, clip), expected, strict=True
    ):
        for value, reference in zip(ours, theirs, strict=True):
            assert value == pytest.approx(reference, rel=1e-4, abs=1e-5)


def pruned() -> tuple[Parameter, list[list[Array]]]:
    """A parameter with zeros, and gradients that are zero there."""
    (parameter,), gradients = case(weight_decay=0.1)
    start = parameter.value * MASK
    masked = [[found * MASK] for (found,) in gradients]
    return dataclasses.replace(parameter, value=start), masked


@pytest.mark.parametrize("clip", [None, 1.5])
def test_zeros_without_a_gradient_stay_zero(clip: float | None) -> None:
    parameter, gradients = pruned()
    for values in trained([parameter], gradients, Schedule(steps=STEPS), clip):
        assert np.array_equal(values[0] != 0, MASK)


def test_a_late_group_does_not_move_a_bit_before_its_start() -> None:
    parameters, gradients = case(start=5, weight_decay=0.1)
    history = trained(parameters, gradients, Schedule(steps=STEPS))
    assert [np.array_equal(h[0], parameters[0].value) for h in history[:7]] == [True] * 5 + [
        False
    ] * 2


def test_relative_values_stay_positive() -> None:
    start = np.array([1e-3, 1.0, 100.0], np.float32)
    parameters = [Parameter(value=start, learning_rate=0.5, relative=True)]
    gradients = [[np.ones(3, np.float32)]] * STEPS
    history = trained(parameters, gradients, Schedule(steps=STEPS, warmup=0.0))
    assert history[0][0] == pytest.approx(0.5 * start, rel=1e-5)
    assert history[-1][0] == pytest.approx(FLOOR * start, rel=1e-5)


def lengths(steps: int, warmup: float) -> Array:
    """How far a parameter moves in each step, its gradient being 1."""
    parameters = [Parameter(value=np.zeros(1, np.float32), learning_rate=1.0)]
    gradients = [[np.ones(1, np.float32)]] * steps
    history = trained(parameters, gradients, Schedule(steps=steps, warmup=warmup))
    return -np.diff([0.0, *(float(h[0][0]) for h in history)])


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    moved = lengths(60, 0.2)
    assert moved[:12] == pytest.approx(np.arange(1, 13) / 12, rel=1e-4)
    assert np.all(np.diff(moved[12:]) < 0)
    assert 0 < moved[-1] < 0.02


def test_a_short_run_ends_in_its_warm_up() -> None:
    assert lengths(3, 0.05) == pytest.approx([0.1, 0.2, 0.3], rel=1e-4)
    assert lengths(3, 0.0)[0] == pytest.approx(1.0, rel=1e-4)


def test_groups_have_their_own_rates() -> None:
    parameters, gradients = case(2)
    parameters[1] = dataclasses.replace(parameters[1], learning_rate=0.001, weight_decay=0.5)
    schedule = Schedule(steps=STEPS)
    expected = oracle(parameters, gradients, schedule)[-1]
    found = trained(parameters, gradients, schedule)[-1]
    assert found[0] == pytest.approx(expected[0], rel=1e-4, abs=1e-5)
    assert found[1] == pytest.approx(expected[1], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("decay", [0.3, 0.99])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_average_follows_its_recursion(name: str, decay: float) -> None:
    parameters, gradients = case(2, **OPTIONS[name])
    schedule = Schedule(steps=STEPS)
    model = optimizer_graph(parameters, schedule, averaging=decay)
    state: dict[str, Array] = {}
    for index, p in enumerate(parameters):
        own, _, first, second = names(index)
        state.update({own: p.value, first: 0 * p.value, second: 0 * p.value})
        state[average_name(index)] = p.value
    expected = [p.value.astype(np.float64) for p in parameters]
    plain = trained(parameters, gradients, schedule)
    for step, found in enumerate(gradients):
        fed = {names(index)[1]: gradient for index, gradient in enumerate(found)}
        out = nets.run(model, {**state, **fed, "step": np.array(step)})
        state = {name.removesuffix(".new"): value for name, value in out.items()}
        kept = min(decay, (1 + step) / (10 + step))
        for index, value in enumerate(plain[step]):
            assert np.array_equal(state[names(index)[0]], value)
            expected[index] = kept * expected[index] + (1 - kept) * value
            average = state[average_name(index)]
            assert average == pytest.approx(expected[index], rel=1e-5, abs=1e-6)


def test_the_average_is_zero_where_the_values_are() -> None:
    parameter, gradients = pruned()
    start = parameter.value
    model = optimizer_graph([parameter], Schedule(steps=STEPS), averaging=0.9)
    value, gradient, first, second = names(0)
    state = {value: start, average_name(0): start, first: 0 * start, second: 0 * start}
    for step, (found,) in enumerate(gradients):
        out = nets.run(model, {**state, gradient: found, "step": np.array(step)})
        state = {name.removesuffix(".new"): array for name, array in out.items()}
    assert np.array_equal(state[average_name(0)] != 0, MASK)

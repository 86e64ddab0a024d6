from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq_compiler.errors import DataError, PreconditionError
from gpusq_compiler.sparsity.nm import NM, mask_of, violations
from gpusq_compiler.sparsity.scores import relative_output_error
from gpusq_compiler.sparsity.sparsegpt import by_mean, inverse_factor, refined, sparsegpt

Array = npt.NDArray[Any]
PATTERNS = ("2:4", "1:4", "3:4", "4:8-pairs")


def layer(rows: int, columns: int, samples: int = 256, seed: int = 0) -> tuple[Array, Array]:
    """A weight and the second moments of inputs that mix, weigh and shift a few sources."""
    rng = np.random.default_rng(seed)
    mixing = (
        rng.standard_normal((columns, columns)) / np.sqrt(np.arange(1, columns + 1))[:, None]
    )
    inputs = rng.standard_normal((samples, columns)) @ mixing + 0.3
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    return weight, inputs.T @ inputs


def by_magnitude(weight: Array, pattern: NM) -> Array:
    return np.where(mask_of(np.abs(weight), pattern, axis=1), weight, np.float32(0))


def damped(moments: Array, damping: float) -> Array:
    ridge: Array = damping * moments.diagonal().mean() * np.eye(len(moments))
    return moments + ridge


def naive_walk(weight: Array, hessian: Array, pattern: NM) -> Array:
    """Optimal Brain Surgeon column by column; the inverse is taken anew at every column."""
    pruned = weight.astype(np.float64)
    for row in pruned:
        for first in range(0, len(row), pattern.span):
            saliency = np.zeros(pattern.span)
            for j in range(pattern.span):
                inverse = np.linalg.inv(hessian[first + j :, first + j :])
                saliency[j] = row[first + j] ** 2 / inverse[0, 0]
            units = saliency.reshape(pattern.m, pattern.unit).sum(axis=1)
            kept = np.repeat(np.argsort(np.argsort(-units)) < pattern.n, pattern.unit)
            for j in range(first, first + pattern.span):
                inverse = np.linalg.inv(hessian[j:, j:])
                if not kept[j - first]:
                    row[j:] -= row[j] / inverse[0, 0] * inverse[0]
                    row[j] = 0
    return pruned


def test_one_step_is_the_best_answer_to_one_pruned_weight() -> None:
    # 1:2 over two inputs: pruning one weight leaves a least-squares problem in the other.
    moments = np.array([[4.0, 3.0], [3.0, 9.0]])
    weight = np.array([[0.1, 1.0], [2.0, 0.2]], dtype=np.float32)
    pruned = sparsegpt(weight, moments, NM(1, 2), damping=0, refine=0, by_activity=False)
    hessian = damped(moments, 1e-6)
    answer = 1.0 + hessian[0, 1] / hessian[1, 1] * 0.1
    # Weight 0 answers for weight 1 only in the refinement: it comes before it in the walk.
    np.testing.assert_allclose(pruned, [[0, answer], [2.0, 0]], rtol=1e-6)
    better = sparsegpt(weight, moments, NM(1, 2), damping=0, refine=2, by_activity=False)
    ridge = damped(moments, 1e-4)
    np.testing.assert_allclose(better[1], [2 + 0.2 * ridge[0, 1] / ridge[0, 0], 0], rtol=1e-6)


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("block", [1, 8, 24, 1000])
def test_the_blocked_walk_is_the_naive_one(text: str, block: int) -> None:
    pattern = NM.parse(text)
    weight, moments = layer(6, 32, seed=1)
    options: dict[str, Any] = {"damping": 0.01, "refine": 0, "block": block}
    pruned = sparsegpt(weight, moments, pattern, by_activity=False, **options)
    expected = naive_walk(weight, damped(moments, 0.01), pattern)
    # float32 through 32 columns of a matrix whose factor has a condition below 100
    np.testing.assert_allclose(pruned, expected, atol=32 * 100 * 6e-8 * np.abs(expected).max())
    assert np.array_equal(pruned != 0, expected != 0)


def test_the_walk_by_activity_is_the_naive_one_on_sorted_groups() -> None:
    weight, moments = layer(6, 32, seed=2)
    scale = np.repeat([1.0, 5.0, 0.2, 2.0, 0.5, 3.0, 0.1, 4.0], 4)
    moments *= np.outer(scale, scale)
    activity = moments.diagonal().reshape(8, 4).sum(axis=1)
    order = np.concatenate([np.arange(4 * g, 4 * g + 4) for g in np.argsort(-activity)])
    expected = np.empty_like(weight)
    hessian = damped(moments, 0.01)[np.ix_(order, order)]
    expected[:, order] = naive_walk(weight[:, order], hessian, NM())
    pruned = sparsegpt(weight, moments, NM(), refine=0)
    np.testing.assert_allclose(pruned, expected, atol=1e-3)
    assert np.array_equal(pruned != 0, expected != 0)


def test_the_factor_is_that_of_the_inverse() -> None:
    _, moments = layer(1, 24, seed=3)
    factor = inverse_factor(by_mean(moments), 0.05).astype(np.float64)
    inverse = np.linalg.inv(damped(moments / moments.diagonal().mean(), 0.05))
    assert np.array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor, inverse, atol=1e-6 * np.abs(inverse).max())


@pytest.mark.parametrize("text", PATTERNS)
def test_the_pattern_holds_and_kept_weights_change(text: str) -> None:
    pattern = NM.parse(text)
    weight, moments = layer(24, 64, seed=4)
    pruned = sparsegpt(weight, moments, pattern)
    assert pruned.shape == weight.shape
    assert pruned.dtype == np.float32
    assert not violations(pruned, pattern, axis=1).size
    kept = pruned != 0
    assert kept.mean() == pattern.n / pattern.m
    assert (pruned[kept] != weight[kept]).mean() > 0.99


@pytest.mark.parametrize("text", PATTERNS)
def test_the_output_moves_much_less_than_by_magnitude(text: str) -> None:
    pattern = NM.parse(text)
    weight, moments = layer(48, 64, samples=512, seed=5)
    errors = [
        relative_output_error(weight, pruned, moments)
        for pruned in (
            by_magnitude(weight, pattern),
            sparsegpt(weight, moments, pattern, refine=0),
            sparsegpt(weight, moments, pattern),
        )
    ]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.95 * errors[1]


def test_enough_refinement_is_least_squares() -> None:
    weight, moments = layer(5, 16, seed=6)
    kept = mask_of(np.abs(weight), NM(), axis=1)
    found = refined(weight, weight * kept, kept, by_mean(moments), steps=40)
    for row, mask, values in zip(weight, kept, found, strict=True):
        hessian = damped(moments, 1e-4)
        inner = hessian[np.ix_(mask, mask)]
        exact = np.linalg.solve(inner, hessian[mask] @ row.astype(np.float64))
        assert np.linalg.cond(inner) < 1e3
        np.testing.assert_allclose(values[mask], exact, rtol=1e-3, atol=1e-4)
        assert not values[~mask].any()


@pytest.mark.parametrize("samples", [3, 20, 40, 400])
def test_no_number_of_steps_makes_the_output_worse(samples: int) -> None:
    # Fewer inputs than columns: without damping least squares has unbounded answers.
    weight, moments = layer(12, 40, samples=samples, seed=7)
    hessian = damped(moments, 1e-4)
    errors = []
    for steps in (0, 1, 2, 5, 20, 100, 500):
        pruned = sparsegpt(weight, moments.astype(np.float32), NM(), refine=steps)
        assert np.abs(pruned).max() < 4 * np.abs(weight).max()
        errors.append(relative_output_error(weight, pruned, hessian))
    # sqrt(tr) of float32 moments is known to about sqrt(eps) of the whole output
    assert all(late <= early + 4e-4 for early, late in itertools.pairwise(errors))
    assert errors[-1] < errors[0]


def test_weights_of_dead_inputs_go_first_and_harm_nobody() -> None:
    weight, moments = layer(10, 32, seed=8)
    dead = np.array([0, 1, 6, 9, 10, 11, 16, 17, 18, 19])
    moments[dead] = moments[:, dead] = 0
    pruned = sparsegpt(weight, moments, NM())
    assert not violations(pruned, NM(), axis=1).size
    # two dead of four: exactly they go; a third has to stay, and the live one stays with it
    assert not pruned[:, [0, 1]].any()
    assert pruned[:, 8].all()
    stays = pruned[:, 9:12]
    assert np.array_equal(np.count_nonzero(stays, axis=1), np.ones(10))
    np.testing.assert_array_equal(stays[stays != 0], weight[:, 9:12][stays != 0])
    # four dead of four: by magnitude, unchanged
    np.testing.assert_array_equal(pruned[:, 16:20], by_magnitude(weight[:, 16:20], NM()))


@pytest.mark.parametrize("text", PATTERNS)
def test_moments_of_nothing_leave_the_largest_magnitudes(text: str) -> None:
    pattern = NM.parse(text)
    weight, _ = layer(6, 32, seed=9)
    pruned = sparsegpt(weight, np.zeros((32, 32)), pattern)
    np.testing.assert_array_equal(pruned, by_magnitude(weight, pattern))


def test_zero_rows_stay_zero_and_no_rows_stay_none() -> None:
    weight, moments = layer(4, 16, seed=10)
    weight[2] = 0
    pruned = sparsegpt(weight, moments, NM())
    assert not pruned[2].any()
    assert pruned[[0, 1, 3]].any(axis=1).all()
    assert sparsegpt(weight[:0], moments, NM()).shape == (0, 16)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_the_unit_of_the_inputs_changes_nothing(scale: float) -> None:
    weight, moments = layer(8, 16, seed=11)
    pruned = sparsegpt(weight, (moments * scale).astype(np.float32), NM())
    np.testing.assert_allclose(
        pruned, sparsegpt(weight, moments.astype(np.float32), NM()), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("exponent", [-90, 90])
def test_the_unit_of_the_weight_changes_nothing(exponent: int) -> None:
    weight, moments = layer(8, 16)
    pruned = sparsegpt(weight, moments, NM.parse("2:4"))
    again = sparsegpt(np.ldexp(weight, exponent), moments, NM.parse("2:4"))
    np.testing.assert_array_equal(np.ldexp(again, -exponent), pruned)


def test_moments_that_rounding_made_indefinite_are_damped_until_they_are_not() -> None:
    weight, moments = layer(8, 16, samples=4, seed=12)
    moments -= 0.2 * moments.diagonal().mean() * np.eye(16)
    np.fill_diagonal(moments, np.maximum(moments.diagonal(), 0))
    assert np.linalg.eigvalsh(damped(moments, 0.01))[0] < 0
    pruned = sparsegpt(weight, moments, NM(), damping=0.01)
    assert np.isfinite(pruned).all()
    assert not violations(pruned, NM(), axis=1).size


def test_arrays_that_do_not_fit_are_refused() -> None:
    weight, moments = layer(4, 16)
    with pytest.raises(PreconditionError, match=r"\(8, 8\) do not fit a weight \(4, 16\)"):
        sparsegpt(weight, moments[:8, :8], NM())
    with pytest.raises(PreconditionError, match="multiple of 8"):
        sparsegpt(weight[:, :12], moments[:12, :12], NM.parse("4:8-pairs"))
    moments[0, 0] = np.inf
    with pytest.raises(DataError, match="of the second moments of the inputs is finite"):
        sparsegpt(weight, moments, NM())
    weight[0, 0] = np.nan
    with pytest.raises(DataError, match="not every value of the weight is finite"):
        sparsegpt(weight, np.eye(16), NM())


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, Array, NM]:
    """Inputs few or many, dead or alive, of scales that differ by eight digits."""
    pattern = NM.parse(draw(st.sampled_from(PATTERNS)))
    columns = draw(st.integers(1, 5)) * pattern.span
    rows, samples = draw(st.integers(0, 5)), draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    inputs = rng.standard_normal((samples, columns)) * 10.0 ** rng.integers(-4, 5, columns)
    inputs[:, rng.random(columns) < draw(st.floats(0, 1))] = 0
    weight = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-4, 5, (rows, 1))
    return weight, (inputs.T @ inputs).astype(np.float32), pattern


@settings(max_examples=80, deadline=None)
@given(case=cases(), block=st.integers(1, 40), steps=st.integers(0, 12))
def test_whatever_comes_the_pattern_holds_and_steps_only_help(
    case: tuple[Array, Array, NM], block: int, steps: int
) -> None:
    weight, moments, pattern = case
    plain = sparsegpt(weight, moments, pattern, block=block, refine=0)
    better = sparsegpt(weight, moments, pattern, block=block, refine=steps)
    assert np.isfinite(better).all()
    assert not violations(better, pattern, axis=1).size
    hessian = damped(moments, 1e-4)
    before = relative_output_error(weight, plain, hessian)
    assert relative_output_error(weight, better, hessian) <= before + 1e-3

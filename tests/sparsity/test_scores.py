from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from gpusq_compiler.errors import OptionError, PreconditionError
from gpusq_compiler.passes.registry import component_names, find_component
from gpusq_compiler.sparsity.nm import NM, mask_of, violations
from gpusq_compiler.sparsity.scores import (
    Evidence,
    Magnitude,
    Score,
    SparseGpt,
    Taylor,
    Wanda,
    relative_output_error,
)
from gpusq_compiler.sparsity.sparsegpt import sparsegpt

Array = npt.NDArray[Any]


def layer(rows: int = 6, columns: int = 16) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((64, columns)) * rng.uniform(0.1, 3, columns)
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    return weight, inputs, inputs.T @ inputs


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("magnitude", Evidence.NOTHING),
        ("wanda", Evidence.INPUTS),
        ("sparsegpt", Evidence.INPUTS),
        ("taylor", Evidence.GRADIENTS),
    ],
)
def test_scores_are_found_by_name_and_say_what_they_need(name: str, needs: Evidence) -> None:
    assert name in component_names("score")
    found = find_component("score", name)
    assert issubclass(found, Score)
    assert found.name == name
    assert found.needs is needs


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_magnitude_takes_any_rank_and_prunes_rows(dtype: Any) -> None:
    weight = np.random.default_rng(1).standard_normal((3, 8, 2, 2)).astype(dtype)
    np.testing.assert_array_equal(
        Magnitude().importance(weight), np.abs(weight.astype(np.float32))
    )
    rows = weight.reshape(-1, 8)
    pruned = Magnitude().prune(rows, NM())
    assert pruned.dtype == rows.dtype
    mask = mask_of(np.abs(rows), NM(), axis=1)
    np.testing.assert_array_equal(pruned, np.where(mask, rows, rows.dtype.type(0)))


def test_wanda_weighs_by_the_norm_of_the_input() -> None:
    weight, inputs, moments = layer()
    score = Wanda().importance(weight, moments)
    expected = np.empty(weight.shape)
    for i, j in np.ndindex(*weight.shape):
        expected[i, j] = abs(weight[i, j]) * np.sqrt(sum(x[j] ** 2 for x in inputs))
    # the common factor is free: only ranks count
    np.testing.assert_allclose(score / score[0, 0], expected / expected[0, 0], rtol=1e-5)
    pruned = Wanda().prune(weight, NM(), moments)
    np.testing.assert_array_equal(pruned, np.where(mask_of(expected, axis=1), weight, 0))
    assert not np.array_equal(pruned, Magnitude().prune(weight, NM()))


def test_taylor_is_the_weight_times_its_gradient_squared() -> None:
    weight, _, _ = layer()
    gradients = np.random.default_rng(2).standard_normal((10, *weight.shape))
    squares = np.square(gradients).mean(axis=0)
    score = Taylor().importance(weight, squares)
    expected = np.square(weight[None] * gradients).mean(axis=0)
    np.testing.assert_allclose(score / score[0, 0], expected / expected[0, 0], rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-60, 1e-30, 1e30])
def test_tiny_and_huge_gradients_still_rank(scale: float) -> None:
    weight, _, _ = layer()
    squares = np.random.default_rng(3).uniform(1, 2, weight.shape)
    np.testing.assert_array_equal(
        Taylor().prune(weight, NM(), squares * scale) != 0,
        Taylor().prune(weight, NM(), squares) != 0,
    )


@pytest.mark.parametrize("score", [Wanda(), SparseGpt(), Taylor()])
def test_evidence_of_nothing_leaves_magnitude(score: Score) -> None:
    weight, _, moments = layer()
    shape = weight.shape if score.needs is Evidence.GRADIENTS else moments.shape
    pruned = score.prune(weight, NM(), np.zeros(shape, np.float32))
    np.testing.assert_array_equal(pruned, Magnitude().prune(weight, NM()))


def test_sparsegpt_importance_is_the_error_of_pruning_one_weight_best() -> None:
    weight, _, moments = layer(3, 8)
    score = SparseGpt(damping=0.01).importance(weight, moments)
    scaled = moments / moments.diagonal().mean()
    hessian = scaled + 0.01 * np.eye(8)
    for i, j in np.ndindex(*weight.shape):
        others = np.arange(8) != j
        row = weight[i].astype(np.float64)
        target = hessian[others] @ row
        best = np.zeros(8)
        best[others] = np.linalg.solve(hessian[np.ix_(others, others)], target)
        lost = row - best
        assert score[i, j] == pytest.approx(lost @ hessian @ lost, rel=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_sparsegpt_prunes_in_the_weights_type(dtype: Any) -> None:
    weight, _, moments = layer()
    narrow = weight.astype(dtype)
    pruned = SparseGpt(damping=0.1, refine=3).prune(narrow, NM(), moments)
    assert pruned.dtype == narrow.dtype
    assert not violations(pruned, axis=1).size
    expected = sparsegpt(narrow, moments, NM(), damping=0.1, refine=3).astype(dtype)
    np.testing.assert_array_equal(pruned, expected)


@pytest.mark.parametrize(
    "options", [{"damping": -0.1}, {"damping": float("nan")}, {"refine": -1}]
)
def test_numbers_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        SparseGpt(**options)


@pytest.mark.parametrize("score", [Wanda(), SparseGpt(), Taylor()])
def test_evidence_that_is_missing_or_does_not_fit_is_refused(score: Score) -> None:
    weight, _, _ = layer()
    with pytest.raises(PreconditionError, match=f"{score.name}: needs the layer's"):
        score.importance(weight)
    with pytest.raises(PreconditionError, match="do not fit"):
        score.prune(weight, NM(), np.eye(3))


def test_a_third_party_writes_one_method() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Late(Score):
        name: ClassVar[str] = "late"

        def importance(self, weight: Array, evidence: Array | None = None) -> Array:
            assert evidence is None
            return np.broadcast_to(np.arange(weight.shape[-1], dtype=np.float32), weight.shape)

    pruned = Late().prune(np.ones((2, 8)), NM(1, 4))
    assert pruned.tolist() == [[0, 0, 0, 1, 0, 0, 0, 1]] * 2


def test_output_error_is_that_of_the_outputs() -> None:
    weight, inputs, moments = layer()
    pruned = Magnitude().prune(weight, NM())
    moved, whole = inputs @ (weight - pruned).T, inputs @ weight.T
    expected = np.sqrt(np.square(moved).sum() / np.square(whole).sum())
    assert relative_output_error(weight, pruned, moments) == pytest.approx(expected, rel=1e-5)
    assert relative_output_error(weight, weight, moments) == 0
    assert relative_output_error(weight, 0 * weight, moments) == 1


def test_output_error_of_a_silent_layer() -> None:
    weight, _, moments = layer()
    assert relative_output_error(weight, weight * 2, 0 * moments) == 0
    assert relative_output_error(0 * weight, weight, moments) == float("inf")

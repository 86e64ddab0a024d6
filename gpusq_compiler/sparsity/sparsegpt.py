"""SparseGPT: prune a layer by its inputs and let the kept weights make up for the pruned ones.

    min over legal V of  tr((W - V) H (W - V)ᵀ),    H = Σ x xᵀ + damping · mean(diag) · I

What is pruned is chosen, and what is left repaired, from the front to the back of the
reduction axis. With ``H⁻¹ = Uᵀ U``, U upper triangular, pruning weight j of a row costs
``(w_j / U_jj)²``, and the weights behind it answer best by ``w ← w - (w_j / U_jj) U_j``: the
step of Optimal Brain Surgeon (Hassibi and Stork 1992) on the inputs from j on, whose inverse
second moments are ``Uᵀ U`` of the rows and columns from j on (Frantar and Alistarh
2023, arXiv 2301.00774; the factor is that of GPTQ, arXiv 2210.17323). All rows walk together,
since they share H.

Two things are ours. Groups are walked from the most to the least active inputs, so that the
strongest are repaired by the most; GPTQ's code sorts single columns so for quantization. And
over the found mask the kept weights are refined at the end by conjugate gradients: in the walk
they answer only for what went before them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gpusq_compiler.errors import DataError, PreconditionError
from gpusq_compiler.sparsity.nm import NM, mask_of

Matrix = npt.NDArray[np.float32]

_UNSEEN = 1e-6
"""Share of the damping for an input that was always 0, whose weights cost next to nothing."""
_LEAST_DAMPING = 1e-6
"""Below it the factor of singular moments no longer fits float32."""
_USUAL = 32
"""Exponents of 2 up to which products of a few weights and their sums fit float32."""
_RIDGE = 1e-4
"""Damping of the refinement: least squares on few inputs would have unbounded answers."""


def sparsegpt(
    weight: npt.NDArray[Any],
    moments: npt.NDArray[Any],
    pattern: NM,
    *,
    damping: float = 0.01,
    block: int = 128,
    refine: int = 10,
    by_activity: bool = True,
) -> Matrix:
    """The weight pruned to the pattern along its rows, the kept values adapted to the inputs.

    Weights of inputs that were always 0 go first and keep their value where the pattern has
    room for them. Moments that are all 0 say nothing: the largest magnitudes stay as they are.

    Args:
        weight: ``[rows, K]``, one row an output.
        moments: ``[K, K]``, the sum of ``x xᵀ`` over the inputs x; may be singular.
        pattern: How many of how many.
        damping: Share of the mean diagonal added to the diagonal for the walk; see
            `inverse_factor`.
        block: Columns whose errors are gathered before they reach the columns behind; changes
            the time and not the result.
        refine: Conjugate-gradient steps on the kept weights; see `refined`.
        by_activity: Walk the groups by falling sum of their inputs' squares, else in order.

    Raises:
        PreconditionError: K is no multiple of the pattern's span, or the shapes differ.
        DataError: Weight or moments hold values that are not finite.
    """
    weight = np.asarray(weight, dtype=np.float32)
    check_moments(weight, moments)
    if not moments.diagonal().any():
        return np.where(mask_of(np.abs(weight), pattern, axis=1), weight, np.float32(0))
    weight, exponent = _by_largest(weight)
    scaled = by_mean(moments)
    order = _order(moments.diagonal(), pattern, by_activity)
    factor = inverse_factor(scaled[np.ix_(order, order)], damping)
    walked, kept = np.empty_like(weight), np.empty(weight.shape, dtype=np.bool_)
    walked[:, order], kept[:, order] = _walk(weight[:, order], factor, pattern, block)
    pruned = refined(weight, walked, kept, scaled, steps=refine) if refine else walked
    return np.ldexp(pruned, exponent) if exponent else pruned


def _by_largest(weight: Matrix) -> tuple[Matrix, int]:
    """The weight over a power of two, exactly, where float32 does not hold its squares."""
    exponent = int(np.frexp(np.abs(weight).max(initial=0))[1])
    if abs(exponent) < _USUAL:
        return weight, 0
    return np.ldexp(weight, -exponent), exponent


def check_moments(weight: npt.NDArray[Any], moments: npt.NDArray[Any]) -> None:
    """Refuse second moments that do not belong to the weight, or that overflowed.

    Raises:
        PreconditionError: The shapes are not ``[rows, K]`` and ``[K, K]``.
        DataError: Weight or moments hold values that are not finite.
    """
    if weight.ndim != 2 or moments.shape != (weight.shape[1],) * 2:
        raise PreconditionError(
            f"second moments {moments.shape} do not fit a weight {weight.shape}"
        )
    for name, values in (("weight", weight), ("second moments of the inputs", moments)):
        if not np.isfinite(values).all():
            raise DataError(f"not every value of the {name} is finite")


def by_mean(moments: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The moments over the mean of their diagonal, so that their scale matters nowhere."""
    return moments / (moments.diagonal().mean(dtype=np.float64) or 1.0)


def inverse_factor(moments: npt.NDArray[Any], damping: float) -> Matrix:
    """Upper triangular U with ``Uᵀ U = (moments + damping · I)⁻¹``, ``[K, K]``.

    The reversed matrix has a lower Cholesky factor; inverted and reversed again it is U, so
    that one factorisation serves and the inverse itself is never formed. In float64.

    Args:
        moments: With a mean diagonal of 1, as `by_mean` makes them.
        damping: At least 1e-6 of it is used; ten times as much whenever that is too little.
    """
    from scipy.linalg import lapack

    share = np.where(moments.diagonal() > 0, 1.0, _UNSEEN)[::-1]
    damping = max(damping, _LEAST_DAMPING)
    while True:
        damped = np.array(moments[::-1, ::-1], dtype=np.float64, order="F")
        damped[np.diag_indices_from(damped)] += damping * share
        lower, failed = lapack.dpotrf(damped, lower=1, clean=1, overwrite_a=1)
        if not failed:
            inverse, _ = lapack.dtrtri(lower, lower=1, overwrite_c=1)
            return np.ascontiguousarray(inverse[::-1, ::-1], dtype=np.float32)
        damping *= 10


def refined(
    weight: Matrix,
    pruned: Matrix,
    kept: npt.NDArray[np.bool_],
    moments: npt.NDArray[Any],
    *,
    steps: int,
) -> Matrix:
    """The pruned weight nearer to the least-squares one of its mask, all arrays as above.

    Conjugate gradients on ``V H = W H`` at the kept positions, every row with its own step
    lengths, preconditioned by the diagonal. H is the moments, with a mean diagonal of 1, plus
    1e-4 on the diagonal, and ``(w - v) H (w - v)ᵀ`` of every row falls with every step. That
    is less damping than in the walk; stopping early is what keeps few samples from being
    learned by heart. A row that rounding drove off stays as it was.
    """
    hessian: Matrix = moments.astype(np.float32)
    hessian[np.diag_indices_from(hessian)] += np.float32(_RIDGE)
    scale = kept.astype(np.float32) / hessian.diagonal()
    values = pruned.copy()
    residual = (weight - pruned) @ hessian
    error = _dots(weight - pruned, residual)
    direction = residual * scale
    energy = _dots(residual, direction)
    for _ in range(steps):
        image = direction @ hessian
        length = _ratio(energy, _dots(direction, image))
        values += length * direction
        residual -= length * image
        step = residual * scale
        energy, before = _dots(residual, step), energy
        direction *= _ratio(energy, before)
        direction += step
    return np.where(_dots(weight - values, residual) <= error, values, pruned)


def _order(diagonal: npt.NDArray[Any], pattern: NM, by_activity: bool) -> npt.NDArray[np.intp]:
    """Columns in the order of the walk, whole groups together, ``[K]``."""
    if not pattern.fits(len(diagonal)):
        raise PreconditionError(
            f"{pattern} sparsity needs a multiple of {pattern.span} columns, "
            f"not {len(diagonal)}"
        )
    columns = np.arange(len(diagonal)).reshape(-1, pattern.span)
    activity = diagonal.reshape(-1, pattern.span).sum(axis=1)
    return (columns[np.argsort(-activity, kind="stable")] if by_activity else columns).ravel()


def _walk(
    weight: Matrix, factor: Matrix, pattern: NM, block: int
) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    """Pruned values and mask, ``[rows, K]`` both, columns and factor in the walk's order.

    ``errors[j]`` is ``w_j / U_jj`` of the rows that lose weight j, else 0. A column is brought
    up to date only when its block and then its group are reached: ``w_j -= Σ_i<j U_ij e_i``.
    """
    columns = np.array(weight.T, order="C")
    kept = np.empty(columns.shape, dtype=np.bool_)
    errors = np.empty_like(columns)
    span = pattern.span
    block = max(block // span, 1) * span
    for start in range(0, len(columns), block):
        end = min(start + block, len(columns))
        columns[start:end] -= factor[:start, start:end].T @ errors[:start]
        for first in range(start, end, span):
            group = slice(first, first + span)
            columns[group] -= factor[start:first, group].T @ errors[start:first]
            own = factor[group, group]
            saliency = np.square(columns[group] / own.diagonal()[:, None])
            kept[group] = mask_of(saliency, pattern, axis=0)
            errors[group] = _repair(columns[group], kept[group], own)
    return columns.T, kept.T


def _repair(columns: Matrix, kept: npt.NDArray[np.bool_], factor: Matrix) -> Matrix:
    """The errors of a group, whose columns lose what is not kept and answer in place."""
    errors = np.where(kept, np.float32(0), columns)
    for j, (row, pivot) in enumerate(zip(factor, factor.diagonal(), strict=True)):
        np.divide(columns[j], pivot, out=errors[j])
        errors[j] *= ~kept[j]
        columns[j + 1 :] -= row[j + 1 :, None] * errors[j]
    columns *= kept
    return errors


def _dots(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> Matrix:
    """The scalar product of every pair of rows, ``[rows, 1]``."""
    dots: Matrix = np.einsum("rk,rk->r", left, right)
    return dots[:, None]


def _ratio(numerator: Matrix, denominator: Matrix) -> Matrix:
    """The quotient, 0 where a row has converged."""
    zero = np.zeros_like(numerator)
    return np.divide(numerator, denominator, out=zero, where=denominator > 0)

"""Second moments of what layers are fed: ``M = Σ x xᵀ`` over a part of the samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpusq_compiler.calibration.matrices import input_rows
from gpusq_compiler.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.ir.query import WeightUse
    from gpusq_compiler.runtime.samples import Array

ROWS_PER_COLUMN = 8
FEWEST_ROWS = 16384
"""Inputs that are looked at: enough for a well-conditioned matrix, however large the data."""
HIGHEST = 1e15
"""Squares of larger inputs, added up, leave float32."""


def second_moments(
    use: WeightUse, batches: Sequence[Array], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """The uncentred second moments of a layer's input vectors, [groups, K, K].

    Args:
        use: The layer.
        batches: Its activation on every batch.
        rng: Draws the positions that are looked at, where there are many.

    Raises:
        DataError: The activation is not finite, or too large.
    """
    from scipy.linalg.blas import ssyrk

    length = _columns(use)
    most = max(FEWEST_ROWS, ROWS_PER_COLUMN * length) // len(batches) + 1
    moments = np.zeros((use.groups, length, length), np.float32)
    for batch in batches:
        if not (np.abs(batch) < HIGHEST).all():
            raise DataError(
                f"is not finite, or above {HIGHEST:.0e}, on some samples",
                where=f"tensor '{use.activation.name if use.activation else ''}'",
                remedy="Look for extreme values in the data, or exclude the layer",
            )
        for group, rows in enumerate(input_rows(use, batch, most, rng)):
            # rows.T is in Fortran order, so that nothing is copied on the way to BLAS
            moments[group] += ssyrk(1.0, rows.T)
    upper: npt.NDArray[np.float32] = np.triu(moments, 1)
    moments = np.triu(moments)
    moments += upper.transpose(0, 2, 1)
    return moments


def _columns(use: WeightUse) -> int:
    shape = use.shape
    if use.node.op_type == "Conv":
        return int(np.prod(shape[1:]))
    return use.reduction_length

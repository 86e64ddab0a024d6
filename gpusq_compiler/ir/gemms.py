"""Layers as the matrix products that they are: how many rows, columns and terms.

    MatMul           [M, K] x [K, N]
    Conv             a row for every output position, K = input channels x taps
    ConvTranspose    a row for every input position, N = output channels x taps

Of a grouped convolution, or a batch of matrices as weight, these are one of several equal
products.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from gpusq_compiler.ir import query

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    Shapes = Mapping[str, Sequence[int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemm:
    """A product ``[m, k] x [k, n]``, ``groups`` times.

    Attributes:
        m: Rows: what the weight is used for; None where shapes do not tell.
        n: Columns: output channels.
        k: Terms of a sum.
        groups: Equal products side by side.
    """

    m: int | None
    n: int
    k: int
    groups: int = 1

    @property
    def operations(self) -> int | None:
        """Multiply-adds; None where the rows are not known."""
        return None if self.m is None else self.m * self.n * self.k * self.groups

    def __str__(self) -> str:
        one = f"{'?' if self.m is None else self.m}x{self.n}x{self.k}"
        return one if self.groups == 1 else f"{self.groups} x {one}"


def gemm_of(use: query.WeightUse, shapes: Shapes, batch: int = 1) -> Gemm:
    """The product of a layer.

    Args:
        use: The layer.
        shapes: Of tensors, by name; see `tensors_of`.
        batch: How many samples they are for; rows are those of one.
    """
    shape, taps = use.shape, math.prod(use.shape[2:])
    if use.node.op_type == "ConvTranspose":
        columns, terms, groups, width = shape[1] * taps, use.reduction_length, use.groups, 0
    elif use.node.op_type == "Conv":
        columns, terms = shape[0] // use.groups, use.reduction_length * taps
        groups, width = use.groups, shape[0]
    else:
        columns, terms = shape[use.channel], use.reduction_length
        groups = math.prod(shape[:-2])
        width = columns * groups
    known = shapes.get(_row_tensor(use))
    if known is None or not all(shape):
        return Gemm(m=None, n=columns, k=terms, groups=groups)
    rows = math.prod(known) // (width or known[1])
    return Gemm(m=max(1, rows // batch), n=columns, k=terms, groups=groups)


def tensors_of(uses: Sequence[query.WeightUse]) -> list[str]:
    """The tensors whose shapes tell the rows of these layers."""
    return list(dict.fromkeys(_row_tensor(use) for use in uses))


def _row_tensor(use: query.WeightUse) -> str:
    counted = use.activation if use.node.op_type == "ConvTranspose" else use.node.outputs[0]
    return "" if counted is None else counted.name or ""


def operations(model: ir.Model, shapes: Shapes, batch: int = 1) -> int:
    """Multiply-adds per sample of all weighted layers whose rows are known.

    Args:
        model: Left as it is.
        shapes: Of tensors, by name.
        batch: How many samples they are for.
    """
    found = (gemm_of(use, shapes, batch).operations for use in query.weight_uses(model))
    return sum(filter(None, found))

"""A tiny text encoder and padded texts for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.calibration.batches import from_arrays
from gpusq_compiler.runtime.session import input_specs
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array, Samples

LENGTHS = (3, 9, 5, 4, 7, 4, 12, 6, 3, 10, 5, 8)
WIDEST = 12

POOLED = "spread = Unsqueeze(real, last)  own = Mul(hidden, spread)"
EVERYTHING = "spread = Unsqueeze(real, last)  own = Identity(hidden)"


def encoder(
    *, length: str = "L", body: str = POOLED, name: str = "attention_mask"
) -> ir.Model:
    """Embedding, two linear layers, and the mean over the positions that hold a token."""
    return tiny.model_of(
        f"""
encoder (int64[N, {length}] input_ids, int64[N, {length}] {name})
    => (float[N, P, 8] hidden, float[N, 8] pooled)
    <float[11, 8] table, float[8, 16] w1, float[16, 8] w2,
     int64[1] last = {{-1}}, int64[1] along = {{1}}> {{
    embedded = Gather(table, input_ids)
    a = MatMul(embedded, w1)
    b = Relu(a)
    hidden = MatMul(b, w2)
    real = Cast<to = 1>({name})
    {body}
    sums = ReduceSum<keepdims = 0>(own, along)
    count = ReduceSum<keepdims = 1>(real, along)
    pooled = Div(sums, count)
}}"""
    )


def arrays(
    lengths: Sequence[int] = LENGTHS, *, mask: str = "attention_mask"
) -> dict[str, Array]:
    """Random tokens up to each text's end, zeros behind it."""
    real = (np.arange(WIDEST) < np.array(lengths)[:, None]).astype(np.int64)
    tokens = np.random.default_rng(0).integers(1, 11, real.shape)
    return {"input_ids": tokens * real, mask: real}


def texts(model: ir.Model, folder: Path, given: dict[str, Array] | None = None) -> Samples:
    """Checked samples of the encoder."""
    return from_arrays(given or arrays(), input_specs(model), workdir=folder)

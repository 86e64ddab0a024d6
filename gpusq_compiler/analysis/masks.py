"""Places that a mask takes out of attention: they say nothing of a model.

q k ──▶ scores ──▶ Add ──▶ Softmax      there the mask is -1e4, -1e9 or the lowest number of
            mask ───┘                   its type, and drowns all scores
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.ir import query

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array

MASKED = -1000.0
"""A Softmax makes 0 of it, unless everything beside it is as low: scores are not."""
BETWEEN = (
    *query.LAYOUT,
    *query.QUANTIZERS,
    *("Add", "Clip", "Concat", "Div", "Expand", "Max", "Min", "Mul", "Slice", "Sub", "Where"),
)
"""What stands between a mask, or a product of q and k, and the Softmax."""


def scores(model: ir.Model) -> frozenset[str]:
    """Tensors of the main graph that a Softmax makes weights of, and the masks in them."""
    found: set[ir.Value] = set()
    pending = [node.inputs[0] for node in model.graph if query.is_op(node, "Softmax")]
    while pending:
        value = pending.pop()
        if value is None or value in found:
            continue
        found.add(value)
        producer = value.producer()
        if producer is not None and query.is_op(producer, *BETWEEN):
            pending.extend(producer.inputs)
    return frozenset(value.name or "" for value in found)


def but_masked(values: Array, reference: Array) -> tuple[Array, Array]:
    """The places that at least one side does not mask; how far a mask is down says nothing."""
    told = (values > MASKED) | (reference > MASKED) | np.isnan(values) | np.isnan(reference)
    return np.maximum(values[told], MASKED), np.maximum(reference[told], MASKED)

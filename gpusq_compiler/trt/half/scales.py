"""Scales of quantizers in half precision: which survive it, and what they become.

A scale may move by 2^-8 of itself: at the largest code that is half a step, no more than
rounding to codes costs already. float16 holds scales down to 2^-17 that well. The scale of a
channel whose codes are all 0 says nothing and becomes the smallest number of the type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import query
from gpusq_compiler.trt.legality.constants import is_blocked, is_per_channel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.runtime.samples import Array

MOST_MOVED = 2.0**-8
SMALLEST = {ir.DataType.FLOAT16: 2.0**-24, ir.DataType.BFLOAT16: 2.0**-126}


def scales_of(graph: ir.Graph) -> dict[ir.Value, list[ir.Node]]:
    """Constant float32 scales and the quantizers of the graph that read them."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        scale = node.inputs[1] if query.is_op(node, *query.QUANTIZERS) else None
        tensor = None if scale is None else scale.const_value
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT:
            assert scale is not None
            found.setdefault(scale, []).append(node)
    return found


def misfits(graph: ir.Graph, kind: ir.DataType) -> Iterator[tuple[ir.Node, float]]:
    """Quantizers whose scale half precision does not hold, with that scale."""
    for scale, nodes in scales_of(graph).items():
        assert scale.const_value is not None
        steps = scale.const_value.numpy()
        moved = np.abs(rounded(steps, kind) - steps) > MOST_MOVED * steps
        bad = moved & ~np.logical_and.reduce([_unused(node, steps) for node in nodes])
        if np.any(bad):
            yield from ((node, float(steps[bad].min())) for node in nodes)


def rounded(scale: Array, kind: ir.DataType) -> Array:
    """The nearest positive numbers of a type, as float32."""
    with np.errstate(over="ignore"):
        half = scale.astype(kind.numpy()).astype(np.float32)
    positive: Array = np.maximum(half, np.float32(SMALLEST[kind]))
    return positive


def _unused(node: ir.Node, steps: Array) -> Array:
    """For each scale, whether it belongs to constant codes that are all 0."""
    codes = node.inputs[0]
    if codes is None or codes.const_value is None or is_blocked(node):
        return np.zeros(steps.shape, bool)
    array = codes.const_value.numpy() != 0
    if not is_per_channel(node):
        return np.full(steps.shape, not array.any())
    axis = query.int_attribute(node, "axis", 1) % array.ndim
    others = tuple(i for i in range(array.ndim) if i != axis)
    unused: Array = ~array.any(axis=others)
    return unused

"""From asymmetric or unsigned quantizers to symmetric int8 ones.

codes in [low, high], zero point z, scale s   →   codes in [-127, 127], zero point 0,
x in [(low - z) s, (high - z) s]                  scale max |x| / 127

Codes that fit into int8 once the zero point is taken off, as with uint8 and 128, keep their
scale, and every number stays what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import query
from gpusq_compiler.quant.arithmetic import along
from gpusq_compiler.quant.placement.topology import commutes
from gpusq_compiler.trt.legality.constants import (
    code_type,
    is_fixed,
    is_per_channel,
    known,
    zero_point,
)

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

HIGH = 127
EIGHT_BITS = (ir.DataType.INT8, ir.DataType.UINT8)
NOT_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus")


def is_asymmetric(node: ir.Node) -> bool:
    """Whether a quantizer has 8-bit codes that are unsigned or have a zero point."""
    kind, zero = code_type(node), zero_point(node)
    zeros = known(zero)
    if kind not in EIGHT_BITS or (zero is not None and zeros is None):
        return False
    return kind == ir.DataType.UINT8 or (zeros is not None and bool(np.any(zeros)))


def zeros_of(node: ir.Node) -> Array:
    """The zero point, which is 0 where it is left out."""
    zeros = known(zero_point(node))
    return np.zeros((), np.int32) if zeros is None else zeros.astype(np.int32)


def ends_of(node: ir.Node) -> tuple[Array, Array]:
    """First and last code of a quantizer, counted from its zero point."""
    codes = np.iinfo(np.uint8 if code_type(node) == ir.DataType.UINT8 else np.int8)
    return codes.min - zeros_of(node), codes.max - zeros_of(node)


def growth(node: ir.Node) -> Array:
    """By what the scale grows when the range becomes symmetric and holds the old one."""
    low, high = ends_of(node)
    farthest = np.maximum(np.abs(low), np.abs(high)) / np.float32(HIGH)
    fits = (low == -HIGH - 1) & (high == HIGH)
    grown: Array = np.where(fits, np.float32(1), farthest)
    return grown


def requantized(node: ir.Node, codes: Array, scale: Array) -> tuple[Array, Array]:
    """Symmetric codes of a constant and their scale: the same numbers where they fit."""
    axis = channel_axis(node, codes.ndim)
    moved = codes.astype(np.int32) - along(zeros_of(node), codes.ndim, axis).astype(np.int32)
    if moved.min(initial=0) >= -HIGH - 1 and moved.max(initial=0) <= HIGH:
        return moved.astype(np.int8), scale
    others = tuple(i for i in range(codes.ndim) if i != axis)
    largest = np.abs(moved).max(axis=others, initial=HIGH).reshape(scale.shape)
    ratio = np.asarray(largest / np.float32(HIGH), np.float32)
    fresh = np.rint(moved / along(ratio, codes.ndim, axis))
    return fresh.astype(np.int8), np.asarray(scale * ratio, scale.dtype)


def decoded(node: ir.Node, codes: Array, scale: Array) -> Array:
    """The numbers that DequantizeLinear makes of constant codes, in the type of its scale."""
    axis = channel_axis(node, codes.ndim)
    shift = along(zeros_of(node), codes.ndim, axis).astype(np.int64)
    values: Array = (codes.astype(np.int64) - shift) * along(scale, codes.ndim, axis)
    return values.astype(scale.dtype)


def channel_axis(node: ir.Node, rank: int) -> int | None:
    """The axis of a quantizer's scales; None with one for all."""
    return query.int_attribute(node, "axis", 1) % rank if is_per_channel(node) else None


def never_negative(value: ir.Value | None) -> bool:
    """Whether nothing negative can be in a value."""
    while value is not None:
        if is_fixed(value):
            array = known(value)
            return array is not None and bool(np.all(array >= 0))
        producer = value.producer()
        if producer is None or query.is_op(producer, *NOT_NEGATIVE):
            return producer is not None
        if not commutes(producer):
            return False
        value = producer.inputs[0]
    return False

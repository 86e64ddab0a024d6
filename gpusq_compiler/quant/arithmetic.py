"""Symmetric quantization in numpy: the reference that ONNX's Q and DQ are held against.

code  = clip(round_half_even(x / scale), low, high)
value = code * scale
scale = absmax / high
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gpusq_compiler.quant.scheme import QuantScheme

Float32 = npt.NDArray[np.float32]

SMALLEST_SCALE = 2.0**-40
"""Scale of what is always zero: its inverse square, which the gradient of a division by the
scale contains, is still far from the ends of float32."""

_CODES: dict[str, np.dtype[Any]] = {
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int4": np.dtype(ml_dtypes.int4),
}


def quantize(
    x: npt.NDArray[Any], scale: npt.NDArray[Any], scheme: QuantScheme
) -> npt.NDArray[Any]:
    """Integer codes of ``x``, in the scheme's own type.

    Args:
        x: Float values of any shape.
        scale: One scale, or ``[channels]`` where the scheme has an axis.
        scheme: Range and channel axis.
    """
    with np.errstate(over="ignore"):  # a tiny scale saturates, as it does in ONNX
        codes = np.rint(x.astype(np.float32) / along(scale, x.ndim, scheme.axis))
    clipped: npt.NDArray[Any] = np.clip(codes, scheme.low, scheme.high)
    return (clipped + scheme.zero).astype(np.int16).astype(_CODES[scheme.dtype])


def dequantize(
    codes: npt.NDArray[Any], scale: npt.NDArray[Any], scheme: QuantScheme
) -> Float32:
    """Float values of integer codes; arguments as for `quantize`."""
    centred = codes.astype(np.float32) - np.float32(scheme.zero)
    values: Float32 = centred * along(scale, codes.ndim, scheme.axis)
    return values


def scale_of(absmax: float | npt.NDArray[Any], scheme: QuantScheme) -> Float32:
    """The scale at which ``absmax`` gets the largest code; never zero."""
    scale = np.asarray(absmax, dtype=np.float32) / np.float32(scheme.high)
    result: Float32 = np.maximum(scale, np.float32(SMALLEST_SCALE), dtype=np.float32)
    return result


def weight_scales(weight: npt.NDArray[Any], scheme: QuantScheme) -> Float32:
    """Min-max scales of a weight: ``[channels]``, or one of rank 0 without a channel axis."""
    axes = None
    if scheme.axis is not None:
        kept = scheme.axis % weight.ndim
        axes = tuple(axis for axis in range(weight.ndim) if axis != kept)
    magnitude = np.abs(weight.astype(np.float32))
    return scale_of(magnitude.max(axis=axes, initial=0.0), scheme)


def along(scale: npt.NDArray[Any], rank: int, axis: int | None) -> Float32:
    """The scale shaped so that it broadcasts against values of this rank."""
    values = np.asarray(scale, dtype=np.float32)
    if axis is None or values.ndim == 0:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)

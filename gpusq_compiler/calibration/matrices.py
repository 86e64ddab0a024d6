"""A weighted layer as matrix products: what it multiplies, seen along its reduction axis.

    y = W x        W [groups, rows, K],  x [groups, n, K]

A convolution is the product with its patches, columns in the order (kernel position, input
channel), so that consecutive columns are the ones that a sparsity pattern groups. A transposed
convolution multiplies the channels of every input position with all its kernel positions; that
outputs overlap is left out of account.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from gpusq_compiler.ir import query

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from gpusq_compiler.ir.query import WeightUse
    from gpusq_compiler.runtime.samples import Array

Matrices: TypeAlias = npt.NDArray[np.float32]


def weight_matrices(use: WeightUse, weight: Array) -> Matrices:
    """The weight as [groups, rows, K].

    Args:
        use: The layer; its weight stands in the file as the layer reads it.
        weight: In the shape of the file; a copy is made.
    """
    moved: Matrices = np.moveaxis(weight.astype(np.float32), use.reduction, -1)
    if use.node.op_type == "Conv":
        return np.array(moved.reshape(use.groups, weight.shape[0] // use.groups, -1))
    if use.node.op_type == "ConvTranspose":
        moved = np.moveaxis(moved.reshape(*moved.shape[:-1], use.groups, -1), -2, 0)
    return np.array(moved.reshape(use.groups, -1, moved.shape[-1]))


def weight_from(use: WeightUse, matrices: Array, shape: Sequence[int]) -> Array:
    """What `weight_matrices` was given, from its result.

    Args:
        use: The same layer.
        matrices: [groups, rows, K].
        shape: Of the weight in the file.
    """
    if use.node.op_type == "Conv":
        return np.moveaxis(matrices.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
    rest = [size for axis, size in enumerate(shape) if axis != use.reduction]
    if use.node.op_type == "ConvTranspose":
        split = np.moveaxis(matrices.reshape(use.groups, *rest, -1), 0, -2)
        return np.moveaxis(split.reshape(*rest, shape[use.reduction]), -1, use.reduction)
    return np.moveaxis(matrices.reshape(*rest, shape[use.reduction]), -1, use.reduction)


def input_rows(
    use: WeightUse, activation: Array, most: int, rng: np.random.Generator
) -> Matrices:
    """What the weight is multiplied with, as [groups, n, K], n at most ``most``.

    Args:
        use: The layer.
        activation: One batch of its other operand, in the node's layout.
        most: Rows to draw at random where there are more.
        rng: Draws them.
    """
    if use.node.op_type == "Conv":
        return _patches(use, activation, most, rng)
    if use.node.op_type == "ConvTranspose":
        rows = np.moveaxis(activation, 1, -1).reshape(-1, activation.shape[1])
    else:
        rows = _vectors(use, activation)
    drawn = rows[_drawn(len(rows), most, rng)].astype(np.float32)
    split = drawn.reshape(len(drawn), use.groups, -1)
    return np.ascontiguousarray(split.transpose(1, 0, 2))


def _vectors(use: WeightUse, activation: Array) -> Array:
    """The activation of MatMul or Gemm with the reduction axis last, as [n, K]."""
    axis = -1 if use.operand == 1 else -2
    name = "transA" if use.operand == 1 else "transB"
    if use.node.op_type == "Gemm" and query.int_attribute(use.node, name, 0):
        axis = -3 - axis
    if activation.ndim == 1:
        return activation.reshape(1, -1)
    return np.moveaxis(activation, axis, -1).reshape(-1, activation.shape[axis])


def _drawn(count: int, most: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    if count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))


def _patches(use: WeightUse, x: Array, most: int, rng: np.random.Generator) -> Matrices:
    kernel = use.shape[2:]
    rank = len(kernel)
    strides = _attribute(use.node, "strides", (1,) * rank)
    dilations = _attribute(use.node, "dilations", (1,) * rank)
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *_pads(use.node, x.shape[2:], spans, strides)])
    axes = tuple(range(2, 2 + rank))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    places = tuple(slice(None, None, step) for step in strides)
    taps = tuple(slice(None, None, step) for step in dilations)
    cut = (slice(None), slice(None), *places, *taps)
    view = np.moveaxis(windows[cut], 1, -1)
    starts = view.shape[: 1 + rank]
    chosen = np.unravel_index(_drawn(math.prod(starts), most, rng), starts)
    patches = view[chosen].astype(np.float32)
    split = patches.reshape(*patches.shape[:-1], use.groups, -1)
    return np.moveaxis(split, -2, 0).reshape(use.groups, len(patches), -1)


def _attribute(node: ir.Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    attribute = node.attributes.get(name)
    return tuple(default if attribute is None else attribute.as_ints())


def _pads(
    node: ir.Node, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Padding before and after each spatial axis, ``auto_pad`` worked out."""
    attribute = node.attributes.get("auto_pad")
    automatic = "NOTSET" if attribute is None else attribute.as_string()
    if automatic in {"SAME_UPPER", "SAME_LOWER"}:
        totals = [
            max(0, (math.ceil(size / step) - 1) * step + span - size)
            for size, span, step in zip(sizes, spans, strides, strict=True)
        ]
        halves = [(total // 2, total - total // 2) for total in totals]
        return [h[::-1] for h in halves] if automatic == "SAME_LOWER" else halves
    rank = len(sizes)
    pads = (0,) * (2 * rank)
    if automatic == "NOTSET":
        pads = _attribute(node, "pads", pads)
    return list(zip(pads[:rank], pads[rank:], strict=True))

"""Transformer blocks, drawn as exporters write them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from layers import Sketch, layer_norm, linear, reshape

if TYPE_CHECKING:
    import onnx_ir as ir


def attention(
    sketch: Sketch,
    x: ir.Value,
    scope: str,
    width: int,
    heads: int,
    *,
    mask: ir.Value | None = None,
) -> ir.Value:
    """Multi-head self-attention with one fused projection; x [batch, tokens, width].

    The mask [tokens, tokens] is added to the scores.
    """
    head = width // heads
    fused = linear(sketch, x, f"{scope}.qkv", width, 3 * width)
    split = reshape(sketch, fused, scope, (0, -1, 3, heads, head))
    stacked = sketch.node(scope, "Transpose", split, perm=[2, 0, 3, 1, 4])
    q, k, v = (
        sketch.node(scope, "Gather", stacked, sketch.constant(scope, np.array(i)), axis=0)
        for i in range(3)
    )
    turned = sketch.node(scope, "Transpose", k, perm=[0, 1, 3, 2])
    scores = sketch.node(
        scope,
        "Mul",
        sketch.node(scope, "MatMul", q, turned),
        sketch.scalar(scope, head**-0.5),
    )
    if mask is not None:
        scores = sketch.node(scope, "Add", scores, mask)
    weights = sketch.node(scope, "Softmax", scores, axis=-1)
    mixed = sketch.node(scope, "MatMul", weights, v)
    rows = sketch.node(scope, "Transpose", mixed, perm=[0, 2, 1, 3])
    joined = reshape(sketch, rows, scope, (0, -1, width))
    return linear(sketch, joined, f"{scope}.proj", width, width)


def transformer_block(
    sketch: Sketch,
    x: ir.Value,
    scope: str,
    *,
    width: int,
    hidden: int,
    heads: int,
    mask: ir.Value | None = None,
) -> ir.Value:
    """Pre-norm block: attention, then two linear layers with GELU between."""
    normed = layer_norm(sketch, x, f"{scope}.norm1", width)
    attended = attention(sketch, normed, f"{scope}.attn", width, heads, mask=mask)
    x = sketch.node(scope, "Add", x, attended)
    normed = layer_norm(sketch, x, f"{scope}.norm2", width)
    raised = linear(sketch, normed, f"{scope}.mlp.fc1", width, hidden)
    active = gelu(sketch, raised, f"{scope}.mlp.act")
    return sketch.node(
        scope, "Add", x, linear(sketch, active, f"{scope}.mlp.fc2", hidden, width)
    )


def gelu(sketch: Sketch, x: ir.Value, scope: str) -> ir.Value:
    """``x * (1 + erf(x / sqrt 2)) * 0.5``, operator by operator as exporters write it."""
    ratio = sketch.node(scope, "Div", x, sketch.scalar(scope, math.sqrt(2)))
    raised = sketch.node(
        scope, "Add", sketch.node(scope, "Erf", ratio), sketch.scalar(scope, 1.0)
    )
    gated = sketch.node(scope, "Mul", x, raised)
    return sketch.node(scope, "Mul", gated, sketch.scalar(scope, 0.5))

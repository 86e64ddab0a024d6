"""A small language model: which character follows the last 64?

Reads ``ids`` int64 [batch, 64]; gives ``logits`` float32 [batch, 96] over the characters that
may come next.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from attention import transformer_block
from layers import Sketch, classifier, layer_norm, named, reshape

CHARACTERS = 96
CONTEXT = 64
WIDTH = 128
HIDDEN = 256
HEADS = 4
DEPTH = 4
FORBIDDEN = -1e4
"""What the causal mask adds to a score: enough that its weight is 0 in float32."""


def next_character(sketch: Sketch) -> ir.Value:
    """Causal transformer; trained on cross-entropy at all 64 positions at once."""
    ids = sketch.input("ids", ir.DataType.INT64, ["batch", CONTEXT])
    tokens = _embedded(sketch, ids)
    future = np.triu(np.full((CONTEXT, CONTEXT), FORBIDDEN, dtype=np.float32), k=1)
    mask = sketch.constant("mask", future)
    for index in range(DEPTH):
        tokens = transformer_block(
            sketch,
            tokens,
            f"blocks.{index}",
            width=WIDTH,
            hidden=HIDDEN,
            heads=HEADS,
            mask=mask,
        )
    tokens = layer_norm(sketch, tokens, "norm", WIDTH)
    if sketch.training:
        rows = reshape(sketch, tokens, "", (-1, WIDTH))
        return _surprise(sketch, classifier(sketch, rows, "head", WIDTH, CHARACTERS))
    last = sketch.node(
        "", "Gather", tokens, sketch.constant("", np.array(CONTEXT - 1)), axis=1
    )
    logits = classifier(sketch, last, "head", WIDTH, CHARACTERS)
    return named(logits, "logits", ["batch", CHARACTERS])


def _embedded(sketch: Sketch, ids: ir.Value) -> ir.Value:
    table = sketch.parameter("embed.weight", sketch.rng.normal(0, 1, (CHARACTERS, WIDTH)))
    positions = sketch.rng.normal(0, 0.3, (1, CONTEXT, WIDTH))
    characters = _rows(sketch, table, ids)
    return sketch.node("", "Add", characters, sketch.parameter("pos_embed", positions))


def _rows(sketch: Sketch, table: ir.Value, ids: ir.Value) -> ir.Value:
    """Rows of the table; in the training form as a product, whose gradient has one order.

    The runtime sums the gradient of Gather in whatever order its threads arrive.
    """
    if not sketch.training:
        return sketch.node("embed", "Gather", table, ids)
    off_on = sketch.constant("embed", np.array([0, 1], dtype=np.float32))
    depth = sketch.constant("embed", np.array(CHARACTERS))
    chosen = sketch.node("embed", "OneHot", ids, depth, off_on)
    return sketch.node("embed", "MatMul", chosen, table)


def _surprise(sketch: Sketch, logits: ir.Value) -> ir.Value:
    """Cross-entropy with the character that does follow, position by position."""
    following = sketch.input("following", ir.DataType.INT64, ["batch", CONTEXT])
    column = reshape(sketch, following, "error", (-1, 1))
    logs = sketch.node("error", "LogSoftmax", logits, axis=-1)
    picked = sketch.node("error", "GatherElements", logs, column, axis=1)
    return named(sketch.node("error", "Neg", picked), "error", ["position", 1])

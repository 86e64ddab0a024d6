"""The two digit networks.

Both read ``x`` float32 [batch, 1, 8, 8] in [0, 1] and give ``logits`` float32 [batch, 10].
"""

from __future__ import annotations

import onnx_ir as ir
from attention import transformer_block
from layers import (
    Sketch,
    batch_norm,
    classifier,
    conv,
    layer_norm,
    named,
    reshape,
)

CLASSES = 10
SIDE = 8

PATCH = 2
WIDTH = 64
HIDDEN = 128
HEADS = 4
DEPTH = 4

STAGES = (16, 32, 64)
BLOCKS = 2


def vision_transformer(sketch: Sketch) -> ir.Value:
    """Pre-norm transformer over sixteen 2x2 patches, averaged over the patches at the end."""
    tokens = _patch_tokens(sketch, _images(sketch))
    for index in range(DEPTH):
        tokens = transformer_block(
            sketch, tokens, f"blocks.{index}", width=WIDTH, hidden=HIDDEN, heads=HEADS
        )
    tokens = layer_norm(sketch, tokens, "norm", WIDTH)
    pooled = sketch.node("", "ReduceMean", tokens, axes=[1], keepdims=0)
    return _logits(sketch, pooled, "head", WIDTH)


def residual_network(sketch: Sketch) -> ir.Value:
    """Three stages of basic blocks at 8x8, 4x4 and 2x2, then the mean over the image."""
    width = STAGES[0]
    flow = conv(sketch, _images(sketch), "conv1", (1, width), kernel=3, pad=1)
    flow = sketch.node("relu", "Relu", batch_norm(sketch, flow, "bn1", width))
    for stage, wider in enumerate(STAGES):
        for block in range(BLOCKS):
            scope = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            flow = _basic_block(sketch, flow, scope, (width, wider), stride)
            width = wider
    pooled = sketch.node("avgpool", "GlobalAveragePool", flow)
    return _logits(sketch, sketch.node("", "Flatten", pooled, axis=1), "fc", width)


def _images(sketch: Sketch) -> ir.Value:
    return sketch.input("x", ir.DataType.FLOAT, ["batch", 1, SIDE, SIDE])


def _logits(sketch: Sketch, features: ir.Value, scope: str, width: int) -> ir.Value:
    scores = classifier(sketch, features, scope, width, CLASSES)
    return named(scores, "logits", ["batch", CLASSES])


def _patch_tokens(sketch: Sketch, x: ir.Value) -> ir.Value:
    """[batch, 1, 8, 8] to [batch, 16, 64], with what each position has learned added."""
    scope = "patch_embed"
    patches = conv(
        sketch, x, f"{scope}.proj", (1, WIDTH), kernel=PATCH, stride=PATCH, bias=True
    )
    flat = reshape(sketch, patches, scope, (0, WIDTH, -1))
    tokens = sketch.node(scope, "Transpose", flat, perm=[0, 2, 1])
    positions = sketch.rng.normal(0, 0.3, (1, (SIDE // PATCH) ** 2, WIDTH))
    return sketch.node("", "Add", tokens, sketch.parameter("pos_embed", positions))


def _basic_block(
    sketch: Sketch, x: ir.Value, scope: str, channels: tuple[int, int], stride: int
) -> ir.Value:
    """Two 3x3 convolutions beside an identity, or a 1x1 one where the shape changes."""
    width = channels[1]
    flow = conv(sketch, x, f"{scope}.conv1", channels, kernel=3, stride=stride, pad=1)
    flow = batch_norm(sketch, flow, f"{scope}.bn1", width)
    flow = sketch.node(f"{scope}.relu", "Relu", flow)
    flow = conv(sketch, flow, f"{scope}.conv2", (width, width), kernel=3, pad=1)
    flow = batch_norm(sketch, flow, f"{scope}.bn2", width)
    if channels != (width, width):
        x = conv(sketch, x, f"{scope}.downsample.0", channels, kernel=1, stride=stride)
        x = batch_norm(sketch, x, f"{scope}.downsample.1", width)
    return sketch.node(f"{scope}.relu", "Relu", sketch.node(scope, "Add", flow, x))

"""The two networks of this folder as ONNX graphs, written without any training framework.

Both read ``x`` float32 [batch, 1, 8, 8] in [0, 1] and give ``logits`` float32 [batch, 10].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from layers import (
    Sketch,
    attention,
    batch_norm,
    classifier,
    conv,
    gelu,
    layer_norm,
    linear,
    reshape,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CLASSES = 10
SIDE = 8

PATCH = 2
WIDTH = 64
HIDDEN = 128
HEADS = 4
DEPTH = 4

STAGES = (16, 32, 64)
BLOCKS = 2


def build(name: str, *, seed: int = 0, batch_statistics: bool = False) -> ir.Model:
    """Build a network with random parameters.

    Args:
        name: A key of `NETWORKS`.
        seed: Where the parameters come from.
        batch_statistics: Whether batch normalization stands in its training form.
    """
    sketch = Sketch(seed, batch_statistics=batch_statistics)
    x = ir.val("x", ir.DataType.FLOAT, ["batch", 1, SIDE, SIDE])
    logits = NETWORKS[name](sketch, x)
    logits.name = "logits"
    logits.dtype = ir.DataType.FLOAT
    logits.shape = ir.Shape(["batch", CLASSES])
    return sketch.model(name, x, logits)


def vision_transformer(sketch: Sketch, x: ir.Value) -> ir.Value:
    """Pre-norm transformer over sixteen 2x2 patches, averaged over the patches at the end."""
    tokens = _patch_tokens(sketch, x)
    for index in range(DEPTH):
        tokens = _transformer_block(sketch, tokens, f"blocks.{index}")
    tokens = layer_norm(sketch, tokens, "norm", WIDTH)
    pooled = sketch.node("", "ReduceMean", tokens, axes=[1], keepdims=0)
    return classifier(sketch, pooled, "head", WIDTH, CLASSES)


def residual_network(sketch: Sketch, x: ir.Value) -> ir.Value:
    """Three stages of basic blocks at 8x8, 4x4 and 2x2, then the mean over the image."""
    width = STAGES[0]
    flow = conv(sketch, x, "conv1", (1, width), kernel=3, pad=1)
    flow = sketch.node("relu", "Relu", batch_norm(sketch, flow, "bn1", width))
    for stage, wider in enumerate(STAGES):
        for block in range(BLOCKS):
            scope = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            flow = _basic_block(sketch, flow, scope, (width, wider), stride)
            width = wider
    pooled = sketch.node("avgpool", "GlobalAveragePool", flow)
    return classifier(sketch, sketch.node("", "Flatten", pooled, axis=1), "fc", width, CLASSES)


NETWORKS: Mapping[str, Callable[[Sketch, ir.Value], ir.Value]] = {
    "vit_digits": vision_transformer,
    "resnet_digits": residual_network,
}


def parameters(model: ir.Model) -> dict[str, npt.NDArray[np.float32]]:
    """Values of the float initializers, in graph order."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return {t.name: t.numpy() for t in tensors if t is not None and t.name is not None}


def fill(model: ir.Model, values: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Give initializers new values of the same number of elements."""
    for name, current in parameters(model).items():
        if name in values:
            array = np.ascontiguousarray(values[name].reshape(current.shape))
            model.graph.initializers[name].const_value = ir.tensor(array, name=name)


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


def _transformer_block(sketch: Sketch, x: ir.Value, scope: str) -> ir.Value:
    normed = layer_norm(sketch, x, f"{scope}.norm1", WIDTH)
    attended = attention(sketch, normed, f"{scope}.attn", WIDTH, HEADS)
    x = sketch.node(scope, "Add", x, attended)
    normed = layer_norm(sketch, x, f"{scope}.norm2", WIDTH)
    hidden = linear(sketch, normed, f"{scope}.mlp.fc1", WIDTH, HIDDEN)
    active = gelu(sketch, hidden, f"{scope}.mlp.act")
    return sketch.node(
        scope, "Add", x, linear(sketch, active, f"{scope}.mlp.fc2", HIDDEN, WIDTH)
    )


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

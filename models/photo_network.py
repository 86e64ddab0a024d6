"""Super-resolution of photographs by a factor of two, after EDSR (arXiv 1707.02921).

Reads ``x`` float32 [batch, 1, height, width], luma in [0, 1]; gives ``y`` of twice the height
and width.
"""

from __future__ import annotations

import onnx_ir as ir
from layers import Sketch, conv, named

WIDTH = 32
BLOCKS = 6
SCALE = 2
GENTLE = 0.1
"""What ends a residual branch starts small, so that the network starts as its skips."""
LARGE = ("batch", 1, "height_2x", "width_2x")


def super_resolution(sketch: Sketch) -> ir.Value:
    """Residual blocks under one long skip give what four copies of a pixel lack.

    Adding the small image to the shuffled channels is from ABPN (arXiv 2105.09750);
    it is trained on L1 distance.
    """
    x = sketch.input("x", ir.DataType.FLOAT, ["batch", 1, "height", "width"])
    stem = _conv(sketch, x, "head", 1, WIDTH)
    flow = stem
    for index in range(BLOCKS):
        flow = _residual_block(sketch, flow, f"body.{index}")
    flow = _conv(sketch, flow, f"body.{BLOCKS}", WIDTH, WIDTH)
    flow = sketch.node("body", "Add", flow, stem)
    detail = _conv(sketch, flow, "tail.0", WIDTH, SCALE**2, gain=GENTLE)
    four = sketch.node("tail", "Add", detail, x)
    y = sketch.node("tail.1", "DepthToSpace", four, blocksize=SCALE, mode="CRD")
    named(y, "y", LARGE)
    return _distance(sketch, y) if sketch.training else y


def _distance(sketch: Sketch, y: ir.Value) -> ir.Value:
    target = sketch.input("target", ir.DataType.FLOAT, LARGE)
    error = sketch.node("error", "Abs", sketch.node("error", "Sub", y, target))
    return named(error, "error", LARGE)


def _residual_block(sketch: Sketch, x: ir.Value, scope: str) -> ir.Value:
    flow = _conv(sketch, x, f"{scope}.conv1", WIDTH, WIDTH)
    flow = sketch.node(f"{scope}.relu", "Relu", flow)
    flow = _conv(sketch, flow, f"{scope}.conv2", WIDTH, WIDTH, gain=GENTLE)
    return sketch.node(scope, "Add", flow, x)


def _conv(
    sketch: Sketch, x: ir.Value, scope: str, fan_in: int, fan_out: int, *, gain: float = 1.0
) -> ir.Value:
    return conv(sketch, x, scope, (fan_in, fan_out), kernel=3, pad=1, bias=True, gain=gain)

"""Scales in half precision: which are held, and that none becomes 0."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.trt.half import scales
from tests import tiny
from tests.trt.halves import HALF

BRAIN = ir.DataType.BFLOAT16
PAIR = """
net (float[4, 8] x) => (float[4, 8] y) <float s = {%s}, int8 z = {0}> {
    q = QuantizeLinear(x, s, z)
    y = DequantizeLinear(q, s, z)
}"""
WEIGHT = """
net (float[4, 3] x) => (float[4, 2] y) <int8[3, 2] w = {%s}, float[2] s = {%s}> {
    d = DequantizeLinear<axis = 1>(w, s)
    y = MatMul(x, d)
}"""


def unheld(text: str, kind: ir.DataType = HALF) -> list[str]:
    model = tiny.model_of(text)
    return [node.op_type for node, _ in scales.misfits(model.graph, kind)]


@pytest.mark.parametrize(
    ("scale", "held"),
    [("0.02", True), ("1e-4", True), ("1e-5", True), ("3e-6", False), ("1e-12", False),
     ("6e4", True), ("7e4", False)],
)  # fmt: skip
def test_a_scale_may_move_by_half_a_step_at_the_largest_code(scale: str, held: bool) -> None:
    assert unheld(PAIR % scale) == ([] if held else ["QuantizeLinear", "DequantizeLinear"])
    assert unheld(PAIR % scale, BRAIN) == []
    step = np.array(float(scale), np.float32)
    moved = abs(float(scales.rounded(step, HALF) - step)) * 127
    assert held == (moved <= 0.5 * step)


@pytest.mark.parametrize(
    ("codes", "steps", "held"),
    [
        ("1, 0, 2, 0, 3, 0", "0.01, 1e-12", True),
        ("1, 0, 2, 1, 3, 0", "0.01, 1e-12", False),
        ("0, 0, 0, 0, 0, 0", "1e-12, 1e-12", True),
        ("1, 1, 1, 1, 1, 1", "0.01, 0.02", True),
    ],
)
def test_the_scale_of_a_dead_channel_says_nothing(codes: str, steps: str, held: bool) -> None:
    assert unheld(WEIGHT % (codes, steps)) == ([] if held else ["DequantizeLinear"])


@pytest.mark.parametrize(("kind", "numpy"), [(HALF, np.float16), (BRAIN, ml_dtypes.bfloat16)])
def test_rounded_scales_are_positive_numbers_of_the_type(
    kind: ir.DataType, numpy: type
) -> None:
    steps = np.geomspace(1e-44, 1e4, 300).astype(np.float32)
    found = scales.rounded(steps, kind)
    assert found.dtype == np.float32
    assert (found > 0).all()
    assert np.array_equal(found.astype(numpy).astype(np.float32), found)
    held = steps >= 2.0**-14
    assert (np.abs(found - steps)[held] <= steps[held] * 2.0**-8).all()

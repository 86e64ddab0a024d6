"""clip-weights: numbers, near misses, options and errors, through its public face alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from gpusq_example.clip_weights import ClipWeights
from onnx import numpy_helper

from gpusq_compiler import GpusqError
from gpusq_compiler.passes import Canonicalize

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
one (float[N, 16] x) => (float[N, 8] y) <float[16, 8] w, float[8] b> {
    h = MatMul(x, w)
    y = Add(h, b)
}"""


def model(weight: np.ndarray) -> onnx.ModelProto:
    """One layer with this weight; its bias is large on purpose."""
    found = onnx.parser.parse_model(TEXT)
    bias = np.full(8, 100, np.float32)
    for name, values in (("w", weight), ("b", bias)):
        found.graph.initializer.append(numpy_helper.from_array(values, name))
    return Canonicalize()(found)


def weights(found: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Constants by name."""
    return {one.name: numpy_helper.to_array(one) for one in found.graph.initializer}


@pytest.fixture
def weight() -> np.ndarray:
    """Ordinary values and one outlier."""
    values = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    values[3, 4] = -50
    return values


@pytest.mark.parametrize("deviations", [0.5, 3.0])
def test_it_clips_what_is_beyond(weight: np.ndarray, deviations: float) -> None:
    limit = np.float32(deviations * np.std(weight, dtype=np.float64))
    after = weights(ClipWeights(deviations=deviations)(model(weight)))["w"]
    expected = [min(max(value, -limit), limit) for value in weight.flat]
    assert after[3, 4] == -limit
    assert np.array_equal(after.flat, expected)


def test_it_leaves_what_is_within_and_what_is_no_layer(weight: np.ndarray) -> None:
    weight[3, 4] = 0
    before = model(weight)
    after = ClipWeights(deviations=9)(before)
    assert np.array_equal(weights(after)["w"], weight)
    assert (weights(after)["b"] == 100).all()


def test_a_range_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(GpusqError, match=r"clip-weights\.deviations: must be positive"):
        ClipWeights(deviations=0)

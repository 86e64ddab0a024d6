"""The largest magnitude of every tensor, against looking at each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.calibration.magnitudes import magnitudes
from gpusq_compiler.ir import edit
from gpusq_compiler.runtime.session import Session
from tests import tiny
from tests.train.nets import ArraySamples

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = """
net (float[N, T] x) => (float[N, T] y, float[T, N] z) {
    y = Softmax<axis = -1>(x)
    t = Transpose<perm = [1, 0]>(x)
    z = LogSoftmax<axis = 0>(t)
}"""


def test_a_tensor_without_values() -> None:
    model = tiny.model_of("""
    net (float[N, 4] x) => (float[N, 6] y) <float[4, 0] a, float[0, 6] b> {
        none = MatMul(x, a)
        y = MatMul(none, b)
    }""")
    edit.infer_shapes(model)
    found = magnitudes(model, tiny.samples(model), batch_size=8, threads=1).largest
    assert {name: found[name] for name in ("none", "y")} == {"none": 0, "y": 0}


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("which", [tiny.mlp, tiny.residual, tiny.attention, tiny.if_branch])
def test_every_tensor_is_measured(which: Callable[[], ir.Model], batch_size: int) -> None:
    model = which()
    edit.infer_shapes(model)
    samples = tiny.samples(model)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    found = magnitudes(model, samples, batch_size=batch_size, threads=1).largest
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    floats = [
        value.name or ""
        for node in model.graph
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT
    ]
    assert set(found) == {"x", *floats}
    feeds = samples.take(np.arange(samples.count))
    alone = which is tiny.if_branch  # whose body is chosen by the whole batch
    expected = Session(model, outputs=floats, threads=1, optimize=False)(feeds)
    for name, values in {**expected, "x": feeds["x"]}.items():
        if not alone or batch_size > samples.count:
            np.testing.assert_allclose(found[name], np.abs(values).max(), rtol=1e-5)


def test_rows_are_as_long_as_on_samples() -> None:
    model = tiny.model_of(ROWS)
    edit.infer_shapes(model)
    samples = ArraySamples({"x": np.zeros((4, 7), np.float32)})
    found = magnitudes(model, samples, batch_size=2, threads=1)
    assert found.rows == {"Softmax.y": 7, "LogSoftmax.z": 7}


def test_what_is_not_finite_is_seen() -> None:
    text = "net (float[N, 2] x) => (float[N, 2] y) { a = Log(x) y = Exp(a) }"
    model = tiny.model_of(text)
    edit.infer_shapes(model)
    samples = ArraySamples({"x": np.array([[1, 2], [0, 3]], np.float32)})
    found = magnitudes(model, samples, batch_size=1, threads=1).largest
    assert found["a"] == np.inf
    assert found["y"] == pytest.approx(3, rel=1e-6)


def test_a_model_without_floats_has_nothing_to_measure() -> None:
    model = tiny.model_of("net (int64[N] x) => (int64[N] y) { y = Neg(x) }")
    samples = ArraySamples({"x": np.arange(4)})
    found = magnitudes(model, samples, batch_size=2, threads=1)
    assert (found.largest, found.rows) == ({}, {})

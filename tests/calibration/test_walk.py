"""A walk gives what a run of the whole changed model would give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpusq_compiler.calibration import walk
from gpusq_compiler.calibration.walk import Walk
from gpusq_compiler.ir import edit, query
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.runtime.samples import batches
from gpusq_compiler.runtime.session import Session
from tests import tiny

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array, Samples

MODELS = ("mlp", "conv_bn_relu", "residual", "attention", "shared_weight", "bf16_matmul")
BODY = """
net (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w, float[4, 4] v> {
    yes = Constant <value = bool {1}> ()
    h = MatMul(x, w)
    side = Relu(h)
    z = If (yes) <
        then_branch = yes () => (float[N, 4] a) { a = Add(h, side) },
        else_branch = no () => (float[N, 4] b) { b = Identity(h) }
    >
    y = MatMul(z, v)
}"""


def stops(model: ir.Model) -> list[ir.Value]:
    found = [use.activation for use in query.weight_uses(model)]
    return list(dict.fromkeys(v for v in found if v is not None))


def whole(model: ir.Model, value: ir.Value, samples: Samples, size: int) -> list[Array]:
    """The tensor from runs of the whole model."""
    if value.is_graph_input():
        return [feeds[value.name or ""] for feeds in batches(samples, size)]
    session = Session(model, outputs=[value.name or ""], threads=1)
    return [session(feeds)[value.name or ""] for feeds in batches(samples, size)]


def double(model: ir.Model, read: ir.Value) -> None:
    """Change every weight that is multiplied with a tensor."""
    for use in query.weight_uses(model):
        if use.activation is read and use.value.const_value is not None:
            edit.replace_weight(use.value, 2 * use.value.const_value.numpy())


@pytest.mark.parametrize("name", MODELS)
def test_every_stop_sees_the_layers_before_it_as_they_are_then(name: str) -> None:
    model = Canonicalize()(tiny.MODELS[name]())
    samples = tiny.samples(model, 10)
    walking = Walk(model, stops(model), samples, batch_size=4, threads=1)
    for value in stops(model):
        found = walking.stop(value)
        for seen, expected in zip(found, whole(model, value, samples, 4), strict=True):
            np.testing.assert_allclose(
                seen.astype(np.float64), expected.astype(np.float64), rtol=1e-4, atol=1e-5
            )
        double(model, value)


def test_what_a_body_reads_crosses_a_stop() -> None:
    model = Canonicalize()(tiny.model_of(BODY))
    samples = tiny.samples(model, 3)
    walking = Walk(model, stops(model), samples, batch_size=3, threads=1)
    for value in stops(model):
        (found,), (expected,) = walking.stop(value), whole(model, value, samples, 3)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_model_of_fixed_batch_gets_full_batches() -> None:
    model = tiny.model_of("""
    net (float[4, 8] x) => (float[4, 8] y) <float[8, 8] w, float[8, 8] v> {
        h = MatMul(x, w)
        y = MatMul(h, v)
    }""")
    walking = Walk(model, stops(model), tiny.samples(model, 6), batch_size=32, threads=1)
    assert [array.shape for array in walking.stop(stops(model)[0])] == [(4, 8), (4, 8)]
    assert [array.shape for array in walking.stop(stops(model)[1])] == [(4, 8), (4, 8)]


def test_memory_bounds_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Canonicalize()(tiny.mlp())
    monkeypatch.setattr(walk, "KEPT_BYTES", 1)
    walking = Walk(model, stops(model), tiny.samples(model, 12), batch_size=4, threads=1)
    counts = [len(walking.stop(value)) for value in stops(model)]
    assert counts[0] == 3
    assert counts[-1] == 1

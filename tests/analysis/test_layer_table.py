from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.analysis import layers as table
from gpusq_compiler.analysis.layers import Layer, layers
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.quant.observers import MinMax
from gpusq_compiler.runtime.events import Silent
from gpusq_compiler.runtime.session import Session
from gpusq_compiler.sparsity.scores import Magnitude
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpusq_compiler.passes.base import Context, Pass

    ContextFor = Callable[..., Context]


def compressed(
    dense: ir.Model, context_for: ContextFor, *steps: Pass
) -> tuple[ir.Model, ir.Model]:
    """The canonical model and what the passes make of a copy of it."""
    canonical = Canonicalize()(dense)
    model = canonical.clone()
    Pipeline(passes=steps).run(model, context_for(model))
    return canonical, model


def by_name(found: tuple[Layer, ...]) -> dict[str, Layer]:
    return {layer.layer: layer for layer in found}


@pytest.mark.parametrize("frozen", [True, False])
def test_figures_are_those_of_numpy(context_for: ContextFor, frozen: bool) -> None:
    last = (Freeze(),) if frozen else ()
    steps = (Prune(score=Magnitude()), Quantize(observer=MinMax()), *last)
    dense, model = compressed(tiny.mlp(), context_for, *steps)
    samples = tiny.samples(dense)
    found = by_name(layers(dense, model, samples, threads=1))
    assert list(found) == ["Gemm.a", "MatMul.z"]
    layer = found["MatMul.z"]
    w = tiny.weight(dense, "w2")
    scale = tiny.weight(model, "w2.scale")
    codes = (
        tiny.weight(model, "w2.codes")
        if frozen
        else np.clip(np.rint(tiny.weight(model, "w2") / scale), -127, 127)
    )
    restored = codes.astype(np.float32) * scale
    assert (layer.operator, layer.weight, layer.shape) == ("MatMul", "w2", "32x10")
    assert (layer.parameters, layer.pattern, layer.axis) == (320, "2:4", 0)
    assert layer.zeros == pytest.approx(np.mean(restored == 0))
    assert np.mean(restored == 0) >= 0.5
    groups = np.sort(np.abs(w).reshape(8, 4, 10), axis=1)[:, 2:]
    assert layer.kept_magnitude == pytest.approx(groups.sum() / np.abs(w).sum(), rel=1e-5)
    scales = (layer.scale_min, layer.scale_median, layer.scale_max)
    assert scales == (scale.min(), np.median(scale), scale.max())
    assert layer.input == "h"
    assert layer.input_scale == tiny.weight(model, "h.scale")
    error = np.linalg.norm(restored - w) / np.linalg.norm(w)
    assert layer.weight_error == pytest.approx(error, rel=1e-5)
    assert layer.weight_sqnr == pytest.approx(-20 * np.log10(error), rel=1e-5)
    rows = samples.take(np.arange(16))
    a, b = (Session(m, outputs=["z"], threads=1)(rows)["z"] for m in (dense, model))
    assert layer.output_cosine == pytest.approx(
        np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5
    )
    gap = np.square(a - b, dtype=np.float64).sum()
    sqnr = 10 * np.log10(np.square(a, dtype=np.float64).sum() / gap)
    # One by one or sixteen at once: products round to float32 in another order.
    assert layer.output_sqnr == pytest.approx(sqnr, abs=0.01)


def test_a_model_that_is_the_same_has_no_error(context_for: ContextFor) -> None:
    dense, model = compressed(tiny.conv_bn_relu(), context_for)
    for layer in layers(dense, model, tiny.samples(dense), threads=1):
        assert layer.pattern is None
        assert layer.scale_max is layer.input_scale is None
        assert layer.weight_error == 0
        assert layer.weight_sqnr == np.inf
        assert layer.output_cosine == pytest.approx(1)
        assert layer.output_sqnr == np.inf


def test_a_transposed_weight_is_compared_as_its_layer_reads_it(
    context_for: ContextFor,
) -> None:
    dense, model = compressed(tiny.conv_bn_relu(), context_for, Prune(), Quantize(), Freeze())
    head = by_name(layers(dense, model, tiny.samples(dense), threads=1))["Gemm.y"]
    assert (head.shape, head.axis, head.pattern) == ("10x16", 1, "2:4")
    assert head.output_cosine is not None
    assert 0.5 < head.output_cosine < 1


def test_without_samples_weights_are_still_compared(context_for: ContextFor) -> None:
    dense, model = compressed(tiny.mlp(), context_for, Prune())
    for layer in layers(dense, model, None):
        assert layer.output_cosine is layer.output_sqnr is None
        assert layer.weight_error is not None
        assert 0 < layer.weight_error < 1


def test_an_output_that_another_node_gives_now_is_still_compared(
    context_for: ContextFor,
) -> None:
    dense, model = compressed(tiny.mlp(), context_for, Prune())
    node = tiny.node(model, "MatMul.z")
    value = node.outputs[0]
    twice = ir.node("Identity", [value])
    model.graph.insert_after(node, twice)
    value.replace_all_uses_with(twice.outputs[0])
    twice.replace_input_with(0, value)
    value.name, twice.outputs[0].name = "z.before", "z"
    twice.outputs[0].shape, twice.outputs[0].type = value.shape, value.type
    found = by_name(layers(dense, model, tiny.samples(dense), threads=1))
    assert found["MatMul.z"].output_cosine is not None


def test_layers_in_bodies_have_no_outputs_to_compare(context_for: ContextFor) -> None:
    dense, model = compressed(tiny.if_branch(), context_for, Prune())
    found = by_name(layers(dense, model, tiny.samples(dense), threads=1))
    assert found["MatMul.h"].output_cosine is not None
    inner = [layer for name, layer in found.items() if name != "MatMul.h"]
    assert len(inner) == 2
    for layer in inner:
        assert layer.output_cosine is None
        assert layer.pattern == "2:4"


def test_layers_that_the_dense_model_lacks_are_left_out(context_for: ContextFor) -> None:
    dense, model = compressed(tiny.mlp(), context_for, Prune())
    tiny.node(model, "MatMul.z").name = "other"
    assert [layer.layer for layer in layers(dense, model, None)] == ["Gemm.a"]


def test_many_weights_are_read_in_groups(
    context_for: ContextFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, model = compressed(tiny.mlp(), context_for, Prune(), Quantize(), Freeze())
    whole = layers(dense, model, None)
    monkeypatch.setattr(table, "SLICE", 500)  # w1 has 512 elements, w2 320
    for one, other in zip(layers(dense, model, None), whole, strict=True):
        assert one.weight_error == pytest.approx(other.weight_error)
        assert one.kept_magnitude == other.kept_magnitude


class Notes(Silent):
    """Keeps notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def test_what_cannot_run_is_said_and_no_error(context_for: ContextFor) -> None:
    dense, model = compressed(tiny.mlp(), context_for, Prune())
    events = Notes()
    wrong: Any = tiny.samples(tiny.attention())
    found = layers(dense, model, wrong, threads=1, events=events)
    assert all(layer.output_cosine is None for layer in found)
    (line,) = events.lines
    assert "not compared" in line


def test_constants_that_the_runtime_does_not_take_are_not_known(
    context_for: ContextFor,
) -> None:
    dense, model = compressed(tiny.mlp(), context_for, Prune(), Quantize(), Freeze())
    model.opset_imports[""] = 99
    for layer in layers(dense, model, None):
        assert layer.weight_error is None
        assert layer.pattern is None
        assert layer.scale_max is not None

"""What a model is, whoever wrote it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.analysis.inspection import HEADINGS, Inspection, inspect
from gpusq_compiler.ir import claims, edit, io, soundness
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pack import Pack
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.sparsity.scores import Magnitude
from tests import tiny
from tests.analysis.odd_models import INVALID, MODELS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpusq_compiler.analysis.weights import WeightedLayer
    from gpusq_compiler.passes.base import Context

    ContextFor = Callable[..., Context]
    Inspected = Callable[..., Inspection]


@pytest.fixture
def inspected(tmp_path: Path) -> Inspected:
    """Inspects a model, which has to come from a file."""

    def make(model: ir.Model, **fields: Any) -> Inspection:
        path = tmp_path / "model.onnx"
        onnx.save(ir.to_proto(model), path)
        return inspect(io.load(path), **fields)

    return make


def by_name(found: Inspection) -> dict[str, WeightedLayer]:
    assert found.layers is not None
    return {layer.name: layer for layer in found.layers}


@pytest.mark.parametrize("name", MODELS)
def test_odd_models_are_looked_at(name: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    onnx.save(MODELS[name](), path)
    loaded = io.load(path, strict=False)
    complaint = soundness.complaint(loaded, path)
    assert (complaint is not None) == (name in INVALID | {"sparse tensor"})
    found = inspect(loaded, complaint=complaint)
    assert (found.layers is None) == (name == "sparse tensor")
    assert json.dumps(found.as_json(), allow_nan=False)
    lines = [*found.head(), *found.tail()]
    assert all(lines)
    assert all(len(row) == len(HEADINGS) for row in found.rows())
    assert any("cannot be worked on" in line for line in lines) == (complaint is not None)


def odd(name: str, tmp_path: Path) -> Inspection:
    path = tmp_path / "odd.onnx"
    onnx.save(MODELS[name](), path)
    return inspect(io.load(path))


def test_functions_are_looked_into(tmp_path: Path) -> None:
    found = odd("function", tmp_path)
    assert found.contents.operators == {"mine.linear": 1}
    assert found.contents.functions == {"mine.linear": 2}
    assert [(one.dtype, one.values) for one in found.contents.constants] == [("float", 32)]
    (layer,) = found.layers or ()
    assert (layer.operator, layer.elsewhere, layer.zeros) == ("MatMul", (1,), 0.5)


def test_bodies_count(tmp_path: Path) -> None:
    found = odd("nested bodies", tmp_path)
    assert found.contents.operators == {"If": 2, "MatMul": 1, "Relu": 1, "Neg": 1}
    assert [layer.operator for layer in found.layers or ()] == ["MatMul"]


def test_contents(inspected: Inspected) -> None:
    model = tiny.conv_bn_relu()
    model.producer_name, model.producer_version = "tool", "3.1"
    model.metadata_props["author"] = "me"
    found = inspected(model).contents
    assert (found.ir_version, dict(found.opsets), found.producer) == (
        9,
        {"ai.onnx": 17},
        "tool 3.1",
    )
    assert str(found.inputs[0]) == "x float [N, 3, 6, 6]"
    assert str(found.outputs[0]) == "y float [N, 10]"
    assert found.operators["BatchNormalization"] == 2
    assert sum(found.operators.values()) == 9
    (floats,) = found.constants
    values = 8 * 27 + 16 * 72 + 16 + 4 * (8 + 16) + 160 + 10
    assert (floats.dtype, floats.values, floats.bytes) == ("float", values, 4 * values)
    assert found.metadata == {"author": "me"}
    assert found.recipe == ()


def test_weights_in_a_data_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        ir.to_proto(tiny.mlp()),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    found = inspect(io.load(path))
    assert found.contents.data_files == ("weights.bin",)
    sizes = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert found.contents.bytes == sizes
    assert "weights in weights.bin" in found.head()


def set_weight(model: ir.Model, name: str, pattern: Any) -> None:
    value = model.graph.initializers[name]
    assert value.const_value is not None
    values = value.const_value.numpy()
    edit.replace_weight(value, np.where(pattern, values, 0))


def test_the_pattern_is_looked_for_along_every_axis(inspected: Inspected) -> None:
    model = tiny.residual()
    outputs = np.arange(8).reshape(8, 1, 1, 1) % 4 < 2
    order = np.random.default_rng(0).permuted(np.tile([1, 1, 0, 0], (8 * 9, 1)), axis=1)
    flat = order.reshape(8, 4, 3, 3)
    inputs = np.arange(8).reshape(1, 8, 1, 1) % 4 < 2
    set_weight(model, "w1", np.broadcast_to(outputs, (8, 8, 3, 3)))
    set_weight(model, "w2", flat)
    set_weight(model, "w3", np.broadcast_to(inputs, (8, 8, 1, 1)))
    found = by_name(inspected(model))
    along = {name: (layer.sparse, layer.elsewhere) for name, layer in found.items()}
    assert along["Conv.c1"] == (False, (0,))
    assert along["Conv.c2"] == (False, ("flattened",))
    assert along["Conv.y"] == (True, ())
    assert [layer.zeros for layer in found.values()] == [0.5, 0.5, 0.5]
    assert [layer.pattern for layer in found.values()] == [
        "not 1, 0",
        "not 1, flattened",
        "axis 1",
    ]


def test_an_empty_weight_has_no_pattern(inspected: Inspected) -> None:
    model = tiny.mlp()
    set_weight(model, "w2", np.zeros((32, 10), bool))
    layer = by_name(inspected(model))["MatMul.z"]
    assert (layer.zeros, layer.sparse, layer.elsewhere) == (1.0, False, ())


COMPILED = (Canonicalize(), Prune(score=Magnitude()), Quantize(), Freeze())


def test_a_compiled_model(inspected: Inspected, context_for: ContextFor) -> None:
    model = tiny.mlp()
    Pipeline(passes=COMPILED).run(model, context_for(model))
    model.metadata_props[claims.PREFIX + "recipe"] = '[[pass]]\nuse = "prune"\n'
    model.metadata_props[claims.PREFIX + "accuracy"] = "unverified"
    found = inspected(model)
    assert (found.claims, found.broken, found.contents.recipe) == (2, (), ("prune",))
    first = by_name(found)["Gemm.a"]
    assert (first.sparse, first.claim, first.dtype) == (True, "2:4 axis=0", "int8")
    assert (str(first.weight_quantizer), str(first.input_quantizer)) == (
        "int8 per channel",
        "uint8",
    )
    assert first.weight_quantizer is not None
    assert (first.weight_quantizer.axis, first.weight_quantizer.stored) == (1, True)
    assert first.input_quantizer is not None
    assert (first.input_quantizer.symmetric, first.input_quantizer.stored) == (True, False)
    assert first.output_quantized
    assert first.runs_in == "int8"
    totals = found.totals
    assert totals is not None
    assert (totals.layers, totals.sparse_layers, totals.zeros) == (2, 2, 0.5)
    assert (totals.quantized_weights, totals.quantized_inputs) == (2, 2)
    assert totals.quantized_outputs == 1
    text = "\n".join((*found.head(), *found.tail()))
    for words in (
        "compiled by gpusq: prune",
        "accuracy unverified",
        "2 tensors claim a pattern, all keep it",
        "quantized: 2 weights, 2 inputs, 1 output",
        "float-output",
        "sparse kernels may run 1 layer, 1 of them narrow",
    ):
        assert words in text


def test_float_weights_behind_a_pair_are_not_stored_codes(
    inspected: Inspected, context_for: ContextFor
) -> None:
    model = tiny.mlp()
    Pipeline(passes=(COMPILED[0], COMPILED[2])).run(model, context_for(model))
    quantizer = by_name(inspected(model))["Gemm.a"].weight_quantizer
    assert quantizer is not None
    assert (quantizer.dtype, quantizer.stored) == ("int8", False)


def test_packed_weights_are_shown_unpacked(
    inspected: Inspected, context_for: ContextFor
) -> None:
    model = tiny.mlp()
    Pipeline(passes=(*COMPILED, Pack(least=0))).run(model, context_for(model))
    found = inspected(model)
    assert len(found.contents.packed) == 2
    assert all(layer.sparse for layer in found.layers or ())
    assert "2 weights packed, shown unpacked" in list(found.head())


def test_claims_that_do_not_hold_are_told(inspected: Inspected) -> None:
    model = tiny.mlp()
    value = model.graph.initializers["w2"]
    value.metadata_props[claims.SPARSITY] = "2:4 axis=0"
    found = inspected(model)
    assert found.claims == 1
    assert "tensor 'w2'" in found.broken[0]
    assert any("1 tensor claims" in line or "broken" in line for line in found.head())
    value.metadata_props[claims.SPARSITY] = "two of four"
    (broken,) = inspected(model).broken
    assert "'two of four' cannot be read" in broken


def test_an_unreadable_recipe_names_no_passes(inspected: Inspected) -> None:
    model = tiny.mlp()
    model.metadata_props[claims.PREFIX + "recipe"] = "no = toml ="
    assert inspected(model).contents.recipe == ()
    model.metadata_props[claims.PREFIX + "recipe"] = "pass = 3"
    assert inspected(model).contents.recipe == ()


def test_foreign_quantizers(tmp_path: Path) -> None:
    found = odd("foreign quantizers", tmp_path)
    (layer,) = found.layers or ()
    assert str(layer.input_quantizer) == "uint8"  # 128 is the middle
    assert str(layer.weight_quantizer) == "int8 per channel"
    assert found.findings is not None
    assert {one.rule.name for one in found.findings} >= {"zero-point"}
    told = [line for line in found.tail() if "refused" in line]
    assert "the zero point is 128 (and 1 more)" in told[0]
    blocked = odd("blocked int4", tmp_path)
    (layer,) = blocked.layers or ()
    assert str(layer.weight_quantizer) == "int4 per block"


def test_reasons_are_counted(inspected: Inspected) -> None:
    lines = list(inspected(tiny.residual()).tail())
    assert lines[2] == "predicted for TensorRT 11: sparse kernels may run 0 layers"
    assert lines[3:5] == ["  3 layers: not 2:4", "TensorRT 11: nothing to say against it"]


def test_json_holds_everything(inspected: Inspected) -> None:
    found = json.loads(json.dumps(inspected(tiny.mlp()).as_json(), allow_nan=False))
    assert list(found) == ["format", "contents", "claims", "layers", "totals", "tensorrt"]
    assert found["contents"]["inputs"] == [{"name": "x", "dtype": "float", "shape": ["N", 16]}]
    assert found["layers"][0]["name"] == "Gemm.a"
    assert found["totals"]["layers"] == 2
    assert found["tensorrt"] == {"version": "11", "findings": []}

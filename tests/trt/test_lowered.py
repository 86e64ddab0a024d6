"""Lowered models: as exact as float16 allows, accepted by NVIDIA's builder, and INT8 there.

TensorRT for RTX builds without a GPU. What it does with convolutions is its own choice.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.calibration.synthetic import synthesize
from gpusq_compiler.ir import io
from gpusq_compiler.passes.base import Context
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.lower import Lower
from gpusq_compiler.passes.pipeline import Pipeline, each
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.passes.twins import Twins, unquantized
from gpusq_compiler.runtime.session import Session, fixed_batch
from gpusq_compiler.sparsity.scores import Magnitude
from gpusq_compiler.trt.engines.check import check
from gpusq_compiler.trt.legality.legal import refusals
from gpusq_compiler.trt.legality.rules import NEWEST
from tests import tiny, zoo_models
from tests.trt import halves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpusq_compiler.trt.engines.check import Checked

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="asks NVIDIA's builder, which runs without a GPU; type: pip install tensorrt-rtx",
)
ATTENTIONS = {
    "deit_small_patch16_224": 12,
    "deit_tiny_patch16_224": 12,
    "deit_tiny_patch16_224_dynamo": 12,
    "nextvit_small": 4,
    "swin_tiny_patch4_window7_224": 12,
}
"""Attentions of a model; each should be one kernel that reads INT8."""


def built(model: ir.Model, folder: Path) -> Checked:
    io.save(model, folder / "m.onnx")
    return check(folder / "m.onnx")


@needs_rtx
@pytest.mark.rtx
@pytest.mark.parametrize(
    ("name", "rest"),
    [*((name, "fp16") for name in tiny.MODELS), ("attention", "bf16"), ("residual", "bf16")],
)
def test_what_is_lowered_is_built(
    name: str, rest: str, tmp_path: Path, context_for: Callable[..., Context]
) -> None:
    model = tiny.MODELS[name]()
    lower = Lower(rest=rest, samples=8)  # type: ignore[arg-type]
    steps = (Canonicalize(), Prune(score=Magnitude()), Quantize(), Freeze(), lower)
    Pipeline(passes=steps).run(model, context_for(model, target="tensorrt"))
    found = built(model, tmp_path)
    assert found.refusal is None
    assert found.disappointing == ()


@needs_rtx
@pytest.mark.rtx
@pytest.mark.parametrize("name", ["conv_bn_relu", "attention"])
def test_twins_are_built_and_one_of_them_is_int8(
    name: str, tmp_path: Path, context_for: Callable[..., Context]
) -> None:
    model = tiny.MODELS[name]()
    steps = (Canonicalize(), Prune(score=Magnitude()), Quantize(), Freeze(), Lower(samples=8))
    ctx = context_for(model, target="tensorrt")
    twins = Twins(steps, model)
    Pipeline(passes=steps).run(model, ctx, on_step=each(twins))
    for twin, other in twins.models(ctx):
        found = built(other, tmp_path)
        assert found.refusal is None
        gemms = [one for one in found.products if one.operator in {"Gemm", "MatMul"}]
        integer = {one.integer for one in gemms}
        assert integer == {True} if twin == "dense-int8" else True not in integer, twin


@needs_rtx
@pytest.mark.rtx
def test_casts_to_and_fro_would_cost_the_int8_product(tmp_path: Path) -> None:
    """Why there are none: the builder does not see through two casts."""
    text = """
    net (float[16, 16] x) => (float[16, 8] y)
    <float s = {0.02}, int8 z = {0}, int8[16, 8] w, float[8] scale, int8[8] zw> {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        dw = DequantizeLinear<axis = 1>(w, scale, zw)
        %s
    }"""
    direct = tiny.model_of(text % "y = MatMul(d, dw)")
    twice = tiny.model_of(
        text % "h = Cast<to = 10>(d) f = Cast<to = 1>(h) hw = Cast<to = 10>(dw) "
        "fw = Cast<to = 1>(hw) y = MatMul(f, fw)"
    )
    found = [built(model, tmp_path).layers for model in (direct, twice)]
    assert [any(layer.is_integer for layer in layers) for layers in found] == [True, False]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lowered:
    """One model of the zoo, compiled in one shot for TensorRT.

    Attributes:
        name: Of the model.
        file: The lowered model.
        model: The same.
        moved: What lowering changed of the outputs, relative to them.
        quantized: What quantizing changed.
        plain: What lowering changes of the model without quantizers.
    """

    name: str
    file: Path
    model: ir.Model
    moved: float
    quantized: float
    plain: float


@pytest.fixture(
    scope="module",
    params=[
        name if name in zoo_models.SMALL else pytest.param(name, marks=pytest.mark.slow)
        for name in zoo_models.NAMES
    ],
)
def lowered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Lowered:
    folder = tmp_path_factory.mktemp(request.param)
    return lower_zoo(request.param, folder)


def lower_zoo(name: str, folder: Path) -> Lowered:
    """Compile a model on synthesised inputs and look at what each step cost."""
    model = io.load(zoo_models.path(name))
    few = synthesize(model, count=4, seed=0)
    ctx = Context(workdir=folder, data=few, target="tensorrt", synthesised=True)
    steps = (Canonicalize(), Prune(score=Magnitude()), Quantize(batch_size=4))
    Pipeline(passes=steps).run(model, ctx)
    plain, lower = unquantized(model.clone()), Lower(samples=4)
    Pipeline(passes=(Freeze(),)).run(model, ctx)
    frozen, without = model.clone(), plain.clone()
    Pipeline(passes=(lower,)).run(model, ctx)
    lower.rewrite(without, ctx)
    feeds = few.take(np.arange(fixed_batch(model) or 2))
    runs = [Session(each_model)(feeds) for each_model in (frozen, model, plain, without)]
    io.save(model, folder / "m.onnx")
    return Lowered(
        name=name,
        file=folder / "m.onnx",
        model=model,
        moved=halves.error(runs[1], runs[0]),
        quantized=halves.error(runs[0], runs[2]),
        plain=halves.error(runs[3], runs[2]),
    )


def test_the_zoo_computes_the_same(lowered: Lowered) -> None:
    """For the tolerances see `tests/passes/test_lower.py`."""
    assert 0 < lowered.moved <= 2**0.5 * lowered.quantized
    assert lowered.plain <= 2.0**-11 * len(lowered.model.graph) ** 0.5


def test_the_zoo_is_legal_and_half_precision(lowered: Lowered) -> None:
    onnx.checker.check_model(str(lowered.file), full_check=True)
    assert refusals(lowered.model, NEWEST) == ()
    left = [
        name
        for name, value in lowered.model.graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT and (value.const_value or ir.tensor([])).size > 1
    ]
    norms = sum(node.op_type == "InstanceNormalization" for node in lowered.model.graph)
    assert len(left) <= 2 * norms
    assert halves.casts(lowered.model) == 2 + 2 * norms


@needs_rtx
@pytest.mark.rtx
def test_the_zoo_is_built_with_int8_products(lowered: Lowered) -> None:
    found = check(lowered.file)
    assert found.refusal is None
    gemms = [one for one in found.products if one.operator in {"Gemm", "MatMul"}]
    assert [one.name for one in gemms if not (one.expected and one.integer)] == []
    fused = [layer for layer in found.layers if "gemm_mha" in layer.name]
    assert len(fused) == ATTENTIONS.get(lowered.name, 0)

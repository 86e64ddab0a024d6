"""The build check: NVIDIA's parser and builder of TensorRT for RTX, which need no GPU."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from gpusq_compiler.calibration.synthetic import synthesize
from gpusq_compiler.errors import GateError, MissingRuntime, OptionError
from gpusq_compiler.ir import io
from gpusq_compiler.passes.base import Context
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.sparsity.scores import Magnitude
from gpusq_compiler.trt.engines import bindings
from gpusq_compiler.trt.engines.check import Checked, Product, check
from gpusq_compiler.trt.engines.network import network_of
from gpusq_compiler.trt.engines.options import EngineOptions
from gpusq_compiler.trt.engines.profiles import Shapes, profiles_of
from tests import tiny, zoo_models
from tests.trt import fakes
from tests.trt.cases import CASES
from tests.trt.chains import chain

if TYPE_CHECKING:
    from collections.abc import Callable

needs_rtx = pytest.mark.rtx


@pytest.fixture(autouse=True)
def _rtx(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("rtx"):
        pytest.importorskip("tensorrt_rtx", reason="type: pip install tensorrt-rtx")


def save(model: ir.Model, path: Path) -> Path:
    onnx.save(ir.to_proto(model), path)
    return path


@needs_rtx
def test_a_chain_of_products(tmp_path: Path) -> None:
    found = check(save(chain(3), tmp_path / "m.onnx"))
    assert found.refusal is None
    assert [(one.name, one.expected, one.integer) for one in found.products] == [
        ("fc0", True, True),
        ("fc1", True, True),
        ("fc2", True, True),
    ]
    assert "accepts it; 3 of 3 matrix products" in found.summary()
    assert "says nothing about sparsity" in found.summary()
    assert found.rows()[0] == ("fc0", "MatMul", "int8", "int8")
    found.require_integers(tmp_path / "m.onnx")


@needs_rtx
def test_a_refused_node_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = next(case for case in CASES if case.name == "int16 weight")
    found = check(save(case.model(), tmp_path / "m.onnx"))
    assert found.refusal is not None
    assert "tensor 'w8'" in found.refusal.where
    assert "is int16" in str(found.refusal)
    assert found.products == ()
    assert capfd.readouterr() == ("", ""), "the library prints, and nobody shall see it"


@needs_rtx
def test_shapes_are_guessed_or_given(tmp_path: Path) -> None:
    path = save(tiny.conv_bn_relu(), tmp_path / "m.onnx")
    assert check(path).profiles[0].typical == (1, 3, 6, 6)
    given = check(path, Shapes.parse("x:1x3x6x6", "x:2x3x6x6", "x:8x3x6x6"))
    assert (given.profiles[0].smallest[0], given.profiles[0].largest[0]) == (1, 8)
    with pytest.raises(OptionError, match="no input 'y'"):
        check(path, Shapes.parse(optimum="y:1"))


@needs_rtx
def test_weights_in_a_data_file(tmp_path: Path) -> None:
    text = '<ir_version: 9, opset_import: ["" : 17]>'
    proto = onnx.parser.parse_model(
        text + "g (float[2, 64] x) => (float[2, 64] y) { y = MatMul(x, w) }"
    )
    weight = np.eye(64, dtype=np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="d.bin", size_threshold=0)
    assert check(path).refusal is None


@needs_rtx
@pytest.mark.parametrize("name", ["mlp", "attention", "residual"])
def test_what_is_expected_runs(
    name: str, tmp_path: Path, context_for: Callable[..., Context]
) -> None:
    model = tiny.MODELS[name]()
    steps = (Canonicalize(), Prune(), Quantize(), Freeze())
    Pipeline(passes=steps).run(model, context_for(model, target="tensorrt"))
    found = check(save(model, tmp_path / "m.onnx"))
    gemms = [one for one in found.products if one.operator != "Conv"]
    assert all(one.expected and one.integer for one in gemms), gemms


@needs_rtx
@pytest.mark.parametrize(
    "name",
    [
        name if name in zoo_models.SMALL else pytest.param(name, marks=pytest.mark.slow)
        for name in zoo_models.NAMES
    ],
)
def test_the_zoo_is_accepted_and_runs_on_int8(name: str, tmp_path: Path) -> None:
    """Every matrix product that should run on INT8 does."""
    model = io.load(zoo_models.path(name))
    steps = (Canonicalize(), Prune(score=Magnitude()), Quantize(), Freeze())
    few = synthesize(model, count=2, seed=0)
    ctx = Context(workdir=tmp_path, data=few, threads=1, target="tensorrt", synthesised=True)
    Pipeline(passes=steps).run(model, ctx)
    io.save(model, tmp_path / "m.onnx")
    found = check(tmp_path / "m.onnx")
    assert found.refusal is None
    gemms = [one for one in found.products if one.operator in {"Gemm", "MatMul"}]
    assert [one.name for one in gemms if not (one.expected and one.integer)] == []


def test_products_that_run_in_float() -> None:
    def product(name: str, operator: str, integer: bool | None) -> Product:
        return Product(name=name, operator=operator, expected=True, integer=integer)

    products = (
        product("a", "MatMul", True),
        product("b", "Conv", False),
        product("c", "Gemm", None),
    )
    found = Checked(tool="RTX", refusal=None, products=products)
    assert found.disappointing == ()
    more = (*products, product("d", "Gemm", False), product("e", "MatMul", False))
    found = Checked(tool="RTX", refusal=None, products=more)
    assert "1 of 4 matrix products" in found.summary()
    with pytest.raises(GateError) as caught:
        found.require_integers(Path("m.onnx"))
    assert str(caught.value).startswith("m.onnx: ")
    assert "'d' runs in float and should run on INT8, and 1 more" in str(caught.value)
    assert caught.value.exit_code == 5


def test_without_tensorrt_for_rtx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingRuntime, match=r"RTX is not installed.*gpusq-compiler\[rtx\]"):
        check(save(chain(1), tmp_path / "m.onnx"))


@needs_rtx
def test_the_real_api_takes_every_option(tmp_path: Path) -> None:
    """The same code as for TensorRT, on bindings with NVIDIA's library behind them."""
    model = tiny.mlp()
    path = save(model, tmp_path / "m.onnx")
    options = EngineOptions(
        shapes=Shapes.parse("x:1x16", "x:2x16", "x:8x16"),
        workspace=64,
        optimization_level=2,
        hardware="ampere+",
    )
    rtx = bindings.tensorrt_rtx()
    profiles = profiles_of(model, options.shapes)
    with rtx.listening() as heard:
        network = network_of(rtx, path, model, options, profiles)
        plan = network.serialized()
    assert heard.errors == []
    assert plan.nbytes == len(memoryview(plan)) > 1000
    config = network.config
    assert config.get_memory_pool_limit(rtx.api.MemoryPoolType.WORKSPACE) == 64 << 20
    assert config.builder_optimization_level == 2
    assert config.get_flag(rtx.api.BuilderFlag.SPARSE_WEIGHTS)
    assert config.num_optimization_profiles == 1


def signature(function: Any) -> list[str]:
    """Names of the parameters that pybind writes into a docstring."""
    line = (function.__doc__ or "").splitlines()[0]
    inside = line.partition("(")[2].rpartition(") ->")[0]
    return [part.partition(":")[0].strip() for part in inside.split(", ") if ":" in part]


FAKED = (
    fakes.FakeConfig, fakes.FakeBuilder, fakes.FakeParser, fakes.FakeProfile,
    fakes.FakeRegistry, fakes.FakeRuntime, fakes.FakeEngine, fakes.FakeContext,
    fakes.FakeInspector, fakes.FakeTimingCache,
)  # fmt: skip


@needs_rtx
@pytest.mark.parametrize("fake", FAKED, ids=lambda fake: fake.kind)
def test_fakes_have_the_signatures_of_real_bindings(fake: Any) -> None:
    real = getattr(bindings.tensorrt_rtx().api, fake.kind)
    for name, function in inspect.getmembers(fake, inspect.isfunction):
        if name.startswith("_"):
            continue
        ours = list(inspect.signature(function).parameters)
        theirs = signature(getattr(real, name))
        if theirs:  # an overloaded function shows none
            assert ours == theirs, name


@needs_rtx
@pytest.mark.parametrize("fake", FAKED, ids=lambda fake: fake.kind)
def test_what_fakes_can_is_in_real_bindings(fake: Any) -> None:
    real = getattr(bindings.tensorrt_rtx().api, fake.kind)
    ours = {name for name in dir(fake) if not name.startswith("_")} - {"kind"}
    assert ours <= set(dir(real))

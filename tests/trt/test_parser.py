"""NVIDIA's own parser and builder, of TensorRT for RTX, hold the same opinion as `lint`.

They need no GPU to build. Which products run on INT8 is read from the builder's own list of
layers; that a sparse kernel is chosen cannot be seen here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import pytest

from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.trt import operators
from gpusq_compiler.trt.legal import lint
from gpusq_compiler.trt.repair import repair
from gpusq_compiler.trt.rules import NEWEST, Severity
from tests import tiny
from tests.trt.cases import CASES
from tests.trt.test_repair import REPAIRED

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from gpusq_compiler.passes.base import Context, Pass
    from tests.trt.small_graphs import Case

trt: Any = pytest.importorskip(
    "tensorrt_rtx",
    reason="asks NVIDIA's parser, which runs without a GPU; type: pip install tensorrt-rtx",
)
pytestmark = pytest.mark.rtx

NOT_IN_RTX = {"DeformConv"}
"""Operators that only TensorRT itself has."""


@pytest.fixture(scope="module")
def builder() -> Any:
    return trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))


class Listener(trt.ILogger):  # type: ignore[misc]
    """Keeps the list of layers that the builder prints."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = ""

    def log(self, severity: Any, message: str) -> None:
        del severity
        if message.startswith("Layers:"):
            self.layers = message


def integer_products(proto: onnx.ModelProto) -> list[str]:
    """Matrix products and convolutions of an engine whose two factors are INT8."""
    listener = Listener()
    builder = trt.Builder(listener)
    network = builder.create_network(0)
    assert trt.OnnxParser(network, listener).parse(proto.SerializeToString())
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    assert builder.build_serialized_network(network, config) is not None
    pattern = r"^Name: (\S+), LayerType: (?:gemm|correlation), Inputs: (.*?)Outputs:"
    found = re.findall(pattern, listener.layers, re.M)
    types = [(name, re.findall(r"Datatype: (\w+)", inputs)) for name, inputs in found]
    return [name for name, factors in types if factors[:2] == ["Int8", "Int8"]]


def severities(case: Case) -> set[Severity]:
    return {one.severity for one in lint(case.model(), NEWEST)}


PRODUCTS = [c for c in CASES if "(d, wd)" in c.text or "(x, wd)" in c.text]
RUN_IN_FLOAT = [c for c in PRODUCTS if Severity.SLOW in severities(c)]
RUN_IN_INT8 = [
    c
    for c in PRODUCTS
    if "(d, wd)" in c.text and not {Severity.SLOW, Severity.REFUSED} & severities(c)
]


def profile(network: Any, builder: Any) -> Any:
    """Free dimensions are 4."""
    chosen = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        value = network.get_input(index)
        if -1 in tuple(value.shape):
            shape = [4 if size < 0 else size for size in value.shape]
            chosen.set_shape(value.name, shape, shape, shape)
    return chosen


def complaint(proto: onnx.ModelProto, builder: Any) -> str:
    """Why there is no engine; empty if there is one."""
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR))
    if not parser.parse(proto.SerializeToString()):
        return "parser: " + "; ".join(
            parser.get_error(index).desc() for index in range(parser.num_errors)
        )
    config = builder.create_builder_config()
    config.add_optimization_profile(profile(network, builder))
    engine = builder.build_serialized_network(network, config)
    return "builder" if engine is None else ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parser_and_lint_agree(case: Case, builder: Any) -> None:
    refused = [d for d in lint(case.model(), NEWEST) if d.severity is Severity.REFUSED]
    said = complaint(case.proto(), builder)
    assert bool(refused) == bool(said), (said, [str(one) for one in refused])


@pytest.mark.parametrize("case", RUN_IN_FLOAT, ids=lambda case: case.name)
def test_what_is_slow_runs_in_float(case: Case) -> None:
    assert integer_products(case.proto()) == []


@pytest.mark.parametrize("case", RUN_IN_INT8, ids=lambda case: case.name)
def test_what_is_not_slow_runs_in_int8(case: Case) -> None:
    assert len(integer_products(case.proto())) == 1


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_what_we_compile_is_built(
    name: str, frozen: bool, builder: Any, context_for: Callable[..., Context]
) -> None:
    model = tiny.MODELS[name]()
    steps: tuple[Pass, ...] = (Canonicalize(), Prune(), Quantize())
    steps = (*steps, Freeze()) if frozen else steps
    Pipeline(passes=steps).run(model, context_for(model, target="tensorrt"))
    assert complaint(ir.to_proto(model), builder) == ""


@pytest.mark.parametrize("case", REPAIRED, ids=lambda case: case.name)
def test_what_we_repair_is_built(case: Case, builder: Any) -> None:
    assert complaint(ir.to_proto(repair(case.model()).model), builder) == ""


def test_the_parser_knows_the_same_operators(builder: Any) -> None:
    parser = trt.OnnxParser(builder.create_network(0), trt.Logger(trt.Logger.ERROR))
    imported = (operators.ALWAYS | set(operators.SINCE)) - NOT_IN_RTX
    assert [name for name in sorted(imported) if not parser.supports_operator(name)] == []
    refused = set(operators.REFUSED) - {"MultiHeadAttention"}
    assert [name for name in sorted(refused) if parser.supports_operator(name)] == []


def test_no_operator_of_onnx_is_forgotten(builder: Any) -> None:
    import onnx.defs

    parser = trt.OnnxParser(builder.create_network(0), trt.Logger(trt.Logger.ERROR))
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    known = {name for name in names if parser.supports_operator(name)}
    assert known - operators.ALWAYS - set(operators.SINCE) == set()

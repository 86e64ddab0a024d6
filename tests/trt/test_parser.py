"""NVIDIA's own parser and builder, of TensorRT for RTX, hold the same opinion as `lint`.

They need no GPU to build. Which products run on INT8 is read from the builder's own list of
layers; that a sparse kernel is chosen cannot be seen here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.trt.engines import bindings
from gpusq_compiler.trt.engines.check import Checked, check
from gpusq_compiler.trt.legality import operators
from gpusq_compiler.trt.legality.legal import lint
from gpusq_compiler.trt.legality.repair import repair
from gpusq_compiler.trt.legality.rules import NEWEST, Severity
from tests import tiny
from tests.trt.cases import CASES
from tests.trt.test_repair import REPAIRED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gpusq_compiler.passes.base import Context, Pass
    from tests.trt.small_graphs import Case

pytest.importorskip(
    "tensorrt_rtx",
    reason="asks NVIDIA's parser, which runs without a GPU; type: pip install tensorrt-rtx",
)
pytestmark = pytest.mark.rtx

NOT_IN_RTX = {"DeformConv"}
"""Operators that only TensorRT itself has."""


@pytest.fixture
def checked(tmp_path: Path) -> Callable[[onnx.ModelProto], Checked]:
    """What parser and builder make of a model."""

    def ask(proto: onnx.ModelProto) -> Checked:
        onnx.save(proto, tmp_path / "m.onnx")
        return check(tmp_path / "m.onnx")

    return ask


@pytest.fixture(scope="module")
def parser() -> Iterator[Any]:
    found = bindings.tensorrt_rtx()
    builder = found.builder()
    network = builder.create_network(0)
    made = found.api.OnnxParser(network, found.logger)
    yield made
    del made, network, builder  # a network has to live as long as its parser


def integers(checked: Checked) -> int:
    """How many products of an engine have two INT8 factors."""
    return sum(layer.is_integer is True for layer in checked.layers)


def severities(case: Case) -> set[Severity]:
    return {one.severity for one in lint(case.model(), NEWEST)}


PRODUCTS = [c for c in CASES if "(d, wd)" in c.text or "(x, wd)" in c.text]
RUN_IN_FLOAT = [c for c in PRODUCTS if Severity.SLOW in severities(c)]
RUN_IN_INT8 = [
    c
    for c in PRODUCTS
    if "(d, wd)" in c.text and not {Severity.SLOW, Severity.REFUSED} & severities(c)
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parser_and_lint_agree(case: Case, checked: Callable[..., Checked]) -> None:
    refused = [d for d in lint(case.model(), NEWEST) if d.severity is Severity.REFUSED]
    said = checked(case.proto()).refusal
    assert bool(refused) == (said is not None), (said, [str(one) for one in refused])


@pytest.mark.parametrize("case", RUN_IN_FLOAT, ids=lambda case: case.name)
def test_what_is_slow_runs_in_float(case: Case, checked: Callable[..., Checked]) -> None:
    assert integers(checked(case.proto())) == 0


@pytest.mark.parametrize("case", RUN_IN_INT8, ids=lambda case: case.name)
def test_what_is_not_slow_runs_in_int8(case: Case, checked: Callable[..., Checked]) -> None:
    assert integers(checked(case.proto())) == 1


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_what_we_compile_is_built(
    name: str,
    frozen: bool,
    checked: Callable[..., Checked],
    context_for: Callable[..., Context],
) -> None:
    model = tiny.MODELS[name]()
    steps: tuple[Pass, ...] = (Canonicalize(), Prune(), Quantize())
    steps = (*steps, Freeze()) if frozen else steps
    Pipeline(passes=steps).run(model, context_for(model, target="tensorrt"))
    found = checked(ir.to_proto(model))
    assert found.refusal is None
    assert found.disappointing == ()


@pytest.mark.parametrize("case", REPAIRED, ids=lambda case: case.name)
def test_what_we_repair_is_built(case: Case, checked: Callable[..., Checked]) -> None:
    assert checked(ir.to_proto(repair(case.model()).model)).refusal is None


def test_the_parser_knows_the_same_operators(parser: Any) -> None:
    imported = (operators.ALWAYS | set(operators.SINCE)) - NOT_IN_RTX
    assert [name for name in sorted(imported) if not parser.supports_operator(name)] == []
    refused = set(operators.REFUSED) - {"MultiHeadAttention"}
    assert [name for name in sorted(refused) if parser.supports_operator(name)] == []


def test_no_operator_of_onnx_is_forgotten(parser: Any) -> None:
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    known = {name for name in names if parser.supports_operator(name)}
    assert known - operators.ALWAYS - set(operators.SINCE) == set()

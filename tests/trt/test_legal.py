"""Each rule on small graphs: broken and kept, in every version; and what we compile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import OptionError
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.trt.legality.legal import RULES, lint
from gpusq_compiler.trt.legality.rules import MEANING, NEWEST, Severity, Version
from tests import tiny
from tests.trt.cases import CASES
from tests.trt.small_graphs import CODES, STEP, Case

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpusq_compiler.passes.base import Context

ROOT = Path(__file__).parents[2]
EIGHT, TEN = Version(8, 6), Version(10)


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def names(model: ir.Model, version: Version = NEWEST) -> set[str]:
    return {found.rule.name for found in lint(model, version)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rules(case: Case) -> None:
    model = case.model()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert names(model) == case.broken
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_every_rule_is_broken_by_some_case() -> None:
    only_older = {rule.name for rule in RULES if NEWEST.major not in rule.majors}
    assert (
        set().union(*(case.broken for case in CASES)) == {r.name for r in RULES} - only_older
    )
    assert only_older == {"function", "opset", "computed-scale"}


@pytest.mark.parametrize(
    ("name", "version", "broken"),
    [
        ("gelu", "8.6", {"operator", "opset"}),
        ("gelu", "10.0", {"operator"}),
        ("gelu", "10.1", set()),
        ("gelu", "10", set()),
        ("opset 24", "8.6", {"opset"}),
        ("opset 24", "10", set()),
        ("plain", "8.6", set()),
        ("scale from inputs", "8.6", {"computed-scale"}),
        ("scale from inputs", "10", {"computed-scale"}),
        ("scale from inputs", "11", {"runtime-scale"}),
        ("norm", "8.6", set()),
    ],
)
def test_versions_differ(name: str, version: str, broken: set[str]) -> None:
    assert names(named(name).model(), Version.parse(version)) == broken


def test_an_opset_may_be_too_new_for_ten() -> None:
    model = tiny.model_of("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    model.opset_imports[""] = 25
    assert names(model, TEN) == {"opset"}
    assert names(model) == set()


FUNCTION = """<ir_version: 9, opset_import: ["" : 17, "my" : 1]>
g (float[4, 16] x) => (float[4, 16] y) { y = my.Foo(x) }
<domain: "my", opset_import: ["" : 17]> Foo (a) => (b) { b = OPERATOR(a) }"""


@pytest.mark.parametrize(
    ("operator", "version", "broken"),
    [
        ("Relu", EIGHT, {"function"}),
        ("Relu", TEN, set()),
        ("Det", NEWEST, {"operator"}),
    ],
)
def test_functions(operator: str, version: Version, broken: set[str]) -> None:
    text = FUNCTION.replace("OPERATOR", operator)
    assert names(ir.from_proto(onnx.parser.parse_model(text)), version) == broken


def test_a_plugin_is_not_judged() -> None:
    text = FUNCTION[: FUNCTION.index("<domain")].replace("my.Foo", "my.EfficientNMS_TRT")
    assert names(ir.from_proto(onnx.parser.parse_model(text))) == set()


def test_a_finding_says_where_what_and_what_to_do() -> None:
    (found,) = lint(named("dead channel").model())
    assert str(found) == (
        "refused  DequantizeLinear 'wd': scale 3 of 8 is 0. "
        "Give dead channels a tiny positive scale; --fix does it where it is 0"
    )
    (found,) = lint(named("sparse, float output").model())
    assert str(found).endswith(
        "An output of the model; leave it, unless its reader takes int8"
    )
    found = lint(named("MatMulInteger").model())[0]
    assert "Use QuantizeLinear and DequantizeLinear around MatMul" in str(found)


@pytest.mark.parametrize("text", ["7", "8", "8.5", "9", "12", "", "x", "10.x"])
def test_a_version_has_to_be_known(text: str) -> None:
    if text == "8":
        assert str(Version.parse(text)) == "8"
        return
    with pytest.raises(OptionError, match="no version of TensorRT"):
        Version.parse(text)


@pytest.mark.parametrize("version", ["8.6", "10", "11"])
@pytest.mark.parametrize("name", tiny.MODELS)
@pytest.mark.parametrize("frozen", [False, True])
def test_what_we_compile_is_never_refused(
    name: str, version: str, frozen: bool, context_for: Callable[..., Context]
) -> None:
    model = tiny.MODELS[name]()
    steps: tuple[Any, ...] = (Canonicalize(), Prune(), Quantize())
    ctx = context_for(model, target="tensorrt")
    Pipeline(passes=(*steps, Freeze()) if frozen else steps).run(model, ctx)
    serious = {
        str(found)
        for found in lint(model, Version.parse(version))
        if found.severity in {Severity.REFUSED, Severity.DIFFERS}
    }
    opset = model.opset_imports[""]
    assert all("opset" in line for line in serious) if opset > 17 else not serious


def test_the_page_has_every_rule() -> None:
    page = (ROOT / "docs" / "trt.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| ([\d., ]+) \| (.*) \| (.*) \|$", page, re.M)
    assert rows == [
        (
            rule.name,
            rule.severity.value,
            ", ".join("8.6" if major == 8 else str(major) for major in rule.majors),
            rule.reason,
            "yes" if rule.repairable else "",
        )
        for rule in RULES
    ]
    for severity, meaning in MEANING.items():
        assert f"`{severity.value}`: {meaning}" in page


def test_the_example_of_the_page() -> None:
    text = """g (float[4, 16] x) => (float[4, 8] y) {
        a = QuantizeLinear(x, s, z)
        b = DequantizeLinear(a, s, z)
        w = DequantizeLinear<axis = 0>(codes, sw)
        y = MatMul(b, w)
    }"""
    constants = {
        "s": STEP,
        "z": np.array(128, np.uint8),
        "sw": np.full(16, 0.02, np.float32),
        "codes": CODES,
    }
    model = Case("", text, frozenset(), constants).model()
    model.graph.initializers["codes"].name = "fc.weight"
    for output, name in (("a", "q"), ("b", "dq"), ("y", "fc")):
        tiny.node(model, output).name = name
    page = (ROOT / "docs" / "trt.md").read_text(encoding="utf-8")
    assert "\n".join(map(str, lint(model))) in page


def test_rules_are_sentences() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        for text in (rule.reason, rule.remedy):
            assert text[0].isupper()
            assert not text.endswith(".")


def test_external_weights_are_read(tmp_path: Path) -> None:
    proto = named("dead channel").proto()
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="data", size_threshold=0)
    assert names(ir.load(path)) == {"scale"}


def test_a_default_of_an_input_is_a_constant() -> None:
    proto = named("uint8 weight").proto()
    info = onnx.helper.make_tensor_value_info("w8", onnx.TensorProto.UINT8, (16, 8))
    proto.graph.input.append(info)
    assert names(ir.from_proto(proto)) == {"codes"}


def test_half_of_a_pattern_is_no_pattern() -> None:
    model = named("sparse, float output").model()
    value = model.graph.initializers["w8"]
    assert value.const_value is not None
    dense = value.const_value.numpy().copy()
    dense[1, 0] = 5  # three of four in one group
    value.const_value = ir.tensor(np.ascontiguousarray(dense))
    assert names(model) == set()

"""What stays float32 and why: each rule on one graph, with its near misses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
import pytest

from gpusq_compiler.ir import edit
from gpusq_compiler.trt.half.wide import Sight, kept
from tests import tiny
from tests.trt.halves import HALF

if TYPE_CHECKING:
    from collections.abc import Mapping

BRAIN = ir.DataType.BFLOAT16
HEAD = "net (float[N, 4, 8] x) => (float[N, 4, 8] y) "


def rules(
    text: str,
    *,
    kind: ir.DataType = HALF,
    largest: Mapping[str, float] | None = None,
    rows: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """The rule that keeps each node, by its first output."""
    model = tiny.model_of(text)
    edit.infer_shapes(model)
    sight = Sight(
        graph=model.graph, kind=kind, opset=17, largest=largest or {}, rows=rows or {}
    )
    found = kept(sight)
    order = [node for node in model.graph if node in {one.node for one in found}]
    assert [one.node for one in found] == order
    for one in found:
        assert len(one.reason.split()) > 2
        assert one.where in tiny_names(model)
    return {one.node.outputs[0].name or "": one.rule for one in found}


def tiny_names(model: ir.Model) -> set[str]:
    values = {v.name or "" for node in model.graph for v in (*node.inputs, *node.outputs) if v}
    return values | {node.name or "" for node in model.graph}


NORM = """<float[4] g> {
    a = InstanceNormalization(x, g, g)
    l = LayerNormalization(a, w)
    y = Relu(l)
}"""


def test_norms_stay_unless_they_compute_in_float_themselves() -> None:
    text = HEAD + NORM.replace("<float[4] g>", "<float[4] g, float[8] w>")
    assert rules(text) == {"a": "norm"}
    assert rules(text.replace("(a, w)", "<stash_type = 10>(a, w)")) == {
        "a": "norm",
        "l": "norm",
    }


def test_a_norm_that_is_written_out_stays() -> None:
    text = """<float two = {2}> {
        q = Pow(x, two) v = ReduceMean<axes = [-1]>(q) r = Sqrt(v) y = Div(x, r)
    }"""
    assert rules(HEAD + text) == dict.fromkeys("qvry", "norm")


def test_sums_of_squares_stay() -> None:
    text = "{ r = ReduceL2<axes = [-1]>(x) s = ReduceSum(x) t = Add(r, s) y = Mul(x, t) }"
    assert rules(HEAD + text) == {"r": "sum-of-squares"}


@pytest.mark.parametrize(
    ("kind", "row", "stays"),
    [(HALF, 2048, False), (HALF, 2049, True), (BRAIN, 256, False), (BRAIN, 257, True)],
)
def test_long_rows_of_softmax_stay(kind: ir.DataType, row: int, stays: bool) -> None:
    found = rules(HEAD + "{ y = Softmax(x) }", kind=kind, rows={"Softmax.y": row})
    assert found == ({"y": "long-softmax"} if stays else {})


@pytest.mark.parametrize(
    ("constant", "stays"),
    [
        ("float c = {65504}", False),
        ("float c = {65600}", True),
        ("float c = {-3.4e38}", True),
        ("float[8] c = {1, 2, 3, 4, 5, 6, 7, 1e6}", True),
        ("float c = {1e-5}", True),
        ("float c = {6.2e-5}", False),
        ("float c = {0}", False),
        ("float[8] c = {1e-6, 0, 0, 0, 0, 0, 0, 0}", False),
        ("float[8] c = {1e-6, 1, 0, 0, 0, 0, 0, 0}", False),
    ],
)
def test_constants_that_half_precision_does_not_hold(constant: str, stays: bool) -> None:
    text = f"{HEAD} <{constant}> {{ a = Add(x, c) y = Relu(a) }}"
    assert rules(text) == ({"a": "constant"} if stays else {})
    assert rules(text, kind=BRAIN) == {}


def test_an_infinite_mask_is_held() -> None:
    model = tiny.model_of(HEAD + "<float c = {1}> { y = Add(x, c) }")
    edit.infer_shapes(model)
    value = model.graph.initializers["c"]
    edit.replace_weight(value, tiny.weight(model, "c") * float("-inf"))
    sight = Sight(graph=model.graph, kind=HALF, opset=17, largest={}, rows={})
    assert kept(sight) == []


def test_small_divisors_stay_as_they_are() -> None:
    text = HEAD + "<float[8] c = {1e-6, 2e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6}> { %s }"
    assert rules(text % "y = Div(x, c)") == {"y": "constant"}
    assert rules(text % "y = Mul(x, c)") == {}


LARGE = "{ a = Exp(x) b = Relu(a) c = Abs(b) t = Shape(c) y = Reshape(c, t) }"


@pytest.mark.parametrize("value", [1.1e4, float("inf"), float("nan")])
def test_who_writes_and_reads_large_tensors_stays(value: float) -> None:
    assert rules(HEAD + LARGE, largest={"a": value}) == {"a": "large", "b": "large"}
    assert rules(HEAD + LARGE, largest={"x": value}) == {"a": "large"}
    assert rules(HEAD + LARGE, largest={"a": value}, kind=BRAIN) == {}


def test_what_is_just_large_enough_is_not_large() -> None:
    assert rules(HEAD + LARGE, largest={"a": 1e4, "b": 9.9e3}) == {}


def test_what_has_no_known_type_stays() -> None:
    model = tiny.model_of(HEAD + "{ a = Relu(x) y = Abs(a) }")
    edit.infer_shapes(model)
    value = tiny.node(model, "Relu.a").outputs[0]
    sight = Sight(graph=model.graph, kind=HALF, opset=17, largest={}, rows={})
    for kind in (None, ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))):
        value.type = kind
        assert [one.rule for one in kept(sight)] == ["unknown-type"] * 2

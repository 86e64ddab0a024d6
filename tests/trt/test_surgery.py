"""Surgery for TensorRT in GraphSurgeon: the same function in what the importer knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.ir import edit
from gpusq_compiler.ir.surgeon import surgery
from gpusq_compiler.trt.legality.legal import refusals
from gpusq_compiler.trt.legality.rules import NEWEST
from gpusq_compiler.trt.legality.surgery import drop_dead_outputs, spell_out
from tests import tiny
from tests.trt import halves

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

POOL = "MaxPool<kernel_shape = [2, 2]>"
HEAD = "net (float[1, 2, 4, 4] x) => (float[1, 2, 3, 3] y%s) <float[3] g> "
NORM = HEAD + "{ p%s = " + POOL + "(x) y, m, d = LayerNormalization<axis = -1>(p, g) }"
BODY = """
net (float[1, 2, 4, 4] x, bool up) => (float[1, 2, 3, 3] y) {
    y = If(up) <
        then_branch = one () => (float[1, 2, 3, 3] a%s) { a, i = %s(x) },
        else_branch = two () => (float[1, 2, 3, 3] b%s) { b, j = %s(x) }
    >
}"""


def cut(model: ir.Model) -> list[str]:
    with surgery(model, author="test") as graph:
        return drop_dead_outputs(graph)


def test_outputs_that_nobody_reads_go() -> None:
    model = tiny.model_of(NORM % ("", ", i"))
    x = {"x": np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)}
    before = halves.run(model, x)["y"]
    assert cut(model) == ["MaxPool.p", "LayerNormalization.y"]
    assert [len(node.outputs) for node in model.graph] == [1, 1]
    assert refusals(model, NEWEST) == ()
    assert np.array_equal(halves.run(model, x)["y"], before)
    assert cut(model) == []


@pytest.mark.parametrize("text", [
    NORM % (", int64[1, 2, 3, 3] i", ", i"),
    (NORM % (", float[1, 2, 3, 3] z", ", i")).replace("y, m, d", "f = Cast<to = 1>(i) "
                                                      "z = Relu(f) y, m, d"),
])  # fmt: skip
def test_outputs_that_are_read_stay(text: str) -> None:
    model = tiny.model_of(text)
    assert cut(model) == ["LayerNormalization.y"]
    assert [one.rule.name for one in refusals(model, NEWEST)] == ["second-output"]


def test_bodies_are_operated_on_too() -> None:
    model = tiny.model_of(BODY % ("", POOL, "", POOL))
    assert len(cut(model)) == 2
    assert refusals(model, NEWEST) == ()


def net(op_type: str, *inputs: str, kind: str = "float", **attributes: float) -> ir.Model:
    """One operator of the runtime between two of the standard."""
    model = tiny.model_of(f"""
    net ({kind}[N, 8] x) => ({kind}[N, 8] y) <{kind}[8] b> {{
        a = Neg(x) g = Relu(a) y = Add(g, b)
    }}""")
    node = tiny.node(model, "Relu.g")
    node.domain, node.op_type = "com.microsoft", op_type
    known: dict[str, ir.Value | None] = {
        "a": node.inputs[0],
        "b": model.graph.initializers["b"],
    }
    node.resize_inputs(len(inputs))
    for index, name in enumerate(inputs):
        node.replace_input_with(index, known[name])
    for name, number in attributes.items():
        node.attributes[name] = ir.AttrFloat32(name, number)
    model.opset_imports["com.microsoft"] = 1
    edit.infer_shapes(model)
    return model


CASES = {
    "BiasGelu": net("BiasGelu", "a", "b"),
    "FastGelu": net("FastGelu", "a"),
    "FastGelu with a bias": net("FastGelu", "a", "b"),
    "QuickGelu": net("QuickGelu", "a"),
    "QuickGelu of another slope": net("QuickGelu", "a", alpha=1.0),
    "half precision": net("FastGelu", "a", "b", kind="float16"),
}


@pytest.mark.parametrize("case", CASES)
def test_gelu_of_the_runtime_is_written_in_the_standard(case: str) -> None:
    model = CASES[case].clone()
    kind = np.float16 if case == "half precision" else np.float32
    x: dict[str, Array] = {"x": np.linspace(-6, 6, 80).reshape(10, 8).astype(kind)}
    before = halves.run(model, x)["y"]
    assert [one.rule.name for one in refusals(model, NEWEST)] == ["operator"]
    with surgery(model, author="test") as graph:
        assert spell_out(graph) == ["Relu.g"]
    assert refusals(model, NEWEST) == ()
    assert {node.domain for node in model.graph} == {""}
    # float32: the runtime's own erf and tanh; float16: it computes in float32 inside
    tolerance = 2e-2 if kind is np.float16 else 1e-5
    np.testing.assert_allclose(halves.run(model, x)["y"], before, atol=tolerance)
    halves.require_valid(model)
    assert [v.name for v in model.graph.outputs] == ["y"]


@pytest.mark.parametrize("domain", ["", "their.own"])
def test_what_only_has_the_name_is_left(domain: str) -> None:
    model = CASES["FastGelu"].clone()
    tiny.node(model, "Relu.g").domain = domain or "their.own"
    model.opset_imports["their.own"] = 1
    with surgery(model, author="test") as graph:
        assert spell_out(graph) == []

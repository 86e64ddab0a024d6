"""Raising the opset in place: the same numbers, the same objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.defs
import onnx_ir as ir
import onnxruntime
import pytest

from gpusq_compiler.ir import opset
from tests import tiny

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

NEW = {
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BlackmanWindow", "CenterCropPad",
    "Col2Im", "DFT", "DeformConv", "GridSample", "GroupNormalization", "HammingWindow",
    "HannWindow", "HardSwish", "LayerNormalization", "MelWeightMatrix", "Mish", "STFT",
    "SequenceMap", "Trilu",
}  # fmt: skip
"""Operators that came between opsets 14 and 19 and did not change since."""

REDUCED = """
net (float[2, 3, 4] x) => (float[2, 1, 4] y) {
    y = %s<axes = [1]>(x)
}"""
SPLIT = """
net (float[2, 6] x) => (float[2, 2] y, float[2, 2] z) {
    y, m, z = Split<axis = 1>(x)
}"""
GIVEN = """
net (float[2, 6] x) => (float[2, 4] y) <int64[2] sizes = {2, 4}> {
    m, y = Split<axis = 1>(x, sizes)
}"""
ALIGNED = """
net (float[1, 1, 8, 8] x) => (float[1, 1, 2, 2] y)
<float[1, 4] boxes = {1, 1, 5, 6}, int64[1] which = {0}> {
    y = RoiAlign<output_height = 2, output_width = 2%s>(x, boxes, which)
}"""
STATISTICS = """
net (float[2, 3, 4] x) => (float[2, 3, 4] y) <float[3] g, float[3] var> {
    y, m, v, s, t = BatchNormalization(x, g, g, g, var)
}"""
IN_BODY = """
net (float[2, 3, 4] x, bool up) => (float[2, 1, 4] y) {
    y = If(up) <
        then_branch = one () => (float[2, 1, 4] a) { a = ReduceMean<axes = [1]>(x) },
        else_branch = two () => (float[2, 1, 4] b) { b = ReduceMax<axes = [1]>(x) }
    >
}"""


def run(model: ir.Model, *more: Array) -> list[Array]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    first, *others = session.get_inputs()
    x = np.random.default_rng(3).uniform(0.5, 2, first.shape).astype(np.float32)
    feeds = {first.name: x, **dict(zip([i.name for i in others], more, strict=True))}
    found: list[Array] = session.run(None, feeds)
    return found


def raised(text: str, since: int, to: int = 19) -> tuple[ir.Model, ir.Model]:
    before = tiny.model_of(text, opset=since)
    after = before.clone()
    assert opset.obstacle(after, to) is None
    opset.lift(after, to)
    assert after.opset_imports[""] == to
    return before, after


@pytest.mark.parametrize("since", [13, 17])
@pytest.mark.parametrize("op_type", opset.REDUCTIONS)
def test_axes_of_reductions_become_an_input(op_type: str, since: int) -> None:
    before, after = raised(REDUCED % op_type, since)
    assert "axes" not in after.graph[0].attributes
    assert all(map(np.array_equal, run(before), run(after)))


def test_a_reduction_of_everything_needs_no_axes() -> None:
    text = "net (float[2, 3] x) => (float y) { y = ReduceMean<keepdims = 0>(x) }"
    before, after = raised(text, 17)
    assert len(after.graph[0].inputs) == 1
    assert run(before) == run(after)


@pytest.mark.parametrize("text", [SPLIT, GIVEN])
def test_equal_parts_are_counted(text: str) -> None:
    before, after = raised(text, 17)
    assert ("num_outputs" in after.graph[0].attributes) == (text == SPLIT)
    assert all(map(np.array_equal, run(before), run(after)))


@pytest.mark.parametrize(
    ("more", "mode"),
    [("", "output_half_pixel"), (', mode = "max"', "output_half_pixel")],
)
def test_the_old_default_of_a_mode_is_written_out(more: str, mode: str) -> None:
    before, after = raised(ALIGNED % more, 15)
    assert after.graph[0].attributes["coordinate_transformation_mode"].as_string() == mode
    assert all(map(np.allclose, run(before), run(after)))


def test_nothing_is_done_across_no_change() -> None:
    before, after = raised(ALIGNED % "", 16)
    assert "coordinate_transformation_mode" not in after.graph[0].attributes
    assert all(map(np.array_equal, run(before), run(after)))
    before, after = raised(REDUCED % "ReduceMean", 15, 17)
    assert "axes" in after.graph[0].attributes


def test_bodies_are_raised_too() -> None:
    before, after = raised(IN_BODY, 17)
    for up in (True, False):
        given = np.array(up)
        assert all(map(np.array_equal, run(before, given), run(after, given)))


def test_objects_and_what_is_written_on_them_stay() -> None:
    model = tiny.conv_bn_relu()
    value = model.graph.initializers["w1"]
    value.metadata_props["their.key"] = "kept"
    tensor, nodes = value.const_value, list(model.graph)
    opset.lift(model, 19)
    assert model.graph.initializers["w1"] is value
    assert value.const_value is tensor
    assert value.metadata_props == {"their.key": "kept"}
    assert list(model.graph) == nodes
    assert model.ir_version >= opset.IR_VERSION


def test_a_newer_model_is_left() -> None:
    model = tiny.int4_weight()
    opset.lift(model, 19)
    assert model.opset_imports[""] == 21


@pytest.mark.parametrize(
    ("text", "since", "to", "said"),
    [
        (SPLIT, 11, 19, "opset 11 is not raised"),
        (SPLIT, 17, 20, "to 20 here"),
        (STATISTICS, 13, 19, "computes statistics"),
    ],
)
def test_what_cannot_be_raised_says_why(text: str, since: int, to: int, said: str) -> None:
    model = tiny.model_of(text, opset=max(since, 13))
    model.opset_imports[""] = since
    assert said in (opset.obstacle(model, to) or "")


def test_no_operator_that_changed_is_forgotten() -> None:
    changed = {
        schema.name
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.domain == "" and opset.OLDEST < schema.since_version <= opset.NEWEST
    }
    stepped = {op_type for op_type, _, _ in opset.STEPS}
    assert changed == opset.SAME | stepped | NEW | {"BatchNormalization"}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.name in NEW - {"HardSwish", "Trilu"} and schema.domain == "":
            assert schema.since_version > 13

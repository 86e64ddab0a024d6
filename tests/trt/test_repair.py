"""A repaired model is accepted, and computes the same up to the steps of its quantizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from gpusq_compiler.trt.legality.legal import RULES, lint
from gpusq_compiler.trt.legality.repair import repair
from gpusq_compiler.trt.legality.rules import Severity, Version
from tests import tiny
from tests.trt.cases import CASES
from tests.trt.small_graphs import CODES, STEP, STEPS, Case, with_element

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.runtime.samples import Array

BAD = {Severity.REFUSED, Severity.DIFFERS}
REPAIRABLE = {rule.name for rule in RULES if rule.repairable}
LEFT = {
    "custom operator",
    "operator in a branch",
    "operator without importer",
    "indices of a pool",
    "mean of a norm",
    "negative scale",
    "scale that is no number",
    "uint8 input",
}
REPAIRED = [c for c in CASES if c.broken and c.broken <= REPAIRABLE and c.name not in LEFT]


def run(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def feeds_of(proto: onnx.ModelProto) -> dict[str, Array]:
    """Values of both signs, in the range of every quantizer with a zero point."""
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(5).normal(0, 1, shape).clip(-2.4, 2.4)
    return {"x": x.astype(np.float32)}


def watched(case: Case) -> onnx.ModelProto:
    """The case with the outputs of its DequantizeLinear nodes as outputs of the model."""
    proto = case.proto()
    known = {output.name for output in proto.graph.output}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] not in known:
            proto.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    return proto


def steps(proto: onnx.ModelProto) -> dict[str, Array]:
    """The scale of every DequantizeLinear, shaped to broadcast along its axis."""
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    found = {}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear":
            scale = constants[node.input[1]]
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            codes = constants.get(node.input[0], scale)
            kernel = (1,) * (codes.ndim - 1)
            found[node.output[0]] = scale.reshape(-1, *kernel) if axis == 0 else scale
    return found


@pytest.mark.parametrize("case", REPAIRED, ids=lambda case: case.name)
def test_repaired_models_are_accepted(case: Case) -> None:
    model = case.model()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    done = repair(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert done.places
    assert [str(d) for d in lint(done.model) if d.severity in BAD] == []
    onnx.checker.check_model(ir.to_proto(done.model), full_check=True)
    assert repair(done.model).places == ()


def test_most_kinds_of_defects_are_repaired() -> None:
    assert len(REPAIRED) >= 12
    assert set().union(*(case.broken for case in REPAIRED)) == REPAIRABLE - {"function"}


@pytest.mark.parametrize(
    "case", [c for c in REPAIRED if "branch" not in c.name], ids=lambda case: case.name
)
def test_values_move_by_half_a_step_of_each_quantizer(case: Case) -> None:
    proto = watched(case)
    repaired = ir.to_proto(repair(ir.from_proto(proto)).model)
    feeds = feeds_of(proto)
    first, second = run(proto, feeds), run(repaired, feeds)
    old, new = steps(proto), steps(repaired)
    for name in new:
        half = (old[name] + new[name]) / 2
        bound = np.where(old[name] == 0, 128 * new[name], half)  # a dead one had the value 0
        assert np.all(np.abs(second[name] - first[name]) <= bound * 1.001), name
    scales = [np.max(new[name] + old[name]) / 2 for name in new]
    terms = 72 if case.name.startswith("conv") else 16
    largest = max([float(np.max(np.abs(first[name]))) for name in new] + [2.6])
    assert np.max(np.abs(second["y"] - first["y"])) <= sum(scales) * terms * largest + 1e-5


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def test_what_a_range_from_0_cut_off_stays_cut_off() -> None:
    proto = watched(case_of("unsigned"))
    x = np.full((4, 16), -1, np.float32)
    repaired = repair(ir.from_proto(proto))
    assert tiny.operators(repaired.model).count("Relu") == 1
    assert not np.any(run(ir.to_proto(repaired.model), {"x": x})["d"])


def test_a_range_behind_relu_needs_no_second_one() -> None:
    model = tiny.model_of("""
    g (float[4, 8] x) => (float[4, 8] y) <float scale, uint8 z = {0}> {
        r = Relu(x)
        t = Reshape(r, s)
        q = QuantizeLinear(t, scale, z)
        y = DequantizeLinear(q, scale, z)
    }""".replace("uint8 z = {0}", "uint8 z = {0}, int64[2] s = {4, 8}"))  # fmt: skip
    assert tiny.operators(repair(model).model).count("Relu") == 1


def test_the_new_scale_holds_the_old_range() -> None:
    for zero, farthest in ((0, 255), (128, 127), (100, 155), (127, 128), (255, 255)):
        case = case_of("asymmetric uint8")
        constants = {**case.constants, "z": np.array(zero, np.uint8)}
        model = repair(Case("", case.text, case.broken, constants).model()).model
        scale = tiny.node(model, "q").inputs[1]
        assert scale is not None
        assert scale.const_value is not None
        expected = np.float32(STEP * np.float32(farthest / 127))
        assert np.allclose(scale.const_value.numpy(), expected, rtol=1e-6)


def test_codes_that_fit_are_moved_exactly() -> None:
    case = case_of("uint8 weight")
    unsigned = (CODES.astype(np.int16) + 128).astype(np.uint8)
    zeros = np.full(8, 128, np.uint8)
    constants = {**case.constants, "w8": unsigned, "zw": zeros}
    model = repair(Case("", case.text, case.broken, constants).model()).model
    codes, scale, _ = tiny.node(model, "wd").inputs
    assert codes is not None
    assert codes.const_value is not None
    assert scale is not None
    assert scale.const_value is not None
    assert np.array_equal(codes.const_value.numpy(), CODES)
    assert np.array_equal(scale.const_value.numpy(), STEPS)


def test_codes_that_do_not_fit_get_the_scale_of_their_channel() -> None:
    case = case_of("uint8 weight")
    unsigned = np.zeros((16, 8), np.uint8)
    unsigned[0] = [255, 254, 128, 127, 5, 200, 0, 1]
    constants = {**case.constants, "w8": unsigned}
    model = repair(Case("", case.text, case.broken, constants).model()).model
    codes, scale, _ = tiny.node(model, "wd").inputs
    assert codes is not None
    assert codes.const_value is not None
    assert scale is not None
    assert scale.const_value is not None
    for channel, code in enumerate(unsigned[0].tolist()):
        step = 0.02 * max(code, 127) / 127
        assert np.isclose(scale.const_value.numpy()[channel], step)
        assert codes.const_value.numpy()[0, channel] == round(code * 0.02 / step)


def test_a_dead_channel_stays_zero() -> None:
    case = case_of("dead channel")
    proto = case.proto()
    feeds = feeds_of(proto)
    repaired = repair(case.model())
    assert "1 scales of 0" in str(repaired.places[0].what)
    y = run(ir.to_proto(repaired.model), feeds)["y"]
    assert np.max(np.abs(y[:, 3])) < 1e-6
    others = with_element(np.ones(8), 3, 0).astype(bool)
    assert np.array_equal(y[:, others], run(proto, feeds)["y"][:, others])


def test_an_int32_bias_keeps_its_values() -> None:
    case = case_of("int32 bias")
    repaired = repair(case.model()).model
    feeds = feeds_of(case.proto())
    assert tiny.operators(repaired) == ["Gemm"]
    assert np.allclose(
        run(ir.to_proto(repaired), feeds)["y"], run(case.proto(), feeds)["y"], atol=1e-6
    )


@pytest.mark.parametrize("name", sorted(LEFT))
def test_what_has_no_repair_is_left(name: str) -> None:
    case = case_of(name)
    done = repair(case.model())
    assert done.places == ()
    assert {d.rule.name for d in lint(done.model)} == case.broken


def test_codes_that_leave_the_model_are_left() -> None:
    text = "g (float[4] x) => (uint8[4] y) { y = QuantizeLinear(x, s, z) }"
    constants = {"s": STEP, "z": np.array(7, np.uint8)}
    assert repair(Case("", text, frozenset(), constants).model()).places == ()


def test_functions_are_inlined_for_old_versions() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 17, "my" : 1]>
        g (float[4] x) => (float[4] y) { y = my.Foo(x) }
        <domain: "my", opset_import: ["" : 17]> Foo (a) => (b) { b = Relu(a) }""")
    )
    done = repair(model)
    assert [place.where for place in done.places] == ["function 'Foo'"]
    assert lint(done.model, Version(8, 6)) == ()

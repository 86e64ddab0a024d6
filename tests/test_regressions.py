"""Failures that other tools were seen to have, each as a small file compiled from end to end.

What other tests of this suite hold on to already:

==============================================  ===============================================
NaN or wrong data end with one line             bad_input/test_bad_data.py
a missing or corrupt model ends with one line   bad_input/test_bad_model.py
a second run changes nothing                    passes/test_contract.py
what was compiled is not compiled again         test_bad_input.py
no calibration data: said openly, stamped       test_outcome.py
opset domains, metadata, by pass                passes/test_contract.py
any layout, float and codes                     passes/test_prune_layouts.py
gradients equal finite differences              train/test_gradient.py
==============================================  ===============================================
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from gpusq_compiler import compile_model
from gpusq_compiler.passes import registry
from gpusq_compiler.recipe import Overrides
from gpusq_compiler.runtime.metrics import cosine
from tests import judge, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.quant.observers import Observer
    from gpusq_compiler.report import CompileReport
    from gpusq_compiler.runtime.samples import Array

ONE_SHOT, TRAINED = "prune,quantize", "prune,qat"


def compiled(
    model: onnx.ModelProto | ir.Model, folder: Path, passes: str = ONE_SHOT, steps: int = 2
) -> tuple[onnx.ModelProto, CompileReport]:
    """The file that a compile of this model writes, checked and loadable, and its report."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    folder.mkdir(exist_ok=True)
    onnx.save(proto, folder / "model.onnx")
    shape = [d.dim_value or 24 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    report = compile_model(
        folder / "model.onnx",
        passes=passes,
        data={"x": x},
        out=folder / "out.onnx",
        workdir=folder / "work",
        overrides=Overrides(
            steps=steps if "qat" in passes else None,
            settings=("prune.score=magnitude",) if "prune" in passes else (),
        ),
        threads=1,
    )
    onnx.checker.check_model(folder / "out.onnx", full_check=True)
    return onnx.load(folder / "out.onnx"), report


def layers(folder: Path) -> dict[str, judge.Layer]:
    return {layer.name: layer for layer in judge.Graph(folder / "out.onnx").layers()}


def best(weight: Array, axis: int) -> Array:
    """True at the two largest magnitudes of every four along the axis, group by group."""
    lines = np.moveaxis(np.abs(weight.astype(np.float64)), axis, -1)
    mask = np.zeros(lines.shape, bool)
    for index in itertools.product(*map(range, lines.shape[:-1])):
        for start in range(0, lines.shape[-1], 4):
            order = np.argsort(-lines[index][start : start + 4], kind="stable")
            mask[index][start + order[:2]] = True
    return np.moveaxis(mask, -1, axis)


def results(path: Path, x: Array) -> Array:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    assert isinstance(y, np.ndarray)
    return y


def test_domains_functions_and_metadata_reach_the_file(tmp_path: Path) -> None:
    """One tool wrote the first opset import only; its file failed the checker."""
    proto = onnx.parser.parse_model("""
    <ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1, "theirs" : 2, "unused" : 5],
     producer_name: "they", domain: "their.models", model_version: 7, doc_string: "why",
     metadata_props: ["author": "they"]>
    net (float[N, 16] x) => (float[N, 16] y) <float[16, 16] w> {
        h = MatMul(x, w)
        g = com.microsoft.Gelu(h)
        y = theirs.Twice(g)
    }
    <domain: "theirs", opset_import: ["" : 17]>
    Twice (a) => (b) { b = Add(a, a) }
    """)
    proto.graph.node[1].doc_string = "the gate"
    values = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    found, _ = compiled(proto, tmp_path)
    imports = {entry.domain: entry.version for entry in found.opset_import}
    assert {("", 17), ("com.microsoft", 1), ("unused", 5)} <= set(imports.items())
    assert (found.producer_name, found.domain, found.model_version) == (
        "they", "their.models", 7,
    )  # fmt: skip
    assert found.doc_string == "why"
    assert {p.key: p.value for p in found.metadata_props}["author"] == "they"
    gates = [node for node in found.graph.node if node.domain == "com.microsoft"]
    assert [(gate.op_type, gate.doc_string) for gate in gates] == [("Gelu", "the gate")]
    x = np.ones((2, 16), np.float32)
    assert results(tmp_path / "out.onnx", x).shape == (2, 16)


@pytest.mark.parametrize(
    ("body", "weight", "axis"),
    [
        pytest.param("float[N, 8, 12] y) <float[4, 16, 12] w> { y = MatMul(x, w) }",
                     (4, 16, 12), 1, id="rank-3"),
        pytest.param("float[N, 8, 12] y) <float[16, 12] w> { y = MatMul(x, w) }",
                     (16, 12), 0, id="rank-2"),
    ],
)  # fmt: skip
def test_a_product_is_pruned_along_what_it_sums(
    body: str, weight: tuple[int, ...], axis: int, tmp_path: Path
) -> None:
    """One tool took axis 0 of every weight; the batch axis of a rank-3 one."""
    model = tiny.model_of("net (float[4, 8, 16] x) => (" + body.replace("[N,", "[4,"))
    dense = tiny.weight(model, "w")
    assert dense.shape == weight
    compiled(model, tmp_path)
    (layer,) = layers(tmp_path).values()
    assert layer.axis == axis
    assert layer.in_pattern
    assert not np.any(layer.weight[~best(dense, axis)])


@pytest.mark.parametrize("storage", ["raw_data", "int32_data"])
def test_bfloat16_keeps_the_largest_however_it_is_stored(storage: str, tmp_path: Path) -> None:
    """One tool ranked bit patterns, and read two numbers out of each stored one."""
    proto = ir.to_proto(tiny.bf16_matmul())
    rng = np.random.default_rng(5)
    # Signs, exponents and mantissas all differ, so that no order of bits is the right one.
    values = rng.normal(size=(16, 8)) * 2.0 ** rng.integers(-3, 4, (16, 8))
    dense = values.astype(ml_dtypes.bfloat16)
    (tensor,) = (t for t in proto.graph.initializer if t.name == "w")
    tensor.CopyFrom(TensorProto(name="w", dims=dense.shape, data_type=TensorProto.BFLOAT16))
    if storage == "raw_data":
        tensor.raw_data = dense.tobytes()
    else:
        tensor.int32_data.extend(dense.view(np.uint16).ravel().astype(int).tolist())
    found, _ = compiled(proto, tmp_path, "prune")
    (kept,) = (ir.from_proto(t).numpy() for t in found.graph.initializer if t.name == "w")
    assert np.array_equal(kept, np.where(best(dense, 0), dense, 0))


def test_one_weight_with_two_reduction_axes(tmp_path: Path) -> None:
    """One tool pruned it for whichever layer came last."""
    model = tiny.model_of("""
    net (float[N, 16] x) => (float[N, 16] y) <float[16, 16] w> {
        h = MatMul(x, w)
        y = Gemm<transB = 1>(h, w)
    }""")
    dense = tiny.weight(model, "w")
    compiled(model, tmp_path)
    found = layers(tmp_path)
    for name, axis in (("MatMul.h", 0), ("Gemm.y", 1)):
        assert found[name].axis == axis
        assert found[name].in_pattern
        assert not np.any(found[name].weight[~best(dense, axis)])


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_in_constant_nodes(transposed: bool, tmp_path: Path) -> None:
    """One tool skipped them and said nothing."""
    dense = np.random.default_rng(1).normal(size=(16, 12)).astype(np.float32)
    stored = numpy_helper.from_array(dense.T if transposed else dense, "value")
    nodes = [helper.make_node("Constant", [], ["w"], name="constant", value=stored)]
    if transposed:
        nodes.append(helper.make_node("Transpose", ["w"], ["t"], name="turn", perm=[1, 0]))
    nodes.append(helper.make_node("MatMul", ["x", nodes[-1].output[0]], ["y"], name="product"))
    ends = [helper.make_tensor_value_info(n, 1, ["N", k]) for n, k in (("x", 16), ("y", 12))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:])
    imports = [helper.make_opsetid("", 17)]
    compiled(helper.make_model(graph, opset_imports=imports, ir_version=9), tmp_path)
    layer = layers(tmp_path)["product"]
    assert layer.in_pattern
    assert layer.activation_pair
    assert not np.any(layer.weight[~best(dense, 0)])


def test_weights_in_the_bodies_of_if(tmp_path: Path) -> None:
    """Two tools left control flow in float, without a word."""
    found, report = compiled(tiny.if_branch(), tmp_path)
    (branch,) = (node for node in found.graph.node if node.op_type == "If")
    tensors = [*found.graph.initializer]
    bodies = [found.graph, *(entry.g for entry in branch.attribute)]
    producers = {out: n.op_type for body in bodies for n in body.node for out in n.output}
    for entry in branch.attribute:
        tensors += entry.g.initializer
        (product,) = (n for n in entry.g.node if n.op_type == "MatMul")
        assert {producers[name] for name in product.input} == {"DequantizeLinear"}
    codes = {t.name: numpy_helper.to_array(t) for t in tensors if t.name.endswith(".codes")}
    assert set(codes) == {"w.codes", "w_then.codes", "w_else.codes"}
    for values in codes.values():
        assert ((values.reshape(-1, 4, 8) != 0).sum(axis=1) <= 2).all()
    assert [f.rule for step in report.steps for f in step.result.skipped] == []


def test_a_reduction_of_ten_stays_dense_is_quantized_and_reported(tmp_path: Path) -> None:
    """One tool pruned it to a half that no kernel can use."""
    model = tiny.model_of("""
    net (float[N, 10] x) => (float[N, 8] y) <float[10, 8] w> { y = MatMul(x, w) }
    """)
    scale = np.abs(tiny.weight(model, "w")).max(axis=0) / 127
    expected = np.rint(tiny.weight(model, "w") / scale)
    _, report = compiled(model, tmp_path)
    (layer,) = layers(tmp_path).values()
    assert layer.activation_pair
    assert np.array_equal(layer.weight, expected)
    (finding,) = (f for step in report.steps for f in step.result.skipped)
    assert (finding.rule, finding.where) == ("k-not-multiple-of-4", "MatMul.y")
    assert "10" in finding.reason


def test_a_convolution_is_pruned_over_channels_at_every_pixel(tmp_path: Path) -> None:
    """One tool grouped the flattened channels x height x width, as no sparse kernel does."""
    model = tiny.model_of("""
    net (float[N, 3, 8, 8] x) => (float[N, 16, 8, 8] y)
    <float[8, 3, 3, 3] stem, float[16, 8, 3, 3] w> {
        h = Conv<pads = [1, 1, 1, 1]>(x, stem)
        y = Conv<pads = [1, 1, 1, 1]>(h, w)
    }""")
    dense = tiny.weight(model, "w")
    compiled(model, tmp_path)
    codes = layers(tmp_path)["Conv.y"].weight
    for channel, row, column in np.ndindex(16, 3, 3):
        pixel = codes[channel, :, row, column]
        assert np.count_nonzero(pixel[:4]) <= 2
        assert np.count_nonzero(pixel[4:]) <= 2
    assert not np.any(codes[~best(dense, 1)])
    flattened = np.count_nonzero(codes.reshape(16, -1, 4), axis=-1)
    assert (flattened > 2).any(), "the two orders would be told apart"


@pytest.mark.training
@pytest.mark.parametrize("which", ["conv_bn_relu", "attention"])
def test_training_moves_the_very_tensors_that_were_pruned(which: str, tmp_path: Path) -> None:
    """One tool pruned copies under new names and trained nothing; another took no Conv."""
    _, report = compiled(tiny.MODELS[which](), tmp_path, TRAINED, steps=4)
    steps = {step.ran.name: step.result for step in report.steps}
    pruned = {str(row["weight"]) for row in steps["prune"].tables["layers"]}
    assert pruned
    assert pruned <= set(steps["qat"].changed)
    assert {f"{name}.codes" for name in pruned} <= set(steps["freeze"].changed)
    assert steps["qat"].metrics["best_step"] > 0
    assert not [f for f in steps["qat"].skipped if f.rule == "no-gradient"]


@pytest.mark.training
def test_a_dense_teacher_leaves_exactly_half_the_codes_zero(tmp_path: Path) -> None:
    """One tool took masks and values from the teacher: 50 % zeros became 0.8 %."""
    model = tiny.mlp()
    rng = np.random.default_rng(2)
    for name in ("w1", "w2"):
        shape = tiny.weight(model, name).shape
        values = rng.choice([-1, 1], shape) * rng.uniform(0.2, 0.4, shape)
        tensor = ir.tensor(values.astype(np.float32), name=name)
        model.graph.initializers[name].const_value = tensor
    dense = {name: tiny.weight(model, name) for name in ("w1", "w2")}
    found, report = compiled(model, tmp_path, TRAINED, steps=8)
    for name, layer in (("w1", "Gemm.a"), ("w2", "MatMul.z")):
        codes = layers(tmp_path)[layer].weight
        assert np.count_nonzero(codes) * 2 == codes.size
        assert np.array_equal(codes != 0, best(dense[name], 0))
    assert {"w1", "w2"} <= {n for step in report.steps for n in step.result.changed}
    zeros = {n.input[2] for n in found.graph.node if n.op_type == "QuantizeLinear"}
    for tensor in found.graph.initializer:
        if tensor.name in zeros:
            middle = {TensorProto.INT8: (0,), TensorProto.UINT8: (0, 128)}[tensor.data_type]
            assert numpy_helper.to_array(tensor) in middle


@pytest.mark.parametrize("which", tiny.MODELS)
def test_no_initializer_is_left_that_nothing_reads(which: str, tmp_path: Path) -> None:
    """One tool kept the dense originals beside their pruned copies."""
    compiled(tiny.MODELS[which](), tmp_path)
    assert judge.Graph(tmp_path / "out.onnx").orphans() == []


def test_the_file_does_not_grow(tmp_path: Path) -> None:
    """One tool wrote 8.4 MB for 4.2 MB."""
    model = tiny.model_of("""
    net (float[N, 256] x) => (float[N, 256] y) <float[256, 256] w1, float[256, 256] w2> {
        h = MatMul(x, w1)
        r = Relu(h)
        y = MatMul(r, w2)
    }""")
    _, report = compiled(model, tmp_path, "prune")
    assert report.output.bytes <= report.source.bytes + 1024  # claims and the recipe
    _, report = compiled(model, tmp_path)
    assert report.output.bytes < 0.27 * report.source.bytes


def foreign(storage: str, zero: int = 131) -> onnx.ModelProto:
    """A file as onnxruntime leaves it, uint8 with a zero point, and a float layer."""
    text = """
    net (float[N, 16] x) => (float[N, 8] y)
    <float scale_x = {0.03}, uint8 zero_x, int8[16, 16] codes, float[16] scale_w,
     int8[16] zero_w, float[16, 8] w> {
        q = QuantizeLinear(x, scale_x, zero_x)
        dq = DequantizeLinear(q, scale_x, zero_x)
        wdq = DequantizeLinear<axis = 1>(codes, scale_w, zero_w)
        h = MatMul(dq, wdq)
        r = Relu(h)
        y = MatMul(r, w)
    }"""
    header = '<ir_version: 9, opset_import: ["" : 17]>'
    proto = onnx.parser.parse_model(header + text)
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}.{index}"
    rng = np.random.default_rng(3)
    stored: dict[str, Array] = {
        "zero_x": np.array(zero, np.uint8),
        "codes": rng.integers(-127, 128, (16, 16)).astype(np.int8),
        "scale_w": rng.uniform(0.002, 0.004, 16).astype(np.float32),
        "zero_w": np.zeros(16, np.int8),
        "w": rng.normal(0, 0.25, (16, 8)).astype(np.float32),
    }
    del proto.graph.value_info[:]
    for name, values in stored.items():
        tensor = numpy_helper.from_array(values, name)
        if storage == "int32_data" and values.dtype != np.float32:
            tensor.ClearField("raw_data")
            tensor.int32_data.extend(int(value) for value in values.ravel())
        proto.graph.initializer.append(tensor)
    return proto


@pytest.mark.parametrize("storage", ["raw_data", "int32_data"])
def test_foreign_quantizers_stay_as_they_are(storage: str, tmp_path: Path) -> None:
    """One tool put pairs around pairs; parsers misread zero points out of raw_data."""
    given = foreign(storage)
    found, report = compiled(given, tmp_path)
    x = 2 * np.random.default_rng(4).normal(size=(64, 16)).astype(np.float32)
    before = results(tmp_path / "model.onnx", x)
    after = results(tmp_path / "out.onnx", x)
    assert cosine(after, before) > 0.8, "only the second layer lost a half"
    kept = {t.name: numpy_helper.to_array(t) for t in found.graph.initializer}
    for tensor in given.graph.initializer:
        if tensor.name != "w":
            assert np.array_equal(kept[tensor.name], numpy_helper.to_array(tensor))
    pairs = [n.op_type for n in found.graph.node if "Linear" in n.op_type]
    # Theirs: a pair, a dequantizer. Ours: a pair where the float layer reads, and its codes.
    assert (pairs.count("QuantizeLinear"), pairs.count("DequantizeLinear")) == (2, 4)
    rules = {f.rule for step in report.steps for f in step.result.skipped}
    assert {"already-quantized", "not-float"} <= rules
    assert layers(tmp_path)["MatMul.5"].in_pattern


@pytest.mark.training
def test_how_a_zero_point_is_stored_does_not_matter(tmp_path: Path) -> None:
    """Trained through, too: both files give the same codes, another zero point others."""
    trained = {}
    for case, (storage, zero) in {
        "raw": ("raw_data", 131), "int32": ("int32_data", 131), "other": ("raw_data", 90),
    }.items():  # fmt: skip
        folder = tmp_path / case
        found, _ = compiled(foreign(storage, zero), folder, TRAINED)
        trained[case] = {
            t.name: numpy_helper.to_array(t).tobytes() for t in found.graph.initializer
        }
    assert trained["raw"] == trained["int32"]
    assert trained["raw"] != trained["other"]


@pytest.mark.training
def test_the_opset_of_the_file_changes_nothing(tmp_path: Path) -> None:
    """The same network as opset 13 to 21 trains to the same bits."""
    text = """
    net (float[N, 8, 16] x) => (float[N, 8, 8] y)
    <float[16, 32] w1, float[32] b1, float[32, 8] w2> {
        a = MatMul(x, w1)
        b = Add(a, b1)
        h = Relu(b)
        p = Softmax<axis = -1>(h)
        y = MatMul(p, w2)
    }"""
    trained: dict[int, dict[str, Any]] = {}
    for opset in (13, 17, 19, 21):
        model = tiny.model_of(text, opset=opset, ir_version=10 if opset > 19 else 8)
        found, report = compiled(model, tmp_path / str(opset), TRAINED, steps=4)
        assert {e.version for e in found.opset_import if e.domain == ""} == {opset}
        assert {"w1", "b1", "w2"} <= {n for step in report.steps for n in step.result.changed}
        arrays = {t.name: numpy_helper.to_array(t).tolist() for t in found.graph.initializer}
        trained[opset] = arrays
    for opset, arrays in trained.items():
        assert arrays == trained[13], f"opset {opset}"


def test_every_layer_is_found_without_recorded_shapes(tmp_path: Path) -> None:
    """One tool quantized one product of two where the file held no shapes."""
    proto = ir.to_proto(tiny.attention())
    del proto.graph.value_info[:]
    compiled(proto, tmp_path)
    found = layers(tmp_path)
    assert set(found) == {"MatMul.qkv0", "MatMul.out0"}
    assert all(layer.weight_pair and layer.activation_pair for layer in found.values())


@pytest.mark.parametrize("name", registry.COMPONENTS["observer"])
def test_calibration_holds_no_samples(name: str) -> None:
    """One tool kept every activation: 123 GB for 32 samples."""
    make: type[Observer] = registry.find_component("observer", name)  # type: ignore[assignment]

    def held(batches: int) -> int:
        state, rng = make().start(), np.random.default_rng(0)
        for _ in range(batches):
            state.update(rng.normal(size=4096).astype(np.float32))
        return sum(v.nbytes for v in vars(state).values() if isinstance(v, np.ndarray))

    assert held(1) == held(40) < 1 << 20

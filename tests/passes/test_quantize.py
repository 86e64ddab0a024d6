from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import DataError, OptionError, PreconditionError
from gpusq_compiler.ir import claims
from gpusq_compiler.passes.base import Context, PassResult
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.quant.observers import MinMax, Percentile
from gpusq_compiler.quant.placement import PLACEMENTS
from gpusq_compiler.runtime.session import Session
from tests import tiny
from tests.train.nets import ArraySamples

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

ContextFor = Callable[..., Context]
EXACT = Quantize(observer=MinMax())


def quantized(
    model: ir.Model, context_for: ContextFor, step: Quantize = EXACT, **fields: Any
) -> PassResult:
    steps = (Canonicalize(), step)
    return Pipeline(passes=steps).run(model, context_for(model, **fields))[-1].result


def reasons(result: PassResult) -> dict[str, str]:
    return {finding.where: finding.rule for finding in result.skipped}


def producers(model: ir.Model, name: str) -> list[str]:
    """Operators before the two factors of a node."""
    found = [value.producer() for value in tiny.node(model, name).inputs[:2] if value]
    return [producer.op_type if producer else "" for producer in found]


def codes(values: Array, scale: Array, low: int, high: int = 127) -> Array:
    """Quantize one value at a time."""
    flat = [
        min(high, max(low, round(float(np.float32(v) / np.float32(s)))))
        for v, s in np.broadcast(values, scale)
    ]
    return np.array(flat).reshape(np.broadcast(values, scale).shape)


@pytest.mark.parametrize(
    ("which", "name", "axis"),
    [
        ("mlp", "w1", 1),
        ("conv_bn_relu", "w3", 0),
        ("residual", "w2", 0),
        ("attention", "w_qkv", 1),
        ("int4_weight", "w", 1),
    ],
)
def test_weights_get_one_scale_per_output_channel(
    which: str, name: str, axis: int, context_for: ContextFor
) -> None:
    model = tiny.MODELS[which]()
    weight = tiny.weight(model, name)
    quantized(model, context_for)
    scale = tiny.weight(model, f"{name}.scale")
    expected = [
        np.abs(weight.take(c, axis)).max() / np.float32(127) for c in range(len(scale))
    ]
    assert scale.dtype == np.float32
    assert len(scale) == weight.shape[axis]
    assert np.array_equal(scale, np.array(expected))
    pair = [tiny.node(model, f"{name}.{kind}Linear") for kind in ("Quantize", "Dequantize")]
    for node in pair:
        assert node.attributes["axis"].as_int() == axis
        assert node.metadata_props[claims.PASS] == "quantize"
    zero = tiny.weight(model, f"{name}.zero_point")
    assert zero.dtype == np.int8
    assert not zero.any()
    assert np.array_equal(tiny.weight(model, name), weight)


def test_activations_get_the_range_that_was_seen(context_for: ContextFor) -> None:
    model = tiny.mlp()
    dense = tiny.mlp()
    x = tiny.samples(model).arrays["x"]
    result = quantized(model, context_for)
    hidden = np.maximum(x @ tiny.weight(dense, "w1") + tiny.weight(dense, "b1"), 0)
    scales = {str(row["tensor"]): row["scale"] for row in result.tables["tensors"]}
    assert scales["x"] == pytest.approx(float(np.abs(x).max()) / 127, rel=1e-6)
    assert scales["h"] == pytest.approx(float(hidden.max()) / 255, rel=1e-5)
    assert result.metrics == {"layers": 2, "weights": 2, "activations": 2}


def test_both_factors_are_quantized_and_nothing_else(context_for: ContextFor) -> None:
    model = tiny.residual()
    quantized(model, context_for, Quantize(placement="gemm-inputs"))
    for conv in ("Conv.c1", "Conv.c2", "Conv.y"):
        assert producers(model, conv) == ["DequantizeLinear", "DequantizeLinear"]
    # The residual sum and its skip side stay float.
    assert producers(model, "Add.s") == ["Conv", "Relu"]
    assert tiny.operators(model).count("QuantizeLinear") == 6


def test_outputs_stay_near_the_float_model(context_for: ContextFor) -> None:
    model, dense = tiny.mlp(), tiny.mlp()
    x = tiny.samples(model).arrays["x"]
    quantized(model, context_for)
    w = {name: tiny.weight(dense, name) for name in ("w1", "b1", "w2", "b2")}
    s = {name: tiny.weight(model, f"{name}.scale") for name in ("w1", "w2", "x", "h")}
    x_q = codes(x, s["x"], -128) * s["x"]
    h = np.maximum(x_q @ (codes(w["w1"], s["w1"], -127) * s["w1"]) + w["b1"], 0)
    expected = (codes(h, s["h"], 0, 255) * s["h"]) @ (codes(w["w2"], s["w2"], -127) * s["w2"])
    found = Session(model, threads=1, optimize=False)({"x": x})["y"]
    # A value of h that sits on a rounding threshold may move by one step of h.
    step = float(s["h"]) * float(np.abs(w["w2"]).max())
    assert np.abs(found - (expected + w["b2"])).max() <= step
    assert np.median(np.abs(found - (expected + w["b2"]))) < 1e-5


def test_a_shared_weight_and_a_shared_activation_get_one_pair(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w, float[8, 8] v> {
        a = MatMul(x, w)
        b = MatMul(x, v)
        c = Add(a, b)
        y = MatMul(c, w)
    }""")
    result = quantized(model, context_for)
    assert [row["tensor"] for row in result.tables["tensors"]] == ["w", "x", "v", "c"]
    assert tiny.operators(model).count("QuantizeLinear") == 4


def test_a_weight_used_along_two_axes_gets_two_pairs(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w> {
        h = MatMul(x, w)
        y = Gemm<transB = 1>(h, w)
    }""")
    quantized(model, context_for)
    axes = [
        node.attributes["axis"].as_int()
        for node in model.graph
        if node.op_type == "QuantizeLinear" and node.inputs[0] is model.graph.initializers["w"]
    ]
    assert axes == [1, 0]
    assert "w.scale.2" in model.graph.initializers


def test_a_weight_that_is_an_output_stays_float_there(context_for: ContextFor) -> None:
    model = tiny.shared_weight()
    model.graph.outputs.append(model.graph.initializers["w"])
    quantized(model, context_for)
    assert model.graph.outputs[1] is model.graph.initializers["w"]
    assert producers(model, "MatMul.a") == ["DequantizeLinear", "DequantizeLinear"]


def test_a_layer_in_a_body_is_quantized_where_its_input_comes_from_outside(
    context_for: ContextFor,
) -> None:
    model, dense = tiny.if_branch(), tiny.if_branch()
    x = tiny.samples(model).arrays["x"]
    result = quantized(model, context_for)
    assert not result.skipped
    assert result.metrics == {"layers": 3, "weights": 3, "activations": 2}
    for name in ("then_branch/MatMul.inner", "else_branch/MatMul.outer", "MatMul.h"):
        assert producers(model, name) == ["DequantizeLinear", "DequantizeLinear"]
    # The weight of the body has its pair there, what comes from outside has it outside.
    outer = {node.name for node in model.graph}
    assert {"w_else.QuantizeLinear", "h.QuantizeLinear"} <= outer
    assert "w_then.QuantizeLinear" not in outer
    found, expected = (Session(m, threads=1)({"x": x})["y"] for m in (model, dense))
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_a_layer_in_a_body_with_an_input_from_there_is_left(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w, float zero = {0}> {
        total = ReduceSum<keepdims = 0>(x)
        up = Greater(total, zero)
        y = If(up) <
            then_branch = one () => (float[N, 8] inner) {
                h = Relu(x)
                inner = MatMul(h, w)
            },
            else_branch = two () => (float[N, 8] outer) {
                outer = MatMul(x, w)
            }
        >
    }""")
    result = quantized(model, context_for)
    assert reasons(result) == {"then_branch/MatMul.inner": "in-body"}
    assert result.metrics["layers"] == 1


HALF_NET = """
    net ({half}[N, 16] x) => ({half}[N, 8] y)
    <{half}[16, 32] w, {half}[32] b, {half}[32, 8] w2> {{
        a = MatMul(x, w)
        c = Add(a, b)
        h = Relu(c)
        y = MatMul(h, w2)
    }}"""


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_half_precision_is_cast_around_float_scales(
    placement: Any, context_for: ContextFor
) -> None:
    model, dense = (tiny.model_of(HALF_NET.format(half="float16")) for _ in range(2))
    x = np.random.default_rng(0).normal(size=(24, 16)).astype(np.float16)
    data = ArraySamples({"x": x})
    step = Quantize(observer=MinMax(), placement=placement)
    result = quantized(model, context_for, step, data=data)
    assert result.metrics["layers"] == 2
    for name in ("w", "x", "h", "w2"):
        assert tiny.weight(model, f"{name}.scale").dtype == np.float32
        assert tiny.node(model, f"{name}.float16.Cast").inputs[0] is not None
    expected, found = Session(dense)({"x": x})["y"], Session(model)({"x": x})["y"]
    assert found.dtype == np.float16
    # Half a step of each factor, times the magnitudes that it meets, over both layers.
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    freeze = Pipeline(passes=(Freeze(),)).run(model, context_for(model, data=data))
    assert freeze[0].result.metrics["weights"] == 2
    assert np.array_equal(Session(model)({"x": x})["y"], found)


def test_a_half_weight_that_others_read_stays_half_for_them(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float16[N, 8] x) => (float16[N, 8] y) <float16[8, 8] w> {
        a = MatMul(x, w)
        t = Transpose(w)
        y = MatMul(a, t)
    }""")
    data = ArraySamples({"x": np.ones((4, 8), np.float16)})
    Pipeline(passes=(Quantize(placement="gemm-inputs"),)).run(
        model, context_for(model, data=data)
    )
    (cast,) = [
        n
        for n in model.graph
        if n.op_type == "Cast" and n.inputs[0] is model.graph.initializers["w"]
    ]
    assert [node.op_type for node, _ in cast.outputs[0].uses()] == ["Transpose"]
    assert Session(model)(data.arrays)["y"].dtype == np.float16


def test_bfloat16_is_calibrated_in_a_float_copy(context_for: ContextFor) -> None:
    model, dense = tiny.bf16_matmul(), tiny.bf16_matmul()
    x = tiny.samples(model).arrays["x"]
    result = quantized(model, context_for)
    assert not result.skipped
    assert result.metrics == {"layers": 1, "weights": 1, "activations": 1}
    # A bfloat16 has 8 significant bits.
    assert float(tiny.weight(model, "a.scale")) == pytest.approx(
        np.abs(x).max() / 127, rel=2**-8
    )
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT
    assert producers(model, "MatMul.b") == ["Cast", "Cast"]
    expected, found = Session(dense)({"x": x})["y"], Session(model)({"x": x})["y"]
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_integers_are_left_with_a_reason(context_for: ContextFor) -> None:
    result = quantized(tiny.int4_weight(), context_for)
    assert reasons(result) == {"MatMul.h": "already-quantized"}


def test_doubles_are_left_with_a_reason(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (double[N, 8] x) => (double[N, 4] y) <double[8, 4] w> { y = MatMul(x, w) }""")
    assert reasons(quantized(model, context_for)) == {"MatMul.y": "not-float"}


@pytest.mark.parametrize(
    ("target", "placement"),
    [("onnxruntime", "onnxruntime-integer"), ("tensorrt", "tensorrt-sparse")],
)
def test_the_target_chooses_the_placement(
    target: str, placement: str, context_for: ContextFor
) -> None:
    ctx = context_for(tiny.mlp(), target=target)
    assert Quantize().placement is None
    assert Quantize().resolve(tiny.mlp(), ctx) == Quantize(placement=placement)  # type: ignore[arg-type]
    mine = Quantize(placement="gemm-inputs")
    assert mine.resolve(tiny.mlp(), ctx) == mine


def test_tensorrt_quantizes_outputs_of_sparse_layers(context_for: ContextFor) -> None:
    model = tiny.attention()
    steps = (Canonicalize(), Prune(), EXACT)
    ctx = context_for(model, target="tensorrt")
    result = Pipeline(passes=steps).run(model, ctx)[-1].result
    rules = {str(row["tensor"]): row["rule"] for row in result.tables["tensors"]}
    assert rules["qkv"] == "sparse-output, attention"
    assert rules["out"] == "sparse-output"
    assert float(tiny.weight(model, "weights.scale")) == np.float32(1 / 127)
    assert producers(model, "Add.y") == ["", "DequantizeLinear"]
    assert [v.name for v in model.graph.outputs] == ["y"]


@pytest.mark.parametrize("which", tiny.MODELS)
def test_a_second_run_for_tensorrt_changes_nothing(
    which: str, context_for: ContextFor
) -> None:
    model = tiny.MODELS[which]()
    ctx = context_for(model, target="tensorrt")
    Pipeline(passes=(Canonicalize(), Prune(), EXACT)).run(model, ctx)
    again = Pipeline(passes=(EXACT,)).run(model, ctx)[0]
    assert not again.changes
    assert again.result.changed == ()
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            source = node.inputs[0]
            assert source is not None
            producer = source.producer()
            assert producer is None or producer.op_type != "DequantizeLinear"


CONCAT = """
    net (float[N, 8] x) => (float[N, 4] y) <float[8, 8] w1, float[8, 8] w2, float[16, 4] w3> {
        a = MatMul(x, w1)
        b0 = MatMul(x, w2)
        s = Sigmoid(b0)
        j = Concat<axis = 1>(a, s)
        y = MatMul(j, w3)
    }"""


def test_a_shared_scale_holds_the_largest_range(context_for: ContextFor) -> None:
    model, dense = tiny.model_of(CONCAT), tiny.model_of(CONCAT)
    step = Quantize(observer=MinMax(), placement="tensorrt-sparse")
    quantized(model, context_for, step)
    pairs = [tiny.node(model, f"{name}.QuantizeLinear") for name in ("a", "s", "j")]
    assert pairs[0].inputs[1] is pairs[1].inputs[1] is pairs[2].inputs[1]
    assert pairs[0].inputs[2] is pairs[1].inputs[2] is pairs[2].inputs[2]
    x = tiny.samples(model).arrays["x"]
    largest = np.abs(Session(dense, outputs=["a"], threads=1)({"x": x})["a"]).max()
    scale = pairs[0].inputs[1]
    assert scale is not None
    assert float(tiny.weight(model, str(scale.name))) == pytest.approx(largest / 127, rel=1e-6)
    assert producers(model, "MatMul.y") == ["DequantizeLinear", "DequantizeLinear"]


def test_a_tensor_that_was_always_zero_is_told(context_for: ContextFor) -> None:
    data = ArraySamples({"x": np.zeros((12, 16), np.float32)})
    model = tiny.mlp()
    result = quantized(model, context_for, data=data)
    assert reasons(result)["x"] == "all-zero"
    assert float(tiny.weight(model, "x.scale")) > 0


def test_pruned_zeros_stay_zero(context_for: ContextFor) -> None:
    model = tiny.mlp()
    steps = (Canonicalize(), Prune(), Quantize())
    Pipeline(passes=steps).run(model, context_for(model))
    weight, scale = tiny.weight(model, "w1"), tiny.weight(model, "w1.scale")
    assert not codes(weight, scale, -127)[weight == 0].any()
    assert claims.sparsity_of(model.graph.initializers["w1"]) is not None


def test_a_weight_of_zeros_gets_a_scale_above_zero(context_for: ContextFor) -> None:
    model = tiny.mlp()
    value = model.graph.initializers["w2"]
    value.const_value = ir.tensor(np.zeros((32, 10), np.float32), name="w2")
    result = quantized(model, context_for)
    assert (tiny.weight(model, "w2.scale") > 0).all()
    rows = {str(row["tensor"]): row["relative_error"] for row in result.tables["tensors"]}
    assert rows["w2"] == 0.0
    assert rows["x"] is None
    assert rows["w1"] == pytest.approx(0.006, abs=0.004)


class Counting:
    """Samples that remember which rows were read, and how many at a time."""

    def __init__(self, samples: ArraySamples) -> None:
        self._samples = samples
        self.count, self.has_labels = samples.count, False
        self.rows: list[list[int]] = []

    def take(self, rows: Any) -> Mapping[str, Array]:
        self.rows.append(rows.tolist())
        return self._samples.take(rows)


def test_samples_and_batch_size(context_for: ContextFor) -> None:
    chosen = []
    for seed in (0, 0, 1):
        model = tiny.mlp()
        data = Counting(tiny.samples(model, 40))
        step = Quantize(samples=10, batch_size=4)
        quantized(model, context_for, step, data=data, seed=seed)
        assert [len(rows) for rows in data.rows] == [4, 4, 2]
        chosen.append([row for rows in data.rows for row in rows])
    assert len(set(chosen[0])) == 10
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_observer_chooses_the_range(context_for: ContextFor) -> None:
    scales = []
    for observer in (MinMax(), Percentile(percentile=50.0)):
        model = tiny.mlp()
        quantized(model, context_for, Quantize(observer=observer))
        scales.append(float(tiny.weight(model, "x.scale")))
    median = float(np.median(np.abs(tiny.samples(tiny.mlp()).arrays["x"])))
    assert scales[1] == pytest.approx(median / 127, rel=1 / 64)
    assert scales[1] < scales[0] / 3


def test_include_and_exclude(context_for: ContextFor) -> None:
    model = tiny.mlp()
    result = quantized(model, context_for, Quantize(include=("Gemm",)))
    assert reasons(result) == {"MatMul.z": "user"}
    assert producers(model, "MatMul.z") == ["Relu", ""]
    with pytest.raises(OptionError, match=r"quantize.exclude: 'w9' matches no layer"):
        quantized(tiny.mlp(), context_for, Quantize(exclude=("w9",)))


def test_without_data_it_says_how_to_give_some(context_for: ContextFor) -> None:
    with pytest.raises(PreconditionError, match=r"quantize: needs samples.*--data"):
        quantized(tiny.mlp(), context_for, data=None)


def test_activations_that_are_not_finite_are_refused(context_for: ContextFor) -> None:
    data = tiny.samples(tiny.mlp())
    data.arrays["x"][3] = np.inf
    with pytest.raises(DataError, match="'x'"):
        quantized(tiny.mlp(), context_for, data=data)


@pytest.mark.parametrize("option", ["samples", "batch_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_that_cannot_be_are_refused(option: str, value: int) -> None:
    with pytest.raises(OptionError, match=rf"quantize.{option}: {value} is too small"):
        Quantize(**{option: value})  # type: ignore[arg-type]


def test_rows_tell_scales_and_what_is_clipped(context_for: ContextFor) -> None:
    model = tiny.mlp()
    step = Quantize(observer=Percentile(percentile=90.0))
    result = quantized(model, context_for, step)
    rows = {str(row["tensor"]): row for row in result.tables["tensors"]}
    scales = tiny.weight(model, "w1.scale")
    assert rows["w1"]["scale_min"] == float(scales.min())
    assert rows["w1"]["scale_median"] == float(np.median(scales))
    assert rows["w1"]["scale"] == float(scales.max())
    assert rows["w1"]["clipped"] is None
    x = np.abs(tiny.samples(model).arrays["x"])
    row = rows["x"]
    assert row["clip"] == pytest.approx(127 * float(row["scale"] or 0))
    # What is rounded to a code above 127. The bin of the limit is 1/128 of it wide.
    wanted = np.mean(x > 127.5 * float(row["scale"] or 0))
    assert row["clipped"] == pytest.approx(wanted, abs=0.02)
    assert 0.05 < wanted < 0.12
    assert result.histograms.keys() == {"x", "h"}
    assert result.histograms["x"].largest == float(x.max())
    assert result.histograms["x"].zeros == 0
    assert 0.2 < result.histograms["h"].zeros < 0.8, "h comes out of a Relu"


def test_an_observer_that_counts_nothing_has_no_histogram(context_for: ContextFor) -> None:
    result = quantized(tiny.mlp(), context_for, EXACT)
    assert result.histograms == {}
    assert all(row["clipped"] is None for row in result.tables["tensors"])


GELU = """
net (float[N, 16] x) => (float[N, 4] y)
<float[16, 32] w, float[32] b, float[32, 4] w2, float half = {0.5}, float one = {1},
 float root = {1.4142135}> {
    a = Gemm(x, w, b)
    d = Div(a, root)
    e = Erf(d)
    p = Add(e, one)
    m = Mul(a, p)
    h = Mul(m, half)
    y = MatMul(h, w2)
}"""


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_hardly_reaches_below_zero_is_unsigned_on_a_cpu(
    placement: Any, context_for: ContextFor
) -> None:
    model, dense = tiny.model_of(GELU), tiny.model_of(GELU)
    x = tiny.samples(model).arrays["x"]
    result = quantized(model, context_for, Quantize(observer=MinMax(), placement=placement))
    schemes = {str(row["tensor"]): str(row["scheme"]) for row in result.tables["tensors"]}
    assert schemes["x"] == "int8 per-tensor"
    zero = tiny.weight(model, "h.zero_point")
    if placement != "onnxruntime-integer":
        assert (schemes["h"], str(zero.dtype), int(zero)) == ("int8 per-tensor", "int8", 0)
        return
    assert schemes["h"] == f"uint8 per-tensor zero={zero}"
    found, wanted = (
        Session(m, outputs=["h.dequantized"] if m is model else ["h"], optimize=False)({"x": x})
        for m in (model, dense)
    )
    scale = float(tiny.weight(model, "h.scale"))
    # Half a step of h, and x and w moved by half a step each before the Gemm of 16 values.
    moved = np.abs(found["h.dequantized"] - wanted["h"]).max()
    assert moved <= scale / 2 + 16 * (
        float(tiny.weight(model, "x.scale")) * float(np.abs(tiny.weight(dense, "w")).max())
        + float(tiny.weight(model, "w.scale").max()) * float(np.abs(x).max())
    )
    low = -int(zero) * scale
    assert float(wanted["h"].min()) >= low >= float(wanted["h"].min()) - 1.02 * scale


def test_images_from_zero_to_one_are_unsigned(context_for: ContextFor) -> None:
    model = tiny.mlp()
    x = np.random.default_rng(0).uniform(size=(24, 16)).astype(np.float32)
    quantized(model, context_for, data=ArraySamples({"x": x}))
    assert tiny.weight(model, "x.zero_point").dtype == np.uint8
    assert tiny.weight(model, "x.scale") == pytest.approx(float(x.max()) / 255, rel=1e-6)

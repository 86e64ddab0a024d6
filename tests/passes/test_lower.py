"""lower: legal for TensorRT, half precision, the same quantizers, the same numbers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.compile import compile_model
from gpusq_compiler.errors import MissingRuntime, OptionError, PreconditionError
from gpusq_compiler.ir import claims, edit, io, query
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.base import Context, Fact, Pass, PassResult
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.lower import NOT_FOR_ONNXRUNTIME, Lower
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.passes.twins import unquantized
from gpusq_compiler.recipe import Overrides
from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.events import Silent
from gpusq_compiler.runtime.session import Session
from gpusq_compiler.sparsity.scores import Magnitude
from gpusq_compiler.trt.legality.legal import lint
from gpusq_compiler.trt.engines.options import EngineOptions
from gpusq_compiler.trt.engines.profiles import Shapes
from gpusq_compiler.trt.legality.rules import Severity, Version
from tests import shell, tiny
from tests.train.nets import ArraySamples
from tests.trt import halves
from tests.trt.halves import FLOAT, HALF

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

ContextFor = Callable[..., Context]
DIGITS = "models/digits/train.npz"


def frozen(
    model: ir.Model, ctx: Context, *, quantize: Pass | None = None
) -> tuple[ir.Model, ir.Model]:
    """Frozen for TensorRT, and the same without quantizers."""
    steps = (Canonicalize(), Prune(score=Magnitude()), quantize or Quantize(samples=16))
    Pipeline(passes=steps).run(model, ctx)
    plain = unquantized(model.clone())
    Pipeline(passes=(Freeze(),)).run(model, ctx)
    return model, plain


def lowered(model: ir.Model, ctx: Context, **options: Any) -> tuple[ir.Model, PassResult]:
    copy = model.clone()
    (report,) = Pipeline(passes=(Lower(**options),)).run(copy, ctx)
    halves.require_valid(copy)
    return copy, report.result


def scales(model: ir.Model, kind: np.dtype[Any]) -> Counter[tuple[str, bytes]]:
    """All quantizers with their scales, rounded to a type."""
    return Counter(
        (node.op_type, scale.const_value.numpy().astype(kind).tobytes())
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if query.is_op(node, *query.QUANTIZERS)
        for scale in [node.inputs[1]]
        if scale is not None and scale.const_value is not None
    )


@pytest.mark.parametrize("rest", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("which", tiny.MODELS)
def test_quantizers_stay_and_so_do_the_ends(
    which: str, rest: str, context_for: ContextFor
) -> None:
    model = tiny.MODELS[which]()
    ctx = context_for(model, target="tensorrt")
    before, _ = frozen(model, ctx)
    codes = {n: v for n, v in before.graph.initializers.items() if "codes" in n}
    after, _ = lowered(before, ctx, rest=rest)
    kind = np.dtype({"fp16": np.float16, "bf16": ml_dtypes.bfloat16}.get(rest, np.float32))
    if which == "bf16_matmul":  # whose author chose
        kind = np.dtype(ml_dtypes.bfloat16) if rest != "fp32" else np.dtype(np.float32)
    assert scales(before, kind) == scales(after, kind)
    for name, value in codes.items():
        assert after.graph.initializers[name].const_value is value.const_value
        assert after.graph.initializers[name].metadata_props == value.metadata_props
    ends = [(v.name, v.dtype, str(v.shape)) for v in (*before.graph.inputs,
                                                      *before.graph.outputs)]  # fmt: skip
    assert ends == [(v.name, v.dtype, str(v.shape)) for v in (*after.graph.inputs,
                                                              *after.graph.outputs)]  # fmt: skip
    assert facts.present(after) >= {Fact.FROZEN, Fact.TRT_LEGAL, Fact.QDQ}
    assert not [d for d in lint(after) if d.severity is Severity.REFUSED]


def errors(model: ir.Model, ctx: Context, feeds: Any, rest: str) -> tuple[float, ...]:
    """What lowering changes; what quantizing changes; what lowering changes in float."""
    before, plain = frozen(model, ctx)
    after, _ = lowered(before, ctx, rest=rest, samples=16)
    without = plain.clone()
    Lower(rest=rest, samples=16).rewrite(without, ctx)  # type: ignore[arg-type]
    runs = [Session(m, threads=1)(feeds) for m in (before, after, plain, without)]
    return (
        halves.error(runs[1], runs[0]),
        halves.error(runs[0], runs[2]),
        halves.error(runs[3], runs[2]),
    )


# Rounding to half moves a value by 2^-11 of itself at most, an activation of code c by c 2^-11
# steps; so it moves a code in c 2^-11 of all cases per rounding. A code that moves is wrong by
# one step, which squared and averaged is p where p codes move; rounding to codes costs 1/12.
# Codes are below 127, typically about 30, so p is about 1/70 for each of a few roundings before
# a quantizer: lowering costs less than quantizing did. Deep down many codes have moved; at the
# very worst all errors of quantizers are drawn anew, and two independent errors of one size
# differ by the root of 2 of it. bfloat16 rounds by 2^-8: p is near 1/8, so a quantizer may
# cost 1.2 times as much again. Without quantizers, n roundings on the way add up to n 2^-11 at
# worst (2^-8), n being the depth.


@pytest.mark.parametrize(("rest", "most"), [("fp16", 2**0.5), ("bf16", 2.5), ("fp32", 0.0)])
@pytest.mark.parametrize("which", tiny.MODELS)
def test_tiny_models_compute_the_same(
    which: str, rest: str, most: float, context_for: ContextFor
) -> None:
    model = tiny.MODELS[which]()
    ctx = context_for(model, target="tensorrt")
    feeds = tiny.samples(model, 64, seed=5).take(np.arange(64))
    moved, quantized, plain = errors(model, ctx, feeds, rest)
    assert moved <= most * quantized
    assert plain <= len(model.graph) * (2.0**-11 if rest == "fp16" else 2.0**-8) * (most > 0)


@pytest.mark.parametrize("name", ["vit_digits", "resnet_digits"])
def test_digit_models_compute_the_same(name: str, context_for: ContextFor) -> None:
    model = io.load(f"models/{name}.onnx")
    data = np.load(DIGITS)["x"][:64]
    ctx = context_for(model, target="tensorrt", data=ArraySamples({"x": data}))
    moved, quantized, plain = errors(model, ctx, {"x": data}, "fp16")
    assert 0 < moved <= 2**0.5 * quantized
    # one kind of error, not many in one direction: it adds up as the root of the depth
    assert plain <= 2.0**-11 * len(model.graph) ** 0.5


def test_everything_is_half_but_the_ends(context_for: ContextFor) -> None:
    model = tiny.attention()
    ctx = context_for(model, target="tensorrt")
    after, result = lowered(frozen(model, ctx)[0], ctx)
    assert halves.casts(after) == 2
    floats = {v.dtype for v in after.graph.initializers.values()} - {
        ir.DataType.INT8, ir.DataType.INT64,
    }  # fmt: skip
    assert floats == {HALF}
    assert after.opset_imports[""] == 19
    assert after.metadata_props[claims.TENSORRT] == "11"
    assert [(f.rule, f.where) for f in result.skipped] == [("norm", "LayerNormalization.n")]


def test_magnitudes_on_the_data_decide(context_for: ContextFor) -> None:
    model = tiny.mlp()
    ctx = context_for(model, target="tensorrt")
    before, _ = frozen(model, ctx)
    many = tiny.samples(model, 40)
    loud = ArraySamples({"x": np.where(np.arange(40)[:, None] == 37, 3e4, many.take(np.array([0]))["x"])
                         .astype(np.float32)})  # fmt: skip
    quiet, result = lowered(before, ctx)
    assert not [f for f in result.skipped if f.rule == "large"]
    after, result = lowered(before, context_for(model, data=loud))
    assert [f.where for f in result.skipped if f.rule == "large"] == ["x"]
    assert "30000" in next(f.reason for f in result.skipped if f.rule == "large")
    assert halves.types(after)["x.scale"] == "FLOAT"
    assert halves.types(quiet)["x.scale"] == "FLOAT16"


def test_few_samples_see_less(context_for: ContextFor) -> None:
    model = tiny.mlp()
    data = ArraySamples({"x": np.eye(16, dtype=np.float32) * 2e4})
    ctx = context_for(model, target="tensorrt")
    before, _ = frozen(model, ctx)
    for samples in (1, 16):
        _, result = lowered(before, context_for(model, data=data), samples=samples)
        assert [f.rule for f in result.skipped if f.rule == "large"]


@pytest.mark.parametrize("entry", ["Relu", "h", "Relu.h", "Re.*h", "h.scale"])
def test_what_the_user_names_stays_float(entry: str, context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 16] x) => (float[N, 8] y) <float[16, 16] w, float[16, 8] v> {
        a = MatMul(x, w) h = Relu(a) g = Abs(h) y = MatMul(g, v)
    }""")
    ctx = context_for(model, target="tensorrt")
    before, _ = frozen(model, ctx)
    if entry == "h.scale":
        entry = next(n for n in before.graph.initializers if "scale" in n and n != "x.scale")
    after, result = lowered(before, ctx, float32=(entry,))
    assert "FLOAT" in {halves.types(after)[n] for n in ("h", "v.scale", "w.scale", "a")}
    found = [f for f in result.skipped if f.rule == "user"]
    assert found
    assert all(entry in f.reason for f in found)


def test_an_entry_that_names_nothing_is_refused(context_for: ContextFor) -> None:
    model = tiny.mlp()
    ctx = context_for(model, target="tensorrt")
    before, _ = frozen(model, ctx)
    with pytest.raises(OptionError, match=r"lower.float32: 'Rellu' matches no node"):
        lowered(before, ctx, float32=("Rellu",))


def test_a_model_that_is_half_already_keeps_its_types(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float16[N, 16] x) => (float16[N, 8] y) <float16[16, 8] w, float16[8] b> {
        a = MatMul(x, w) c = Add(a, b) f = Cast<to = 1>(c) s = Softmax(f)
        y = Cast<to = 10>(s)
    }""")
    x = np.random.default_rng(1).normal(size=(24, 16)).astype(np.float16)
    ctx = context_for(model, target="tensorrt", data=ArraySamples({"x": x}))
    before, _ = frozen(model, ctx)
    assert halves.casts(before) > 2
    after, result = lowered(before, ctx)
    assert halves.casts(after) == 2
    assert halves.types(after)["s"] == "FLOAT"
    assert not [f for f in result.skipped if f.reason.startswith("float32")]
    runs = [Session(m, threads=1)({"x": x})["y"] for m in (before, after)]
    np.testing.assert_allclose(runs[1], runs[0], atol=0.02)


def test_without_half_scales_pairs_stay_between_casts(
    context_for: ContextFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.mlp()
    ctx = context_for(model, target="tensorrt")
    before, _ = frozen(model, ctx)
    monkeypatch.setattr("gpusq_compiler.ir.opset.obstacle", lambda *_: "for a reason")
    after, result = lowered(before, ctx)
    assert after.opset_imports[""] == 17
    (finding,) = [f for f in result.skipped if f.rule == "opset"]
    assert "for a reason" in finding.reason
    assert halves.types(after)["x.scale"] == "FLOAT"
    assert halves.types(after)["a"] == halves.types(after)["b2"] == "FLOAT16"


def test_older_tensorrt_chooses_types_itself(context_for: ContextFor) -> None:
    model = tiny.attention()
    ctx = context_for(model, target="tensorrt")
    before, _ = frozen(model, ctx)
    after, result = lowered(before, ctx, tensorrt="8.6")
    assert halves.casts(after) == 0
    assert after.opset_imports[""] == 17
    (finding,) = [f for f in result.skipped if f.rule == "weakly-typed"]
    assert "flag FP16" in finding.reason
    assert after.metadata_props[claims.TENSORRT] == "8.6"
    assert facts.verify(after, Fact.TRT_LEGAL) == ()
    _, result = lowered(before, ctx, tensorrt="8.6", rest="fp32")
    assert not [f for f in result.skipped if f.rule == "weakly-typed"]


def test_an_opset_that_the_version_does_not_know_is_refused(context_for: ContextFor) -> None:
    model = tiny.int4_weight()
    ctx = context_for(model, target="tensorrt")
    before, _ = frozen(model, ctx)
    with pytest.raises(PreconditionError, match="opset 21 is newer than 17"):
        lowered(before, ctx, tensorrt="8.6")
    lowered(before, ctx, tensorrt="10")


REFUSED = """
net (float[N, 4, 8, 8] x) => (float[N, 4, 3, 3] y) <float[4, 4, 1, 1] w> {
    c = Conv(x, w)
    y = MaxPool<kernel_shape = [2, 2], strides = [2, 2], dilations = [2, 2]>(c)
}"""


def test_what_tensorrt_refuses_is_said_before_anything_runs(context_for: ContextFor) -> None:
    model = tiny.model_of(REFUSED)
    x = np.zeros((8, 4, 8, 8), np.float32)
    ctx = context_for(model, target="tensorrt", data=ArraySamples({"x": x}))
    with pytest.raises(PreconditionError, match=r"MaxPool 'MaxPool.y': TensorRT 11 refuses"):
        Lower().resolve(model, ctx)
    before, _ = frozen(model, ctx)
    with pytest.raises(PreconditionError, match="Use slices and Max"):
        lowered(before, ctx)


POOLED = """
net (float[N, 4, 8, 8] x) => (float[N, 4, 4, 4] y%s) <float[4, 4, 1, 1] w, float[4] g> {
    c = Conv(x, w)
    p%s = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)
    n = LayerNormalization<axis = -1>(p, g, g)
    y = Add(n, g)
}"""
OPERATED = ("MaxPool.p", "LayerNormalization.n")


def operated(context_for: ContextFor) -> tuple[ir.Model, Context]:
    """Frozen, with outputs that nobody reads and an operator of the runtime."""
    model = tiny.model_of(POOLED % ("", ""))
    last = tiny.node(model, "Add.y")
    last.domain, last.op_type = "com.microsoft", "BiasGelu"
    model.opset_imports["com.microsoft"] = 1
    x = np.random.default_rng(1).normal(size=(8, 4, 8, 8)).astype(np.float32)
    ctx = context_for(model, target="tensorrt", data=ArraySamples({"x": x}))
    before, _ = frozen(model, ctx)
    for name in OPERATED:  # canonicalize would drop them
        node = tiny.node(before, name)
        node.resize_outputs(2)
        node.outputs[1].name = f"{name}.dead"
    return before, ctx


def test_surgery_makes_acceptable_what_is_refused(context_for: ContextFor) -> None:
    before, ctx = operated(context_for)
    refused = Counter(d.rule.name for d in lint(before) if d.severity is Severity.REFUSED)
    assert refused == {"second-output": 2, "operator": 1}
    after, result = lowered(before, ctx)
    assert {*OPERATED, "Add.y"} <= set(result.changed)
    assert [len(tiny.node(after, name).outputs) for name in OPERATED] == [1, 1]
    assert "BiasGelu" not in tiny.operators(after)
    assert scales(before, np.dtype(np.float16)) == scales(after, np.dtype(np.float16))
    feeds = ctx.samples("test").take(np.arange(8))
    runs = [Session(m, threads=1)(feeds) for m in (before, after)]
    assert halves.error(runs[1], runs[0]) < 0.05


def test_indices_that_are_read_cannot_be_repaired(context_for: ContextFor) -> None:
    model = tiny.model_of(POOLED % (", int64[N, 4, 4, 4] i", ", i"))
    with pytest.raises(PreconditionError, match="it has a second output"):
        Lower().resolve(model, context_for(tiny.mlp()))


def test_a_foreign_quantizer_is_repaired(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 16] x) => (float[N, 8] y)
    <float[16, 16] w, float[16, 8] v, float s = {0.02}, uint8 z = {128}> {
        a = MatMul(x, w) r = Relu(a) q = QuantizeLinear(r, s, z)
        d = DequantizeLinear(q, s, z) y = MatMul(d, v)
    }""")
    ctx = context_for(model, target="tensorrt")
    before, _ = frozen(model, ctx, quantize=Quantize(include=("w",)))
    after, _ = lowered(before, ctx)
    assert facts.verify(after, Fact.TRT_LEGAL) == ()
    kinds = ("QuantizeLinear", "DequantizeLinear")
    counts = [[tiny.operators(m).count(kind) for kind in kinds] for m in (before, after)]
    assert counts[0] == counts[1]


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize(("rest", "said"), [("fp16", True), ("bf16", False), ("fp32", False)])
def test_that_it_is_no_file_for_onnxruntime_is_said(
    rest: str, said: bool, context_for: ContextFor
) -> None:
    model, notes = tiny.mlp(), Notes()
    ctx = context_for(model, target="tensorrt", events=notes)
    lowered(frozen(model, ctx)[0], ctx, rest=rest)
    assert (NOT_FOR_ONNXRUNTIME in notes.said) == said


def test_it_needs_data(context_for: ContextFor) -> None:
    model = tiny.mlp()
    before, _ = frozen(model, context_for(model, target="tensorrt"))
    with pytest.raises(PreconditionError, match="--data"):
        lowered(before, context_for(model, data=None))
    lowered(before, context_for(model, data=None), rest="fp32")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tensorrt": "9"}, r"lower.tensorrt: '9' is no version.*8.6, 10 or 11"),
        ({"tensorrt": "eleven"}, "lower.tensorrt"),
        ({"samples": 0}, "lower.samples: 0 is too small"),
    ],
)
def test_values_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Lower(**options)


def test_weights_that_float16_does_not_hold_stay(context_for: ContextFor) -> None:
    model = tiny.mlp()
    ctx = context_for(model, target="tensorrt")
    before, _ = frozen(model, ctx, quantize=Quantize(exclude=("w2",)))
    weight: Array = tiny.weight(before, "w2").copy()
    weight[0, 0] = 1e6
    edit.replace_weight(before.graph.initializers["w2"], weight)
    after, result = lowered(before, ctx)
    assert after.graph.initializers["w2"].dtype == FLOAT
    assert ("constant", "w2") in {(f.rule, f.where) for f in result.skipped}


def test_a_claim_that_does_not_hold_is_found(context_for: ContextFor) -> None:
    model = tiny.mlp()
    ctx = context_for(model, target="tensorrt")
    after, _ = lowered(frozen(model, ctx)[0], ctx)
    assert facts.broken_claims(after) == ()
    edit.replace_weight(after.graph.initializers["x.scale"], np.array(-1.0))
    assert "trt" not in str(facts.present(after))
    assert {f.rule for f in facts.broken_claims(after)} == {"scale"}
    after.metadata_props[claims.TENSORRT] = "newest"
    assert "tensorrt-claim" in {f.rule for f in facts.verify(after, Fact.TRT_LEGAL)}


@pytest.mark.parametrize(
    ("version", "rest", "given", "flag"),
    [
        ("8.6", "fp16", None, True),
        ("8.6", "fp32", None, False),
        ("8.6", "bf16", None, False),
        ("8.6", "fp16", False, False),
        ("10", "fp16", None, None),
        ("11", "fp32", True, True),
    ],
)
def test_a_builder_that_chooses_types_is_told_the_rest(
    version: str, rest: Any, given: bool | None, flag: bool | None
) -> None:
    lower = Lower(tensorrt=version, rest=rest)
    assert lower.builder_options(EngineOptions(fp16=given)).fp16 is flag


@pytest.mark.parametrize("version", ["8.6", "11"])
def test_the_script_for_another_device_is_for_that_version(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shell.write(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingRuntime):
        compile_model(
            "model.onnx", passes="prune,quantize", data="data.npz", target="tensorrt",
            engine="m.engine", threads=1,
            engine_options=EngineOptions(shapes=Shapes.parse(optimum="x:1x8")),
            overrides=Overrides(settings=(f"lower.tensorrt={version}",)),
        )  # fmt: skip
    script = Path("m.engine.trtexec.sh").read_text()
    assert ("--fp16" in script) == (version == "8.6")
    assert ("--stronglyTyped" in script) == (version == "11")


def test_what_lint_says_of_a_lowered_output(context_for: ContextFor) -> None:
    """The output is float because it is one, cast or not."""
    model = tiny.mlp()
    ctx = context_for(model, target="tensorrt")
    after, _ = lowered(frozen(model, ctx)[0], ctx)
    (last,) = [d for d in lint(after) if d.rule.name == "float-output"]
    assert "An output of the model" in str(last)


def test_versions_parse_as_lint_does() -> None:
    assert Lower(tensorrt="10").version == Version(10)
    assert Lower().version == Version(11)

"""The twins differ from the result, and from each other, in what they say and nothing else."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from gpusq_compiler.compile import compile_model
from gpusq_compiler.errors import FileError, OptionError
from gpusq_compiler.ir import claims, io, query
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.base import Context, Fact
from gpusq_compiler.passes.pipeline import Pipeline, each
from gpusq_compiler.passes.twins import TWIN, Twins, unquantized, written_whole
from gpusq_compiler.recipe import Overrides, plan_of
from gpusq_compiler.runtime.compare import compare
from gpusq_compiler.sparsity import nm
from tests import shell, tiny
from tests.recorder import Recorder
from tests.train.nets import ArraySamples

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

ContextFor = Callable[..., Context]
NAMES = ("dense-fp16", "dense-int8", "sparse-fp16")


def made(
    model: ir.Model, context_for: ContextFor, passes: str = "prune,qat", **fields: Any
) -> tuple[dict[str, ir.Model], dict[str, ir.Model]]:
    """The twins, and the model after each pass."""
    few = Overrides(steps=2) if "qat" in passes else None
    plan = plan_of(passes, target="tensorrt", overrides=few)
    ctx = context_for(model, target="tensorrt", **{"trainer": Recorder(), **fields})
    twins = Twins(plan.pipeline.passes, model)
    moments = {"read": model.clone()}

    def keep(report: Any, now: ir.Model) -> None:
        moments[report.ran.name] = now.clone()

    Pipeline(passes=plan.pipeline.passes).run(model, ctx, on_step=each(twins, keep, None))
    return dict(twins.models(ctx)), moments


def layers(model: ir.Model) -> dict[str, query.WeightUse]:
    return {use.node.name or "": use for use in query.weight_uses(model)}


def numbers(use: query.WeightUse) -> Array:
    """A weight as its layer reads it: codes times scales."""
    assert use.value.const_value is not None
    array = use.value.const_value.numpy()
    for node in use.path:
        if node.op_type == "DequantizeLinear":
            scale = node.inputs[1]
            assert scale is not None
            assert scale.const_value is not None
            steps = scale.const_value.numpy().astype(np.float32)
            shape = [1] * array.ndim
            if steps.ndim:
                shape[query.int_attribute(node, "axis", 1)] = -1
            array = array.astype(np.float32) * steps.reshape(shape)
        elif node.op_type == "Transpose":
            array = array.T
    return array.astype(np.float32)


def activations(model: ir.Model) -> dict[str, float]:
    """Scale of every quantizer of something computed, by the codes' name."""
    return {
        node.outputs[0].name or "": float(scale.const_value.numpy())
        for node in model.graph
        if node.op_type == "QuantizeLinear"
        for scale in [node.inputs[1]]
        if scale is not None and scale.const_value is not None
    }


@pytest.mark.parametrize("which", ["mlp", "conv_bn_relu", "residual", "attention",
                                   "shared_weight", "if_branch", "bf16_matmul"])  # fmt: skip
def test_each_twin_is_what_it_says(which: str, context_for: ContextFor) -> None:
    twins, moments = made(tiny.MODELS[which](), context_for)
    result, trained = moments["lower"], moments["qat"]
    dense = layers(moments["canonicalize"])
    assert tuple(twins) == NAMES
    for name, model in twins.items():
        assert facts.verify(model, Fact.TRT_LEGAL) == ()
        assert model.metadata_props[TWIN] == name
        ends = [(v.name, v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)]
        assert ends == [(v.name, v.dtype) for v in (*result.graph.inputs, *result.graph.outputs)]
        found = {k: v for k, v in layers(model).items() if not k.startswith("theirs")}
        assert set(found) == set(layers(result))
        for node, use in found.items():
            quantized = any(n.op_type == "DequantizeLinear" for n in use.path)
            assert quantized == (name == "dense-int8")
            source = layers(trained)[node] if name == "sparse-fp16" else dense[node]
            assert source.value.const_value is not None
            expected = source.value.const_value.numpy().astype(np.float32)
            value = numbers(use)
            assert value.shape == expected.shape
            step = np.abs(expected).max() / 127 if quantized else 0
            # half a step of a quantizer, and rounding to half precision (bfloat16: 2^-8)
            bound = 0.5 * step + np.abs(expected) * 2.0**-7 + 2.0**-24
            assert (np.abs(value - expected) <= bound).all()


def test_dense_int8_differs_from_the_result_in_weights_alone(context_for: ContextFor) -> None:
    twins, moments = made(tiny.attention(), context_for)
    twin, result = twins["dense-int8"], moments["lower"]
    assert activations(twin) == activations(result)
    assert tiny.operators(twin) == tiny.operators(result)
    assert not list(claims.sparse_values(twin))
    assert list(claims.sparse_values(result))
    for use in query.weight_uses(twin):
        assert use.value.const_value is not None
        codes = use.value.const_value.numpy()
        assert np.abs(codes).max() == 127
        assert len(nm.violations(codes, axis=use.reduction))


def test_parameters_that_training_moved_are_the_dense_ones(context_for: ContextFor) -> None:
    twins, moments = made(tiny.mlp(), context_for)
    dense = tiny.weight(moments["canonicalize"], "b1")
    assert not np.allclose(tiny.weight(moments["qat"], "b1"), dense, atol=1e-4)
    for name in ("dense-int8", "dense-fp16"):
        np.testing.assert_allclose(tiny.weight(twins[name], "b1"), dense, rtol=2.0**-10)
    trained = tiny.weight(moments["qat"], "b1")
    np.testing.assert_allclose(tiny.weight(twins["sparse-fp16"], "b1"), trained, rtol=2.0**-10)


def test_the_sparse_twin_has_the_pattern_and_no_quantizer(context_for: ContextFor) -> None:
    twins, _ = made(tiny.conv_bn_relu(), context_for)
    twin = twins["sparse-fp16"]
    assert not [op for op in tiny.operators(twin) if "Quantize" in op]
    held = list(claims.sparse_values(twin))
    assert held
    assert facts.verify(twin, Fact.SPARSE) == ()
    assert not [v for v in twin.graph.initializers.values() if v.dtype == ir.DataType.INT8]


def test_twins_stay_near_what_they_are_twins_of(context_for: ContextFor) -> None:
    data = ArraySamples({"x": np.load("models/digits/train.npz")["x"][:64]})
    model = io.load("models/vit_digits.onnx")
    twins, moments = made(model, context_for, "prune,quantize", data=data)
    near = {
        # half precision alone
        "dense-fp16": (moments["canonicalize"], 1 - 1e-5),
        # half precision, and activations that were quantized with sparse weights in mind
        "dense-int8": (moments["canonicalize"], 0.99),
        "sparse-fp16": (moments["prune"], 1 - 1e-5),
    }
    for name, (reference, least) in near.items():
        (found,) = compare(reference, twins[name], data, threads=1).values()
        assert found.cosine > least, name


def test_bfloat16_gives_the_twins_their_names(context_for: ContextFor) -> None:
    plan = plan_of(
        "prune,quantize",
        target="tensorrt",
        overrides=Overrides(settings=("lower.rest=bf16", "lower.float32=h.QuantizeLinear")),
    )
    model = tiny.mlp()
    ctx = context_for(model, target="tensorrt")
    twins = Twins(plan.pipeline.passes, model)
    Pipeline(passes=plan.pipeline.passes).run(model, ctx, on_step=twins)
    # a node that a twin does not have is no mistake there
    assert [name for name, _ in twins.models(ctx)] == ["dense-bf16", "dense-int8", "sparse-bf16"]


@pytest.mark.parametrize(("passes", "target", "missing"), [
    ("prune,quantize", "onnxruntime", "lower"),
    ("prune", "tensorrt", "quantize"),
])  # fmt: skip
def test_plans_that_have_no_twins(passes: str, target: str, missing: str) -> None:
    with pytest.raises(OptionError, match=f"no pass '{missing}'"):
        Twins(plan_of(passes, target=target).pipeline.passes, tiny.mlp())


def test_quantizers_go_without_a_trace(context_for: ContextFor) -> None:
    _, moments = made(tiny.attention(), context_for, "prune,quantize")
    bare = unquantized(moments["quantize"].clone())
    before = {n: v for n, v in moments["prune"].graph.initializers.items()}
    assert set(bare.graph.initializers) == set(before)
    assert tiny.operators(bare) == tiny.operators(moments["prune"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shell.write(tmp_path)


def test_files_and_report(folder: Path) -> None:
    report = compile_model(
        "model.onnx", passes="prune,quantize", data="data.npz", target="tensorrt", twins="twins",
        threads=1,
    )  # fmt: skip
    files = {twin.name: Path(twin.file.path) for twin in report.twins}
    assert files == {n: Path(f"twins/model.gpusq.{n}.onnx") for n in NAMES}
    assert sorted(Path("twins").iterdir()) == sorted(files.values())
    rng = np.random.default_rng(1)
    for twin in report.twins:
        assert twin.score is not None
        assert 0 <= twin.score <= 1
        session = onnxruntime.InferenceSession(twin.file.path)
        (given,) = session.get_inputs()
        found = session.run(None, {given.name: rng.normal(size=(2, 8)).astype(np.float32)})
        assert np.isfinite(found[0]).all()
    written = shell.report_of(folder)
    assert [twin["name"] for twin in written["twins"]] == list(NAMES)
    assert written["passes"][-1]["pass"] == "lower"


def test_without_twins_the_report_has_none(folder: Path) -> None:
    report = compile_model(
        "model.onnx", passes="prune,quantize", data="data.npz", target="tensorrt", threads=1
    )
    assert report.twins == ()
    assert report.latencies == ()


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("last", range(4))
def test_all_are_written_or_none(
    last: int, there: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the first, second, third twin, or at the result."""
    if there:
        (folder / "twins").mkdir()
    save, done = io.save, list[str | Path]()

    def until_full(model: ir.Model, path: str | Path) -> io.Written:
        if len(done) == last:
            raise FileError(f"cannot be written: {errno.ENOSPC}", where=str(path))
        done.append(path)
        return save(model, path)

    monkeypatch.setattr(io, "save", until_full)
    before = shell.contents(folder)
    with pytest.raises(FileError, match="cannot be written"):
        compile_model(
            "model.onnx", passes="prune,quantize", data="data.npz", target="tensorrt",
            twins="twins", threads=1,
        )  # fmt: skip
    assert shell.contents(folder) == before


def test_data_files_of_large_twins_go_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "INLINE_LIMIT", 10)
    model = tiny.model_of("net (float[N, 64] x) => (float[N, 64] y) <float[64, 64] w> "
                          "{ y = MatMul(x, w) }")  # fmt: skip

    def write_and_fail() -> None:
        with written_whole({tmp_path / "a.onnx": model}) as done:
            assert done[0].data is not None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []

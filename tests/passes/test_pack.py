from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from gpusq_compiler.errors import FileError, OptionError
from gpusq_compiler.ir import claims, edit, io, packed
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.base import Context, Fact
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.lower import Lower
from gpusq_compiler.passes.pack import Pack, unpack
from gpusq_compiler.passes.pipeline import PassReport, Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.quant.placement import Placement
from gpusq_compiler.recipe import plan_of
from gpusq_compiler.runtime.session import session_options
from gpusq_compiler.sparsity.scores import Magnitude
from tests import tiny, zoo_models

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array, Feeds

ContextFor = Callable[..., Context]
MODELS = Path(__file__).parents[2] / "models"


def frozen(
    model: ir.Model,
    context_for: ContextFor,
    *,
    pattern: str = "2:4",
    placement: Placement = "gemm-inputs",
) -> ir.Model:
    steps = (
        Canonicalize(),
        Prune(score=Magnitude(), pattern=pattern),
        Quantize(samples=16, placement=placement),
        Freeze(),
    )
    Pipeline(passes=steps).run(model, context_for(model))
    return model


def pack(model: ir.Model, context_for: ContextFor, *, least: int = 0) -> PassReport:
    (report,) = Pipeline(passes=(Pack(least=least),)).run(model, context_for(model))
    assert facts.verify(model, Fact.PACKED) == ()
    return report


def run(model: ir.Model, feeds: Feeds, folder: Path, *, optimize: bool = True) -> list[Array]:
    """Outputs on the runtime, of the model as it stands; what it ran is in ``run.onnx``."""
    options = session_options(threads=1, optimize=optimize)
    options.optimized_model_filepath = str(folder / "run.onnx")
    proto = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, dict(feeds))
    return found


def kernels(folder: Path) -> collections.Counter[tuple[str, str]]:
    """What the runtime runs of a model, bodies included, by operator."""

    def walk(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
        for node in graph.node:
            yield node.domain, node.op_type
            for attribute in node.attribute:
                yield from walk(attribute.g)

    return collections.Counter(walk(onnx.load(folder / "run.onnx").graph))


def require_same(model: ir.Model, before: ir.Model, feeds: Feeds, folder: Path) -> None:
    """The same bits from the same kernels, and the same bits where nothing is folded."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for optimize in (True, False):
        wanted = run(before, feeds, folder, optimize=optimize)
        ran = kernels(folder)
        found = run(model, feeds, folder, optimize=optimize)
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.tobytes() == theirs.tobytes()
        assert (kernels(folder) == ran) is optimize


LAYOUTS = {
    "gemm transposed": """
        g (float[N, 16] x) => (float[N, 8] y) <float[8, 16] w> { y = Gemm<transB = 1>(x, w) }""",
    "weight on the left": """
        g (float[N, 16, 5] x) => (float[N, 8, 5] y) <float[8, 16] w> { y = MatMul(w, x) }""",
    "stack of matrices": """
        g (float[N, 3, 5, 16] x) => (float[N, 3, 5, 8] y) <float[3, 16, 8] w> {
            y = MatMul(x, w)
        }""",
    "transposed convolution": """
        g (float[N, 8, 5, 5] x) => (float[N, 4, 6, 6] y) <float[8, 4, 2, 2] w> {
            y = ConvTranspose(x, w)
        }""",
    "grouped convolution": """
        g (float[N, 16, 5, 5] x) => (float[N, 8, 5, 5] y) <float[16, 16, 1, 1] v,
            float[8, 8, 3, 3] w> {
            h = Conv(x, v)
            y = Conv<group = 2, pads = [1, 1, 1, 1]>(h, w)
        }""",
    "odd lengths": """
        g (float[N, 24] x) => (float[N, 5] y) <float[24, 5] w> { y = MatMul(x, w) }""",
    "body of a loop": """
        g (float[N, 8] x) => (float[N, 8] y) <int64 count = {3}, bool go = {1}, float[8, 8] w> {
            h = MatMul(x, w)
            y = Loop(count, go, h) <
                body = step (int64 i, bool on, float[N, 8] s) => (bool on2, float[N, 8] s2)
                <float[8, 8] inner> {
                    on2 = Identity(on)
                    m = MatMul(h, inner)
                    s2 = Add(s, m)
                }
            >
        }""",
}
MAKERS: Mapping[str, Callable[[], ir.Model]] = {
    **{name: make for name, make in tiny.MODELS.items() if name != "bf16_matmul"},
    **{name: functools.partial(tiny.model_of, text) for name, text in LAYOUTS.items()},
}


@pytest.mark.parametrize("which", MAKERS)
def test_the_runtime_gives_the_same_bits_from_the_same_kernels(
    which: str, context_for: ContextFor, tmp_path: Path
) -> None:
    model = frozen(MAKERS[which](), context_for)
    before = model.clone()
    report = pack(model, context_for)
    sparse = [value.name for value, _ in claims.sparse_values(before)]
    assert sorted(report.result.changed) == sorted(str(name) for name in sparse)
    assert sparse
    require_same(model, before, tiny.samples(before, 5).arrays, tmp_path)
    assert ir.to_proto(unpack(model)) == ir.to_proto(before)


@pytest.mark.parametrize("pattern", ["1:4", "3:4", "1:2", "4:8", "4:8-pairs", "2:16"])
def test_other_patterns(pattern: str, context_for: ContextFor, tmp_path: Path) -> None:
    model = frozen(tiny.mlp(), context_for, pattern=pattern)
    before = model.clone()
    assert pack(model, context_for).result.changed == ("w1.codes", "w2.codes")
    require_same(model, before, tiny.samples(before, 5).arrays, tmp_path)
    assert ir.to_proto(unpack(model)) == ir.to_proto(before)


@pytest.mark.parametrize("name", ["vit_digits", "resnet_digits"])
def test_the_demo_models(name: str, context_for: ContextFor, tmp_path: Path) -> None:
    dense = io.load(MODELS / f"{name}.onnx")
    model = frozen(dense, context_for, placement="onnxruntime-integer")
    before = model.clone()
    pack(model, context_for, least=Pack().least)
    digits = np.load(MODELS / "digits" / "test.npz")["x"][:32]
    require_same(model, before, {"x": digits}, tmp_path)
    sizes = [io.save(m, tmp_path / "m.onnx").size for m in (before, model)]
    assert sizes[1] < sizes[0]


def test_weights_in_a_data_file(
    context_for: ContextFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "g (float[N, 64] x) => (float[N, 192] y) <float[64, 192] w> { y = MatMul(x, w) }"
    model = frozen(tiny.model_of(text), context_for)
    before = ir.to_proto(model)
    feeds = tiny.samples(model, 5).arrays
    wanted = run(model, feeds, tmp_path)
    pack(model, context_for)
    monkeypatch.setattr(io, "INLINE_LIMIT", 0)
    written = io.save(model, tmp_path / "packed.onnx")
    assert written.data is not None
    assert written.data.stat().st_size >= 64 * 192 * 20 / 32
    session = onnxruntime.InferenceSession(written.path, session_options(threads=1))
    assert np.array_equal(session.run(None, feeds)[0], wanted[0])
    loaded = io.load(written.path)
    assert io.packed_weights(loaded) == ("w.codes",)
    assert ir.to_proto(io.inlined(loaded)) == before
    with pytest.raises(FileError, match="would overwrite a file that the model is read from"):
        io.save(loaded, written.data)


@pytest.mark.slow
def test_deit(context_for: ContextFor, tmp_path: Path) -> None:
    model = io.load(zoo_models.path("deit_small_patch16_224"))
    few = {"data": tiny.samples(model, 2), "held_out": None}
    frozen(model, lambda m: context_for(m, **few))
    before = model.clone()
    report = pack(model, context_for, least=Pack().least)
    assert report.result.metrics["weights"] == 49
    require_same(model, before, tiny.samples(model, 1).arrays, tmp_path)


def test_claims_and_readers_stay(context_for: ContextFor) -> None:
    model = frozen(tiny.shared_weight(), context_for)
    value = model.graph.initializers["w.codes"]
    readers = value.uses()
    pack(model, context_for)
    assert list(packed.packed_values(model)) == [value]
    assert value.uses() == readers
    assert claims.sparsity_of(value) == claims.Sparsity(pattern="2:4", axis=0)


def test_the_report_counts_bytes(context_for: ContextFor) -> None:
    model = frozen(tiny.conv_bn_relu(), context_for)
    report = pack(model, context_for).result
    codes = 16 * 8 * 3 * 3 + 10 * 16
    assert report.metrics == {
        "weights": 2,
        "codes_bytes": codes,
        "packed_bytes": codes * 20 / 32,
    }
    assert report.tables["tensors"][0] == {
        "tensor": "w2.codes",
        "shape": "16x8x3x3",
        "claim": "2:4 axis=1",
        "codes_bytes": 1152,
        "packed_bytes": 720,
    }


def test_small_tensors_are_left_and_listed(context_for: ContextFor) -> None:
    model = frozen(tiny.mlp(), context_for)
    (first, second) = pack(model, context_for, least=193).result.skipped
    assert (first.rule, first.where) == ("small", "w1.codes")
    assert first.reason == "packing saves 192 of 512 bytes, less than 193"
    assert second.where == "w2.codes"
    assert pack(model, context_for, least=192).result.changed == ("w1.codes",)


def test_what_saves_nothing_is_left_however_little_is_asked(context_for: ContextFor) -> None:
    text = "g (float[N, 12] x) => (float[N, 5] y) <float[12, 5] w> { y = MatMul(x, w) }"
    model = frozen(tiny.model_of(text), context_for)
    (finding,) = pack(model, context_for).result.skipped
    # 3 rows of groups and 5 columns: no slabs, so a byte for each of the 30 positions.
    assert finding.reason == "packing saves 0 of 60 bytes"


def test_by_default_no_file_grows(context_for: ContextFor, tmp_path: Path) -> None:
    """The smallest weight that is packed, beside one that is not."""
    text = """
        edge (float[N, 64] x) => (float[N, 31] y) <float[64, 32] one, float[32, 31] two> {
            h = MatMul(x, one)
            y = MatMul(h, two)
        }"""
    model = frozen(tiny.model_of(text), context_for)
    before = io.save(model, tmp_path / "before.onnx").size
    report = pack(model, context_for, least=Pack().least).result
    assert report.metrics["codes_bytes"] == 2048 == Pack().least * 32 / 12
    assert io.save(model, tmp_path / "after.onnx").size < before


def test_what_is_dense_or_float_is_left_and_listed(context_for: ContextFor) -> None:
    model = tiny.mlp()
    steps = (Canonicalize(), Prune(exclude=("w1",)), Quantize(exclude=("w2",)), Freeze())
    Pipeline(passes=steps).run(model, context_for(model))
    report = pack(model, context_for)
    assert not report.changes
    assert {f.where: f.rule for f in report.result.skipped} == {
        "w1.codes": "dense",
        "w2": "not-int8",
    }
    assert any("holds float values" in f.reason for f in report.result.skipped)


def test_what_leaves_the_model_is_left_and_listed(context_for: ContextFor) -> None:
    model = frozen(tiny.mlp(), context_for)
    model.graph.outputs.append(model.graph.initializers["w1.codes"])
    report = pack(model, context_for).result
    assert report.changed == ("w2.codes",)
    assert [(f.rule, f.where) for f in report.skipped] == [("interface", "w1.codes")]


def test_wide_patterns_are_left_and_listed(context_for: ContextFor) -> None:
    model = frozen(tiny.mlp(), context_for)
    value = model.graph.initializers["w2.codes"]
    edit.replace_weight(value, np.zeros((32, 10), np.int8))
    value.metadata_props[claims.SPARSITY] = "2:32 axis=0"
    (finding,) = pack(model, context_for).result.skipped
    assert (finding.rule, finding.where) == ("wide-pattern", "w2.codes")
    assert finding.reason == "the positions of 2:32 take more than 4 bits each"


def test_what_is_packed_is_not_packed_again(context_for: ContextFor) -> None:
    model = frozen(tiny.mlp(), context_for)
    pack(model, context_for)
    before = ir.to_proto(model)
    report = pack(model, context_for)
    assert not report.changes
    assert ir.to_proto(model) == before


@pytest.mark.parametrize("kind", ["proto", "model"])
def test_unpack_works_on_a_copy(kind: str, context_for: ContextFor) -> None:
    model = frozen(tiny.mlp(), context_for)
    before = ir.to_proto(model)
    pack(model, context_for)
    after = ir.to_proto(model)
    given = after if kind == "proto" else model
    found = unpack(given)
    assert type(found) is type(given)
    assert (found if isinstance(found, onnx.ModelProto) else ir.to_proto(found)) == before
    assert ir.to_proto(model) == after


def test_a_pass_alone_sees_no_packed_model(context_for: ContextFor) -> None:
    model = frozen(tiny.mlp(), context_for)
    before = ir.to_proto(model)
    pack(model, context_for)
    assert ir.to_proto(Freeze()(model)) == before
    assert ir.to_proto(Pack(least=0)(model)) == ir.to_proto(model)


def test_facts_of_a_packed_model(context_for: ContextFor) -> None:
    model = frozen(tiny.mlp(), context_for)
    pack(model, context_for)
    assert facts.present(model) == {Fact.CANONICAL, Fact.FROZEN, Fact.PACKED}
    before = {Fact.CANONICAL, Fact.SPARSE, Fact.QDQ, Fact.FROZEN}
    assert facts.present(unpack(model)) == before


def test_a_lowered_model_is_packed_and_comes_back(context_for: ContextFor) -> None:
    model = frozen(tiny.mlp(), context_for)
    Pipeline(passes=(Lower(),)).run(model, context_for(model))
    before = ir.to_proto(model)
    pack(model, context_for)
    assert facts.present(model) == {Fact.CANONICAL, Fact.FROZEN, Fact.PACKED}
    assert facts.broken_claims(model) == ()
    assert ir.to_proto(unpack(model)) == before
    assert Fact.TRT_LEGAL in facts.present(unpack(model))


def test_a_claim_that_the_stored_codes_do_not_keep_is_found(context_for: ContextFor) -> None:
    model = frozen(tiny.mlp(), context_for)
    pack(model, context_for)
    first, second = packed.packed_values(model)
    first.metadata_props[claims.SPARSITY] = "1:4 axis=0"
    del second.metadata_props[claims.SPARSITY]
    one, other = facts.broken_claims(model)
    assert (one.rule, one.where) == ("packed-claim", "tensor 'w1.codes'")
    assert "groups break 1:4 axis=0 in what is stored, the first: [0:4, 0] = " in one.reason
    assert (other.where, other.reason) == ("tensor 'w2.codes'", "claims no pattern")


def test_a_damaged_chain_is_found(context_for: ContextFor) -> None:
    model = frozen(tiny.mlp(), context_for)
    pack(model, context_for)
    model.graph.initializers["w1.codes.kept"].const_value = ir.tensor(np.zeros(3, np.int8))
    (finding,) = facts.verify(model, Fact.PACKED)
    assert finding.where == "tensor 'w1.codes'"
    assert finding.reason == "is stored packed, and its parts do not fit together"


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        (
            (Canonicalize(), Prune(), Quantize(), Pack(), Freeze()),
            (
                "pass 'pack': needs a model that is frozen, which nothing before it makes. "
                "Put freeze before pack"
            ),
        ),
        (
            (Canonicalize(), Quantize(), Freeze(), Pack(), Quantize()),
            (
                "pass 'quantize': cannot run on a model that is already packed. "
                "Put quantize before pack"
            ),
        ),
        (
            (Canonicalize(), Quantize(), Freeze(), Pack(), Canonicalize()),
            (
                "pass 'canonicalize': cannot run on a model that is already packed. "
                "Put canonicalize before pack"
            ),
        ),
        (
            (Canonicalize(), Quantize(), Freeze(), Pack(), Lower()),
            (
                "pass 'lower': cannot run on a model that is already packed. "
                "Put lower before pack"
            ),
        ),
        (
            (Canonicalize(), Quantize(), Freeze(), Pack(), Qat()),
            (
                "pass 'qat': needs a model that is qdq, which nothing before it makes. "
                "Add a pass that gives it before qat"
            ),
        ),
    ],
)
def test_a_wrong_order_is_refused(steps: tuple[Canonicalize, ...], line: str) -> None:
    with pytest.raises(OptionError) as caught:
        Pipeline(passes=steps).check_order()
    assert str(caught.value) == line


@pytest.mark.parametrize("asked", ["prune,qat,pack", "prune,quantize,pack", "prune,pack"])
def test_freeze_comes_before_pack_by_itself(asked: str) -> None:
    names = [step.name for step in plan_of(asked).pipeline.passes]
    assert names[-2:] == ["freeze", "pack"]
    assert names.count("freeze") == 1


def test_tensorrt_is_refused_before_anything_runs(context_for: ContextFor) -> None:
    model = tiny.mlp()
    with pytest.raises(OptionError) as caught:
        Pack().resolve(model, context_for(model, target="tensorrt"))
    assert str(caught.value) == (
        "pass 'pack': TensorRT's parser does not take packed files. "
        "Leave pack out; for storage: gpusq pack, and gpusq unpack to build"
    )


def test_fewer_than_no_bytes_cannot_be_asked() -> None:
    with pytest.raises(OptionError, match=r"pack\.least: -1 is too small"):
        Pack(least=-1)

"""What a plan says of a model is what a run does to it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from gpusq_compiler.analysis.plan import ModelPlan, plan_of
from gpusq_compiler.errors import ModelError, OptionError
from gpusq_compiler.ir import io
from gpusq_compiler.passes import canonicalize
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.lower import Lower
from gpusq_compiler.passes.pack import Pack
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.passes.training import MIXED
from gpusq_compiler.sparsity.scores import Magnitude
from gpusq_compiler.train.budget import seconds_per_step
from gpusq_compiler.train.losses import HardLabel
from tests import tiny
from tests.train.nets import ArraySamples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import onnx_ir as ir

    from gpusq_compiler.analysis.survey import Layer
    from gpusq_compiler.passes.base import Context, Pass

    ContextFor = Callable[..., Context]
    Planned = Callable[..., ModelPlan]

PRUNE = Prune(score=Magnitude())
ALL = (Canonicalize(), PRUNE, Quantize(placement="gemm-inputs"), Freeze(form="plain"))


@pytest.fixture
def planned(context_for: ContextFor, tmp_path: Path) -> Planned:
    """The plan of a model, which has to come from a file."""

    def make(model: ir.Model, passes: Iterable[Pass] = ALL, **fields: Any) -> ModelPlan:
        path = tmp_path / "model.onnx"
        io.save(model, path)
        loaded = io.load(path)
        ctx = context_for(model, **fields)
        return plan_of(loaded, Canonicalize()(loaded), tuple(passes), ctx)

    return make


def by_name(plan: ModelPlan) -> dict[str, Layer]:
    return {layer.name: layer for layer in plan.layers}


CHOICES = [
    PRUNE,
    Prune(score=Magnitude(), exclude=("MatMul.*",)),
    Prune(pattern="1:8", score=Magnitude()),
]


@pytest.mark.parametrize("prune", CHOICES, ids=["all", "some", "1:8"])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_prune_does_what_the_plan_says(
    name: str, prune: Prune, planned: Planned, context_for: ContextFor
) -> None:
    model = tiny.MODELS[name]()
    if prune.exclude and not any("MatMul" in op for op in tiny.operators(model)):
        prune = dataclasses.replace(prune, exclude=("Conv.*",))
    plan = planned(model, (Canonicalize(), prune))
    run = Pipeline(passes=(Canonicalize(), prune)).run(model, context_for(model))[-1].result
    rows = {str(row["layer"]): row for row in run.tables["layers"]}
    # The second reader of a shared weight finds it pruned already: the first row tells.
    kept: dict[object, Any] = {}
    for row in run.tables["layers"]:
        kept.setdefault(row["weight"], row["kept_magnitude"])
    for layer in plan.layers:
        assert layer.eligible == (layer.name in rows)
        if layer.eligible:
            row = rows[layer.name]
            assert (layer.operator, layer.axis) == (row["operator"], row["axis"])
            assert layer.kept == pytest.approx(kept[row["weight"]], abs=1e-6)
    refused = {found.where: (found.rule, found.reason) for found in run.skipped}
    left = {layer.name: (layer.rule, layer.reason) for layer in plan.layers if layer.rule}
    assert left.items() <= refused.items()
    share = plan.totals.eligible_parameters / plan.totals.layer_parameters
    assert share == pytest.approx(run.metrics["share_of_weights"])


TIED = """
net (int64[N, 3] x) => (float[N, 3, 8] y)
<float[8, 4] table, float[4, 16] w, float[16, 4] v> {
    e = Gather(table, x)
    a = MatMul(e, w)
    r = Relu(a)
    b = MatMul(r, v)
    t = Transpose<perm = [1, 0]>(table)
    y = MatMul(b, t)
}"""
TIED_GEMM = """
net (int64[N] x) => (float[N, 8] y)
<float[8, 4] table, float[4, 16] w, float[16, 4] v> {
    e = Gather(table, x)
    a = MatMul(e, w)
    r = Relu(a)
    b = MatMul(r, v)
    y = Gemm<transB = 1>(b, table)
}"""
TWO_AXES = """
net (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w> {
    a = MatMul(x, w)
    y = Gemm<transB = 1>(a, w)
}"""


TEXTS = {"tied": TIED, "tied gemm": TIED_GEMM, "two axes": TWO_AXES}


@pytest.mark.parametrize("passes", [ALL, (*ALL[:1], *ALL[2:]), ALL[:2]], ids=len)
@pytest.mark.parametrize("name", [*tiny.MODELS, *TEXTS])
def test_weights_take_what_the_plan_says(
    name: str,
    passes: tuple[Pass, ...],
    planned: Planned,
    context_for: ContextFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if PRUNE in passes:  # quantize alone gives a weight behind a Transpose other scales
        monkeypatch.setattr(canonicalize, "FOLD_LIMIT", 1)  # as large tables are left
    model = tiny.model_of(TEXTS[name]) if name in TEXTS else tiny.MODELS[name]()
    rank = len(model.graph.inputs[0].shape or ())
    data = {"data": tokens(rank)} if name.startswith("tied") else {}
    totals = planned(model, passes, **data).totals
    other = constants(Canonicalize()(model)) - totals.weight_bytes
    reports = Pipeline(passes=passes).run(model, context_for(model, **data))
    figures = {report.ran.name: report.result.metrics for report in reports}
    # An activation's pair has a scale of four bytes and a zero point of one.
    pairs = int(figures.get("quantize", {"activations": 0})["activations"])
    assert constants(model) == other + totals.weight_bytes_after + 5 * pairs


@pytest.mark.parametrize("name", ["mlp", "residual", "attention", "two axes"])
def test_packed_weights_take_what_the_plan_says(
    name: str, planned: Planned, context_for: ContextFor
) -> None:
    model = tiny.model_of(TWO_AXES) if name == "two axes" else tiny.MODELS[name]()
    passes = (*ALL, Pack(least=0))
    frozen = planned(model).totals.weight_bytes_after
    totals = planned(model, passes).totals
    packed = Pipeline(passes=passes).run(model, context_for(model))[-1].result.metrics
    assert packed["weights"]
    saved = packed["codes_bytes"] - packed["packed_bytes"]
    assert totals.weight_bytes_after == frozen - saved
    few = planned(tiny.MODELS["mlp"](), (*ALL, Pack(least=100_000))).totals
    assert few.weight_bytes_after == planned(tiny.MODELS["mlp"]()).totals.weight_bytes_after


def test_the_rest_of_a_lowered_model_is_half_as_large(planned: Planned) -> None:
    model = tiny.mlp()
    plain, half = planned(model), planned(model, (*ALL, Lower()))
    scales = 32 + 10
    assert plain.totals.weight_bytes_after - half.totals.weight_bytes_after == 2 * scales
    biases = 32 + 10
    saved = plain.totals.file_bytes_after - half.totals.file_bytes_after
    assert saved == 2 * (scales + biases)
    for same in (Lower(rest="fp32"), Lower(tensorrt="8.6")):
        assert planned(model, (*ALL, same)).totals == plain.totals


def constants(model: ir.Model) -> int:
    values = (v.const_value for g in model.graphs() for v in g.initializers.values())
    return sum(int(value.nbytes) for value in values if value is not None)


def tokens(rank: int) -> Any:
    from tests.train.nets import ArraySamples

    rng = np.random.default_rng(0)
    return ArraySamples({"x": rng.integers(0, 8, (24, 3)[:rank])})


def test_a_layer_in_numbers(planned: Planned) -> None:
    plan = planned(tiny.residual())
    grouped = by_name(plan)["Conv.c2"]
    assert (grouped.shape, grouped.axis, grouped.parameters) == ((8, 4, 3, 3), 1, 288)
    assert str(grouped.gemm) == "2 x 36x4x36"
    assert grouped.operations == 36 * 8 * 4 * 9
    assert grouped.bytes == 4 * 288
    assert grouped.bytes_after == 288 + 8 * 5  # codes; a scale and a zero point a channel
    assert grouped.drawback.startswith("narrow, 36 to 8: ")
    assert not grouped.pays
    stem = by_name(plan)["Conv.c1"]
    assert (stem.eligible, stem.rule, stem.kept) == (False, "stem", None)
    assert plan.totals.operations == (8 * 8 * 9 + 8 * 4 * 9 + 8 * 8) * 36
    assert plan.totals.eligible_operations == (8 * 4 * 9 + 8 * 8) * 36


def test_wide_layers_may_pay(planned: Planned) -> None:
    model = tiny.model_of("""
    wide (float[N, 256] x) => (float[N, 64] y) <float[256, 256] w, float[256, 64] v> {
        h = MatMul(x, w)
        y = MatMul(h, v)
    }""")
    plan = planned(model)
    assert [layer.pays for layer in plan.layers] == [True, False]
    assert plan.totals.paying_layers == 1


def test_what_no_pass_knows_is_a_layer_too(planned: Planned) -> None:
    model = tiny.model_of("""
    net (float[N, 4, 8] x) => (float[N, 4, 8] y) <float[8, 8] w, float[8, 8] v> {
        h = Einsum<equation = "nsd,de->nse">(x, w)
        y = MatMul(h, v)
    }""")
    plan = planned(model)
    einsum = by_name(plan)["Einsum.h"]
    assert (einsum.rule, einsum.parameters, einsum.bytes_after) == ("unknown-layer", 64, 256)
    assert einsum.operations is None
    assert plan.totals.unknown_operations == 1
    assert plan.totals.layer_parameters == 128
    assert "1 of them of unknown cost" in next(plan.summary())


def test_kept_is_what_two_of_four_keep(planned: Planned) -> None:
    model = tiny.mlp()
    weight = np.abs(tiny.weight(model, "w2"))
    best = np.sort(weight.reshape(8, 4, 10), axis=1)[:, 2:].sum() / weight.sum()
    assert by_name(planned(model))["MatMul.z"].kept == pytest.approx(best, rel=1e-6)


def test_a_sparse_weight_keeps_everything(planned: Planned) -> None:
    model = PRUNE(Canonicalize()(tiny.mlp()))
    assert [layer.kept for layer in planned(model, (PRUNE,)).layers] == [1, 1]


def test_steps_and_minutes(planned: Planned) -> None:
    passes = (Canonicalize(), Quantize(), Qat(steps=120, batch_size=4))
    plan = planned(tiny.mlp(), passes)
    canonicalize, quantize, qat = plan.passes
    assert (canonicalize.minutes, quantize.minutes) == (None, None)
    assert (qat.steps, qat.options["batch_size"]) == (120, 4)
    cost = 16 * 32 + 32 * 10
    assert qat.minutes == pytest.approx(2 * seconds_per_step(cost, 4))
    assert str(qat).endswith(f"about {qat.minutes:.1f} min")


@pytest.mark.parametrize("labels", [True, False])
def test_losses_without_labels_for_them_are_not_listed(planned: Planned, labels: bool) -> None:
    def losses(**options: Any) -> list[str]:
        step = planned(tiny.mlp(), (Qat(**options),), data=data).passes[0]
        return [term["use"] for term in cast("list[Any]", step.options["losses"])]

    arrays = dict(tiny.samples(tiny.mlp(), 32).arrays)
    if labels:
        arrays["labels"] = np.arange(32) % 10
    data = ArraySamples(arrays)
    assert losses() == [term.name for term in MIXED[not labels :]]
    if labels:
        assert losses(losses=(HardLabel(),)) == ["hard-label"]
        return
    with pytest.raises(OptionError, match=r"qat\.losses: hard-label needs labels"):
        losses(losses=(HardLabel(),))


def test_a_budget_gives_the_minutes_and_leaves_the_steps_open(planned: Planned) -> None:
    *_, qat = planned(tiny.mlp(), (Canonicalize(), Quantize(), Qat()), budget=90.0).passes
    assert (qat.steps, qat.minutes, qat.bounded) == (None, 1.5, True)
    assert "steps" not in qat.options
    assert "steps=those of 1.5 min" in str(qat)


def test_steps_that_were_given_do_not_count_as_a_budget(planned: Planned) -> None:
    passes = (Canonicalize(), Quantize(), Qat(steps=7))
    *_, qat = planned(tiny.mlp(), passes, budget=90.0).passes
    assert (qat.steps, qat.bounded) == (7, False)


UNKNOWN = """
net (float[N, 16] x) => (float[N, 8] y) <float[16, 16] w, float[16, 8] v> {
    a = MatMul(x, w)
    b = com.example.Strange(a)
    y = MatMul(b, v)
}"""


def strange() -> ir.Model:
    import onnx
    import onnx_ir as ir

    header = '<ir_version: 9, opset_import: ["" : 17, "com.example" : 1]>'
    proto = onnx.parser.parse_model(header + UNKNOWN)
    rng = np.random.default_rng(0)
    for info in list(proto.graph.value_info):
        if info.name in {"w", "v"}:
            shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
            values = rng.normal(size=shape).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(values, info.name))
            proto.graph.value_info.remove(info)
    return ir.from_proto(proto)


def test_a_model_that_cannot_run_is_planned_as_far_as_it_goes(planned: Planned) -> None:
    plan = planned(strange(), (Canonicalize(), PRUNE), data=tiny.samples(tiny.mlp()))
    first, second = plan.layers
    assert first.gemm is not None
    assert second.gemm is not None
    assert (first.gemm.m, second.gemm.k) == (1, 16)
    assert (first.eligible, second.eligible) == (True, True)
    assert second.gemm.m is None, "nothing tells what Strange makes"


def test_training_what_cannot_run_is_refused(planned: Planned) -> None:
    passes = (Canonicalize(), Quantize(), Qat())
    with pytest.raises(ModelError, match="refuses the model"):
        planned(strange(), passes, data=tiny.samples(tiny.mlp()))


def test_an_entry_that_matches_nothing_is_refused(planned: Planned) -> None:
    with pytest.raises(OptionError, match="'hed' matches no layer"):
        planned(tiny.mlp(), (Canonicalize(), Prune(exclude=("hed",))))


def test_json_holds_everything(planned: Planned) -> None:
    plan = planned(tiny.mlp(), (*ALL[:3], Qat(steps=5, batch_size=4)))
    found = json.loads(json.dumps(plan.as_json(), allow_nan=False))
    assert list(found) == ["format", "notes", "passes", "layers", "totals"]
    assert [step["pass"] for step in found["passes"]] == [
        *("canonicalize", "prune", "quantize", "qat")
    ]
    first = found["layers"][0]
    assert first["name"] == "Gemm.a"
    assert (first["m"], first["n"], first["k"], first["groups"]) == (1, 32, 16, 1)
    assert (first["operations"], first["pays"], first["shape"]) == (512, False, [16, 32])
    totals = found["totals"]
    assert totals["ratio"] == totals["file_bytes"] / totals["file_bytes_after"]
    assert totals["parameters"] == 16 * 32 + 32 + 32 * 10 + 10

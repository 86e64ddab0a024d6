from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import (
    GpusqError,
    ModelError,
    OptionError,
    PassBug,
    PostconditionError,
    PreconditionError,
    TrainingError,
)
from gpusq_compiler.ir import claims, edit
from gpusq_compiler.passes.base import Context, Fact, Pass, PassResult
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import PassReport, Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.runtime.events import Silent
from tests import tiny

ContextFor = Callable[..., Context]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Act(Pass):
    """Does to the model what a test says, at the moment that it says."""

    name: ClassVar[str] = "act"
    gives: ClassVar[frozenset[Fact]] = frozenset()

    on_rewrite: Callable[[ir.Model, Context], object] = lambda model, ctx: None
    on_precheck: Callable[[ir.Model, Context], object] = lambda model, ctx: None
    on_postcheck: Callable[[ir.Model, Context], object] = lambda model, ctx: None

    def precheck(self, model: ir.Model, ctx: Context) -> None:
        self.on_precheck(model, ctx)

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        self.on_rewrite(model, ctx)
        return PassResult()

    def postcheck(self, model: ir.Model, ctx: Context, result: PassResult) -> None:
        self.on_postcheck(model, ctx)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lossless(Act):
    """The same, but it says that it keeps the function."""

    lossy: ClassVar[bool] = False


def raising(error: Exception) -> Callable[[ir.Model, Context], object]:
    def fail(model: ir.Model, ctx: Context) -> None:
        raise error

    return fail


def run(context_for: ContextFor, *steps: Pass) -> tuple[PassReport, ...]:
    model = tiny.mlp()
    return Pipeline(passes=steps).run(model, context_for(model))


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        (
            (Freeze(), Canonicalize(), Quantize()),
            (
                "pass 'freeze': needs a model that is qdq, which nothing before it makes. "
                "Put quantize before freeze"
            ),
        ),
        (
            (Prune(), Canonicalize()),
            (
                "pass 'prune': needs a model that is canonical, which nothing before it "
                "makes. Put canonicalize before prune"
            ),
        ),
        (
            (Canonicalize(), Qat()),
            (
                "pass 'qat': needs a model that is qdq, which nothing before it makes. "
                "Add a pass that gives it before qat"
            ),
        ),
        (
            (Canonicalize(), Quantize(), Freeze(), Prune()),
            (
                "pass 'prune': cannot run on a model that is already frozen. "
                "Put prune before freeze"
            ),
        ),
        (
            (Canonicalize(), Quantize(), Freeze(), Qat()),
            "pass 'qat': cannot run on a model that is already frozen. Put qat before freeze",
        ),
    ],
)
def test_a_wrong_order_is_refused_with_the_right_one(
    steps: tuple[Pass, ...], line: str
) -> None:
    with pytest.raises(OptionError) as caught:
        Pipeline(passes=steps).check_order()
    assert str(caught.value) == line


def test_what_a_pass_breaks_has_to_be_made_again() -> None:
    again = (Canonicalize(), Quantize(), Freeze(), Quantize(), Qat(), Freeze())
    Pipeline(passes=again).check_order()


def test_a_frozen_file_is_refused_by_training(context_for: ContextFor) -> None:
    model = tiny.mlp()
    steps = (Canonicalize(), Quantize(), Freeze())
    Pipeline(passes=steps).run(model, context_for(model))
    with pytest.raises(OptionError, match=r"already frozen\. Give the model as it was before"):
        Pipeline(passes=(Canonicalize(), Prune())).run(model, context_for(model))


def test_the_order_is_checked_before_anything_runs(context_for: ContextFor) -> None:
    ran = []
    first = Act(on_rewrite=lambda model, ctx: ran.append(1))
    with pytest.raises(OptionError):
        run(context_for, first, Freeze())
    assert ran == []


def test_the_teacher_is_the_model_before_its_first_lossy_pass(context_for: ContextFor) -> None:
    seen: list[ir.Model | None] = []
    spoil = Act(
        on_rewrite=lambda model, ctx: edit.replace_weight(
            model.graph.initializers["w1"], np.zeros((16, 32), np.float32)
        )
    )
    look = Act(on_rewrite=lambda model, ctx: seen.append(ctx.teacher))
    lossless = Lossless(on_rewrite=lambda model, ctx: seen.append(ctx.teacher))
    run(context_for, lossless, spoil, look, look)
    assert seen[0] is None
    assert seen[1] is seen[2]
    assert seen[1] is not None
    assert np.array_equal(tiny.weight(seen[1], "w1"), tiny.weight(tiny.mlp(), "w1"))


def test_a_teacher_that_was_given_stays(context_for: ContextFor) -> None:
    teacher, seen = tiny.mlp(), []
    model = tiny.mlp()
    look = Act(on_rewrite=lambda model, ctx: seen.append(ctx.teacher))
    Pipeline(passes=(look,)).run(model, context_for(model, teacher=teacher))
    assert seen == [teacher]


def test_reports_tell_what_ran(context_for: ContextFor) -> None:
    calls: list[tuple[str, ir.Model]] = []
    model = tiny.mlp()
    reports = Pipeline(passes=(Canonicalize(), Prune(), Act())).run(
        model, context_for(model), on_step=lambda r, m: calls.append((r.ran.name, m))
    )
    assert calls == [("canonicalize", model), ("prune", model), ("act", model)]
    assert [bool(report.changes) for report in reports] == [False, True, False]
    assert reports[1].changes.tensors == ("w1", "w2")
    assert reports[1].changes.metadata == ("w1:gpusq.sparsity", "w2:gpusq.sparsity")
    assert all(report.seconds >= 0 for report in reports)


def test_a_planted_third_value_stops_the_run(context_for: ContextFor) -> None:
    def plant(model: ir.Model, ctx: Context) -> None:
        weight = tiny.weight(model, "w1").copy()
        weight[8:12, 5] = [0.5, 0.5, -0.25, 0]
        edit.replace_weight(model.graph.initializers["w1"], weight)

    with pytest.raises(PassBug) as caught:
        run(context_for, Canonicalize(), Prune(), Act(on_rewrite=plant))
    line = str(caught.value)
    assert line.startswith("pass 'act': sparse no longer holds: tensor 'w1': 1 groups break")
    assert "[8:12, 5] = 0.5, 0.5, -0.25, 0" in line
    assert "(after canonicalize, prune)" in line
    assert caught.value.exit_code == 3


def test_a_model_that_lies_about_itself_is_refused(context_for: ContextFor) -> None:
    model = tiny.mlp()
    model.graph.initializers["w1"].metadata_props[claims.SPARSITY] = "2:4 axis=0"
    with pytest.raises(ModelError, match=r"tensor 'w1': the model claims what its values do"):
        Pipeline(passes=(Act(),)).run(model, context_for(model))


def dangling(model: ir.Model, ctx: Context) -> None:
    node = ir.node("Relu", [ir.Value(name="nowhere")], name="dangling")
    node.outputs[0].name = "dangling"
    model.graph.append(node)


def constant(model: ir.Model, ctx: Context) -> None:
    node = ir.node("Constant", [], {"value_float": 1.0}, name="constant")
    node.outputs[0].name = "constant"
    model.graph.append(node)


def bad_attribute(model: ir.Model, ctx: Context) -> None:
    tiny.node(model, "Gemm.a").attributes["transQ"] = ir.AttrInt64("transQ", 1)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (dangling, "act: left an invalid model"),
        (bad_attribute, "act: left an invalid model"),
        (constant, "pass 'act': canonical no longer holds: constant"),
    ],
)
def test_a_pass_that_leaves_rubbish_is_a_bug(
    damage: Callable[[ir.Model, Context], None], says: str, context_for: ContextFor
) -> None:
    with pytest.raises(PassBug, match=says):
        run(context_for, Canonicalize(), Act(on_rewrite=damage))


def test_a_pass_that_does_not_give_what_it_says_is_a_bug(context_for: ContextFor) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Liar(Act):
        """Says that it names nodes."""

        gives: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL})

    def unname(model: ir.Model, ctx: Context) -> None:
        tiny.node(model, "Gemm.a").name = "Relu.h"

    with pytest.raises(PassBug, match=r"canonical no longer holds: Relu\.h"):
        run(context_for, Liar(on_rewrite=unname))


@pytest.mark.parametrize("moment", ["on_precheck", "on_rewrite", "on_postcheck"])
@pytest.mark.parametrize("kind", [PreconditionError, PostconditionError, TrainingError])
def test_errors_name_the_passes_that_ran(
    moment: str, kind: type[GpusqError], context_for: ContextFor
) -> None:
    error = kind("it went wrong.", where="act", remedy="Try again")
    bad = Act(**{moment: raising(error)})
    with pytest.raises(kind) as caught:
        run(context_for, Canonicalize(), Prune(), bad)
    assert str(caught.value) == "act: it went wrong (after canonicalize, prune). Try again"
    with pytest.raises(kind) as alone:
        run(context_for, Act(**{moment: raising(kind("it went wrong", where="act"))}))
    assert str(alone.value) == "act: it went wrong"


def test_other_errors_pass_through_as_they_are(context_for: ContextFor) -> None:
    with pytest.raises(ZeroDivisionError):
        run(context_for, Act(on_rewrite=raising(ZeroDivisionError("no"))))


def test_randomness_depends_on_seed_and_label_alone(context_for: ContextFor) -> None:
    first, other = (context_for(tiny.mlp(), seed=seed) for seed in (1, 2))
    draws = [ctx.rng(label).integers(1 << 62) for ctx in (first, other) for label in "ab"]
    assert len(set(draws)) == 4
    assert first.rng("a").integers(1 << 62) == draws[0]


def test_called_alone_without_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    look = Act(on_rewrite=lambda model, ctx: folders.append(ctx.workdir))
    model = tiny.mlp()
    assert look(model) is not model
    assert not folders[0].exists()
    with pytest.raises(OptionError, match="pass 'freeze': needs a model that is qdq"):
        Freeze()(model)


class Told(Silent):
    """Keeps what it hears of passes."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def enter(self, step: str, number: int, total: int) -> None:
        self.heard.append(("enter", step, number, total))

    def leave(self, step: str, *, changed: int, left_alone: int, seconds: float) -> None:
        assert seconds >= 0
        self.heard.append(("leave", step, changed, left_alone))


def test_who_watches_hears_of_every_pass(context_for: ContextFor) -> None:
    model = tiny.conv_bn_relu()
    events = Told()
    reports = Pipeline(passes=(Canonicalize(), Prune())).run(
        model, context_for(model, events=events)
    )
    first, second = (report.result for report in reports)
    assert events.heard == [
        ("enter", "canonicalize", 1, 2),
        ("leave", "canonicalize", len(first.changed), len(first.skipped)),
        ("enter", "prune", 2, 2),
        ("leave", "prune", 2, 1),
    ]
    assert len(second.changed) == 2
    peaks = [report.peak_memory for report in reports]
    assert all(peak is not None and peak > 1e6 for peak in peaks)
    assert peaks == sorted(peaks, key=lambda peak: peak or 0)


def test_who_watches_hears_of_no_end_that_did_not_come(context_for: ContextFor) -> None:
    def fail(model: ir.Model, ctx: Context) -> None:
        raise TrainingError("no")

    model = tiny.mlp()
    events = Told()
    with pytest.raises(TrainingError):
        Pipeline(passes=(Act(on_rewrite=fail),)).run(model, context_for(model, events=events))
    assert events.heard == [("enter", "act", 1, 1)]

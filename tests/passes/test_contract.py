"""What every registered pass promises, on every small model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler import recipe
from gpusq_compiler.passes import options, registry
from gpusq_compiler.passes.base import Context, Pass
from gpusq_compiler.passes.pipeline import PassReport, Pipeline
from gpusq_compiler.passes.training import TrainingPass
from gpusq_compiler.recipe import Overrides, plan_of, recipe_text
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

ContextFor = Callable[..., Context]
PASSES = list(registry.PASSES)
EVERYWHERE = list(itertools.product(PASSES, tiny.MODELS))


def planned(name: str) -> tuple[tuple[Pass, ...], Pass]:
    """The pass of this name with few steps, and the passes that it needs before it."""
    few, asked = None, [name]
    if issubclass(registry.find(name), TrainingPass):
        few = Overrides(steps=2)
    if name == "pack":  # there must be something to pack, small as it is
        few, asked = Overrides(settings=("pack.least=0",)), ["prune", name]
    steps = plan_of(asked, overrides=few).pipeline.passes
    position = [step.name for step in steps].index(name)
    return steps[:position], steps[position]


@dataclasses.dataclass
class Trial:
    """A pass and what it needs, run on one model.

    Attributes:
        step: The pass on trial.
        at_start: Called with the model right before the pass runs for the first time.
        times: How often it runs.
    """

    name: str
    model: ir.Model
    ctx: Context
    at_start: Callable[[ir.Model], object] = bool
    times: int = 1

    def run(self) -> list[PassReport]:
        """The reports of the pass on trial."""
        before, step = planned(self.name)
        passes = (*before, *[step] * self.times)
        if not before:
            self.at_start(self.model)
        done: list[PassReport] = []

        def on_step(report: PassReport, model: ir.Model) -> None:
            done.append(report)
            if len(done) == len(before):
                self.at_start(model)

        Pipeline(passes=passes).run(self.model, self.ctx, on_step=on_step)
        return done[len(before) :]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def bodiless(node: onnx.NodeProto) -> bytes:
    """A node's bytes, without its claims and without what stands in its bodies."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.metadata_props[:]
    for attribute in copy.attribute:
        attribute.g.Clear()
    content: bytes = copy.SerializeToString(deterministic=True)
    return content


class Moment:
    """Everything that a pass may change, by name: an oracle that shares no code with ours."""

    def __init__(self, model: ir.Model) -> None:
        self.tensors: dict[str, bytes] = {}
        self.nodes: dict[str, bytes] = {}
        self.claims: set[str] = set()
        self.values: set[str] = set()
        for graph in graphs(ir.to_proto(model.clone()).graph):
            for tensor in graph.initializer:
                self.tensors[tensor.name] = onnx.numpy_helper.to_array(tensor).tobytes()
            for number, node in enumerate(graph.node):
                self.nodes[node.name or f"{graph.name}#{number}"] = bodiless(node)
                self.values |= {*node.input, *node.output}
        for inner in model.graphs():
            for thing in (*inner.initializers.values(), *inner):
                props = thing.metadata_props.items()
                self.claims |= {f"{thing.name}:{k}={v}" for k, v in props}
        self.claims |= {f":{k}={v}" for k, v in model.metadata_props.items()}


def different(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {key for key in {*before, *after} if before.get(key) != after.get(key)}


def signature(model: ir.Model) -> list[str]:
    values = (*model.graph.inputs, *model.graph.outputs)
    return [f"{v.name} {v.dtype} {v.shape}" for v in values]


def bytes_of(model: ir.Model) -> bytes:
    content: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return content


@pytest.mark.parametrize(("name", "which"), EVERYWHERE)
def test_it_says_what_it_changed_and_left(
    name: str, which: str, context_for: ContextFor
) -> None:
    model = tiny.MODELS[which]()
    interface = signature(model)
    start: list[Moment] = []
    trial = Trial(name, model, context_for(model), lambda m: start.append(Moment(m)))
    (report,) = trial.run()
    (before,), after = start, Moment(model)
    tensors = different(before.tensors, after.tensors)
    nodes = different(before.nodes, after.nodes)
    stamped = {text.partition(":gpusq.")[0] for text in before.claims ^ after.claims}
    assert set(report.changes.tensors) == tensors
    assert set(report.changes.nodes) == nodes
    assert {key.rpartition(":")[0] for key in report.changes.metadata} == stamped
    changed = report.result.changed
    assert bool(changed) == bool(report.changes) == bool(tensors | nodes | stamped)
    assert len(set(changed)) == len(changed)
    assert set(changed) <= tensors | nodes | stamped | after.values
    for finding in report.result.skipped:
        assert finding.rule == finding.rule.lower()
        assert " " not in finding.rule
        assert finding.where in {*before.nodes, *after.values}
        assert len(finding.reason.split()) > 2
    assert signature(model) == interface
    onnx.checker.check_model(ir.to_proto(model))


@pytest.mark.parametrize(("name", "which"), EVERYWHERE)
def test_a_second_run_changes_nothing(name: str, which: str, context_for: ContextFor) -> None:
    once, twice = tiny.MODELS[which](), tiny.MODELS[which]()
    ctx = context_for(once, seed=7)
    Trial(name, once, ctx).run()
    first, second = Trial(name, twice, ctx, times=2).run()
    assert type(first.ran).idempotent == (bytes_of(once) == bytes_of(twice))
    if first.ran.idempotent:
        assert not second.changes
        assert second.result.changed == ()


@pytest.mark.parametrize(("name", "which"), EVERYWHERE)
def test_same_seed_same_bytes(name: str, which: str, context_for: ContextFor) -> None:
    models = [tiny.MODELS[which]() for _ in range(2)]
    for model in models:
        Trial(name, model, context_for(model, seed=7)).run()
    assert bytes_of(models[0]) == bytes_of(models[1])


@pytest.mark.parametrize("name", PASSES)
def test_nothing_is_written_outside_the_workdir(
    name: str, context_for: ContextFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr("tempfile.tempdir", None)
    model = tiny.mlp()
    ctx = context_for(model)
    Trial(name, model, ctx).run()
    assert [path.name for path in tmp_path.iterdir() if path != ctx.workdir] == ["elsewhere"]
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("kind", ["proto", "model"])
def test_called_alone_it_works_on_a_copy(
    name: str, kind: str, context_for: ContextFor
) -> None:
    model = tiny.conv_bn_relu()
    ctx = context_for(model, teacher=tiny.conv_bn_relu())
    before, step = planned(name)
    Pipeline(passes=before).run(model, ctx)
    given = ir.to_proto(model) if kind == "proto" else model
    start = bytes_of(model)
    answer = step(given, ctx)
    assert type(answer) is type(given)
    after = given if isinstance(given, onnx.ModelProto) else ir.to_proto(given)
    assert after.SerializeToString(deterministic=True) == start
    changed = answer if isinstance(answer, onnx.ModelProto) else ir.to_proto(answer)
    Pipeline(passes=(step,)).run(model, ctx)
    assert changed.SerializeToString(deterministic=True) == bytes_of(model)


def with_foreign_parts(model: ir.Model) -> ir.Model:
    """Metadata, doc strings and a node of somebody else's, which no pass owns."""
    output = model.graph.outputs[0]
    node = ir.node("Gelu", [output], domain="com.microsoft", name="theirs")
    node.outputs[0].name = "y2"
    node.outputs[0].type, node.outputs[0].shape = output.type, output.shape
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])
    model.opset_imports["com.microsoft"] = 1
    model.opset_imports["their.unused"] = 3
    model.doc_string = model.graph.doc_string = "why"
    model.producer_name, model.producer_version = "they", "1.2"
    model.metadata_props["their.key"] = model.graph.metadata_props["their.key"] = "kept"
    for thing in (node, model.graph.initializers["w1"], model.graph.inputs[0]):
        thing.metadata_props["their.key"] = "kept"
        thing.doc_string = "why"
    return model


@pytest.mark.parametrize("name", PASSES)
def test_what_others_wrote_survives(name: str, context_for: ContextFor) -> None:
    model = with_foreign_parts(tiny.mlp())
    Trial(name, model, context_for(model)).run()
    again = ir.from_proto(ir.to_proto(model))
    assert again.opset_imports["com.microsoft"] == 1
    assert again.opset_imports["their.unused"] == 3
    assert again.doc_string == again.graph.doc_string == "why"
    assert (again.producer_name, again.producer_version) == ("they", "1.2")
    assert again.metadata_props["their.key"] == "kept"
    assert again.graph.metadata_props["their.key"] == "kept"
    theirs = tiny.node(again, "theirs")
    assert (theirs.domain, theirs.op_type) == ("com.microsoft", "Gelu")
    kept: list[ir.Node | ir.Value] = [theirs, again.graph.inputs[0]]
    kept += [v for k, v in again.graph.initializers.items() if k == "w1"]
    assert len(kept) == (2 if name in {"freeze", "lower", "pack"} else 3)
    for thing in kept:
        assert thing.metadata_props["their.key"] == "kept"
        assert thing.doc_string == "why"


@pytest.mark.parametrize("name", PASSES)
def test_an_operator_that_nobody_knows_survives(name: str, context_for: ContextFor) -> None:
    model = tiny.bf16_matmul()
    output = model.graph.outputs[0]
    # named like a plugin, for another name is one that TensorRT refuses
    node = ir.node("Riddle_TRT", [output], {"depth": 3}, domain="their.domain", name="theirs")
    node.outputs[0].name, node.outputs[0].type = "y2", output.type
    node.outputs[0].shape = ir.Shape(["N", "free"])
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])
    model.opset_imports["their.domain"] = 4
    Trial(name, model, context_for(model)).run()
    assert tiny.node(model, "theirs").attributes["depth"].as_int() == 3
    assert model.opset_imports["their.domain"] == 4
    assert signature(model)[-1] == "y2 FLOAT [N,free]"


@pytest.mark.parametrize("name", PASSES)
def test_options_and_recipe_are_one(name: str, tmp_path: Path) -> None:
    before, step = planned(name)
    text = recipe_text((*before, step), 3)
    file = tmp_path / "recipe.toml"
    file.write_text(text, encoding="utf-8")
    plan = plan_of(recipe=file)
    assert plan.pipeline.passes[: len(before) + 1] == (*before, step)
    assert plan.seed == 3
    assert recipe_text(plan.pipeline.passes, plan.seed) == plan.text()
    for one in plan.pipeline.passes:
        built = options.build(
            type(one), options.dump(one), find=registry.find_component, where=one.name
        )
        assert built == one


@pytest.mark.parametrize("name", PASSES)
def test_it_documents_itself(name: str) -> None:
    step = registry.find(name)
    assert step.name == name
    assert (step.__doc__ or "").strip().endswith(".")
    for option in options.options_of(step):
        assert option.help, f"{name}.{option.name} has no help"
        assert hash(option.default) is not None
    assert step.gives.isdisjoint(step.breaks)
    assert recipe.plan_of([name]).pipeline.passes

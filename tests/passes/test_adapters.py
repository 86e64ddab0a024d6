"""Surgery and onnx_ir's own steps as passes of a pipeline, and ours in a sequence of onnx_ir."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from gpusq_compiler.errors import OptionError, PassBug, PreconditionError
from gpusq_compiler.ir import claims, edit
from gpusq_compiler.passes import facts, registry
from gpusq_compiler.passes.adapters import ForOnnxIr, IrPass, SurgeonPass
from gpusq_compiler.passes.base import Context, Fact, Pass, PassResult
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.options import build, options_of
from gpusq_compiler.passes.pack import Pack
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.runtime.session import Session
from tests import tiny

if TYPE_CHECKING:
    from gpusq_compiler.ir.surgeon import Graph

ContextFor = Callable[..., Context]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReluToClip(SurgeonPass):
    """Replace every Relu by a Clip with a ceiling."""

    name: ClassVar[str] = "relu-to-clip"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL})

    ceiling: Annotated[float, "what nothing goes above"] = 6.0

    def operate(self, graph: Graph, ctx: Context) -> PassResult:
        """Let a new node take the tensors of the old one over."""
        del ctx
        found = [node for node in graph.nodes if node.op == "Relu"]
        for node in found:
            x, (y,) = node.inputs[0], node.outputs
            node.outputs.clear()
            limits = [
                gs.Constant(f"{y.name}.{end}", np.array(limit, np.float32))
                for end, limit in (("low", 0), ("top", self.ceiling))
            ]
            graph.nodes.append(gs.Node("Clip", f"{node.name}.clip", {}, [x, *limits], [y]))
        return PassResult(changed=tuple(node.name for node in found))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observe(SurgeonPass):
    """Insert an Identity behind every MatMul."""

    name: ClassVar[str] = "observe"
    lossy: ClassVar[bool] = False

    def operate(self, graph: Graph, ctx: Context) -> PassResult:
        """Read the product through a copy."""
        del ctx
        changed = []
        for node in [node for node in graph.nodes if node.op == "MatMul"]:
            (product,) = node.outputs
            seen = gs.Variable(f"{product.name}.seen")
            for reader in list(product.outputs):
                reader.inputs[reader.inputs.index(product)] = seen
            graph.nodes.append(gs.Node("Identity", "", {}, [product], [seen]))
            changed.append(node.name)
        return PassResult(changed=tuple(changed))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bypass(SurgeonPass):
    """Delete every node of an operator that has one input and one output."""

    name: ClassVar[str] = "bypass"

    operator: Annotated[str, "what to delete"] = "Identity"

    def operate(self, graph: Graph, ctx: Context) -> PassResult:
        """Let the readers read what the node read."""
        del ctx
        gone = [node for node in graph.nodes if node.op == self.operator]
        for node in gone:
            for reader in list(node.outputs[0].outputs):
                reader.inputs[reader.inputs.index(node.outputs[0])] = node.inputs[0]
            node.outputs.clear()
        return PassResult(changed=tuple(node.name for node in gone))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deduplicate(IrPass):
    """Store equal weights once."""

    name: ClassVar[str] = "deduplicate"
    lossy: ClassVar[bool] = False

    limit: Annotated[int, "largest weight that is compared, in elements"] = 1024

    def step(self) -> ir.passes.InPlacePass:
        """The onnx_ir pass."""
        return common.DeduplicateInitializersPass(size_limit=self.limit)


def test_surgery_before_prune_and_quantize(context_for: ContextFor) -> None:
    model = tiny.mlp()
    ctx = context_for(model)
    steps = (Canonicalize(), ReluToClip(ceiling=0.5), Observe(), Prune(), Quantize(), Freeze())
    reports = Pipeline(passes=steps).run(model, ctx)
    assert reports[1].result.changed == ("Relu.h",)
    assert reports[1].changes.nodes == ("Relu.h", "Relu.h.clip")
    assert not {"w1", "w2", "b1", "b2"}.intersection(reports[1].changes.tensors)
    assert reports[2].result.changed == ("MatMul.z",)
    assert "Relu" not in tiny.operators(model)
    assert facts.present(model) == {Fact.CANONICAL, Fact.SPARSE, Fact.QDQ, Fact.FROZEN}
    h = Session(model, outputs=["h"], threads=1)(tiny.samples(model).arrays)["h"]
    assert h.max() == 0.5
    assert (h == 0.5).sum() > 1


def test_surgery_after_prune_leaves_the_claims(context_for: ContextFor) -> None:
    model = tiny.residual()
    ctx = context_for(model)
    Pipeline(passes=(Canonicalize(), Prune())).run(model, ctx)
    before = sparse(model)
    Pipeline(passes=(ReluToClip(),)).run(model, ctx)
    assert sparse(model) == before != {}
    Pipeline(passes=(Quantize(), Freeze())).run(model, ctx)
    assert facts.present(model) >= {Fact.SPARSE, Fact.FROZEN}


def sparse(model: ir.Model) -> dict[str | None, tuple[object, str]]:
    """Tensors that claim to be sparse, as objects, and what they claim."""
    found = claims.sparse_values(model)
    return {value.name: (value.const_value, str(claim)) for value, claim in found}


@pytest.mark.parametrize("name", tiny.MODELS)
def test_inserting_and_deleting_changes_no_value(name: str) -> None:
    model = tiny.MODELS[name]()
    feeds = tiny.samples(model, 3).arrays
    expected = Session(model, threads=1)(feeds)["y"]
    observed = Observe()(model)
    assert "Identity" in tiny.operators(observed) or "MatMul" not in {
        node.op_type for node in model.graph
    }
    assert np.array_equal(Session(observed, threads=1)(feeds)["y"], expected)
    back = Bypass()(observed)
    assert tiny.operators(back) == tiny.operators(model)
    assert np.array_equal(Session(back, threads=1)(feeds)["y"], expected)


def test_a_surgery_has_options_order_and_a_copy_like_any_pass() -> None:
    assert [option.name for option in options_of(ReluToClip)] == ["ceiling"]
    step = build(ReluToClip, {"ceiling": 3}, find=registry.find_component, where="x")
    assert step == ReluToClip(ceiling=3.0)
    with pytest.raises(OptionError, match="needs a model that is canonical"):
        Pipeline(passes=(step,)).check_order()
    model = tiny.mlp()
    changed = step(Canonicalize()(model))
    assert "Relu" in tiny.operators(model)
    assert "Clip" in tiny.operators(changed)


def test_a_claim_that_no_longer_holds_is_found(context_for: ContextFor) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Overwrite(SurgeonPass):
        name: ClassVar[str] = "overwrite"

        def operate(self, graph: Graph, ctx: Context) -> PassResult:
            del ctx
            graph.tensors()["w1"].values = np.ones((16, 32), np.float32)
            return PassResult(changed=("w1",))

    model = tiny.mlp()
    steps = (Canonicalize(), Prune(), Overwrite())
    with pytest.raises(PassBug, match="sparse no longer holds"):
        Pipeline(passes=steps).run(model, context_for(model))


def test_errors_say_which_pass_and_what_had_run(context_for: ContextFor) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Peek(SurgeonPass):
        name: ClassVar[str] = "peek"

        def operate(self, graph: Graph, ctx: Context) -> PassResult:
            del ctx
            assert graph.tensors()["w1"].values.any()
            return PassResult()

    model = tiny.mlp()
    with pytest.raises(PreconditionError, match=r"2048 bytes.*after canonicalize"):
        Pipeline(passes=(Canonicalize(), Peek())).run(model, context_for(model))


def test_a_step_of_onnx_ir_is_a_pass(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    equal (float[N, 4] x) => (float[N, 4] y) <float[4] one, float[4] other> {
        h = Add(x, one)
        y = Mul(h, other)
    }""")
    ctx = context_for(model)
    (different,) = Pipeline(passes=(Deduplicate(),)).run(model, ctx)
    assert not different.result.changed
    edit.replace_weight(model.graph.initializers["other"], tiny.weight(model, "one"))
    (large,) = Pipeline(passes=(Deduplicate(limit=3),)).run(model, ctx)
    assert not large.result.changed
    (equal,) = Pipeline(passes=(Deduplicate(),)).run(model, ctx)
    assert equal.result.changed == ("Mul.y", "other")
    assert list(model.graph.initializers) == ["one"]


def test_a_step_of_onnx_ir_that_fails_is_one_line() -> None:
    class Broken(ir.passes.InPlacePass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            del model
            raise ir.passes.PassError("no luck\nat all")

    class Wrapped(Deduplicate):
        def step(self) -> ir.passes.InPlacePass:
            return Broken()

    with pytest.raises(PassBug, match=r"^deduplicate: failed: "):
        Wrapped()(tiny.mlp())


def sequence(*steps: Pass, ctx: Context | None = None) -> ir.passes.Sequential:
    """Ours between two of onnx_ir's."""
    return ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        ForOnnxIr(*steps, ctx=ctx),
        common.DeduplicateHashedInitializersPass(),
        common.CheckerPass(),
    )


def test_ours_stand_in_a_sequence_of_onnx_ir() -> None:
    model = tiny.residual()
    steps = (Canonicalize(), Prune())
    expected = Prune()(Canonicalize()(model))
    result = sequence(*steps)(model)
    assert result.model is model
    assert result.modified
    assert facts.present(model) == {Fact.CANONICAL, Fact.SPARSE}
    feeds = tiny.samples(model, 3).arrays
    assert np.array_equal(
        Session(model, threads=1)(feeds)["y"], Session(expected, threads=1)(feeds)["y"]
    )
    assert not ForOnnxIr(*steps)(model).modified


def test_ours_in_a_sequence_use_the_context(context_for: ContextFor) -> None:
    model = tiny.mlp()
    steps = (Canonicalize(), Prune(), Quantize(), Freeze())
    sequence(*steps, ctx=context_for(model))(model)
    assert facts.present(model) >= {Fact.SPARSE, Fact.QDQ, Fact.FROZEN}
    with pytest.raises(ir.passes.PassError, match="'gpusq quantize' pass after") as refused:
        sequence(Quantize())(Canonicalize()(tiny.mlp()))
    assert isinstance(refused.value.__cause__, PreconditionError)
    assert "open_context" in str(refused.value.__cause__)


def test_ours_in_a_sequence_meet_no_packed_weights(context_for: ContextFor) -> None:
    model = tiny.mlp()
    steps = (Canonicalize(), Prune(), Quantize(), Freeze(), Pack(least=0))
    Pipeline(passes=steps).run(model, context_for(model))
    assert Fact.PACKED in facts.present(model)
    assert ForOnnxIr(Canonicalize())(model).modified
    assert facts.present(model) == {Fact.CANONICAL, Fact.SPARSE, Fact.QDQ, Fact.FROZEN}


def test_no_pass_at_all_is_refused() -> None:
    with pytest.raises(OptionError, match="takes at least one pass"):
        ForOnnxIr()

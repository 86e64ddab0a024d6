from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir import claims, edit
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.base import Context, Fact
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.recipe import plan_of
from tests import tiny

ContextFor = Callable[..., Context]


def compiled(passes: str, context_for: ContextFor, model: ir.Model | None = None) -> ir.Model:
    model = model or tiny.mlp()
    plan_of(passes).pipeline.run(model, context_for(model))
    return model


def plant(model: ir.Model, name: str, value: float = 0.5) -> None:
    """Make the third value of the first group something other than zero."""
    weight = tiny.weight(model, name).copy()
    weight[:4, 0] = [value, value, value, 0]
    edit.replace_weight(model.graph.initializers[name], weight)


def test_a_plain_model_is_canonical_and_nothing_else() -> None:
    assert facts.present(tiny.mlp()) == {Fact.CANONICAL}
    assert facts.present(tiny.int4_weight()) == {Fact.CANONICAL}


def test_a_compiled_model_has_all_facts(context_for: ContextFor) -> None:
    lowered = facts.present(compiled("prune,quantize,lower", context_for))
    assert lowered == set(Fact) - {Fact.PACKED}
    frozen = facts.present(compiled("prune,quantize", context_for))
    assert frozen == lowered - {Fact.TRT_LEGAL}
    model = compiled("prune", context_for)
    assert facts.present(model) == {Fact.CANONICAL, Fact.SPARSE}


@pytest.mark.parametrize("passes", ["prune", "prune,quantize"])
def test_a_planted_third_value_is_named(passes: str, context_for: ContextFor) -> None:
    model = compiled(passes, context_for)
    name = "w1" if passes == "prune" else "w1.codes"
    assert facts.broken_claims(model) == ()
    plant(model, name, 5)
    (finding,) = facts.broken_claims(model)
    assert (finding.rule, finding.where) == ("sparsity-claim", f"tensor '{name}'")
    assert finding.reason == "1 groups break 2:4 axis=0, the first: [0:4, 0] = 5, 5, 5, 0"
    assert Fact.SPARSE not in facts.present(model)


def test_only_values_that_survive_rounding_count_in_the_codes(context_for: ContextFor) -> None:
    model = tiny.mlp()
    Pipeline(passes=plan_of("prune,quantize").pipeline.passes[:-1]).run(
        model, context_for(model)
    )
    value = model.graph.initializers["w1"]
    value.metadata_props[claims.SPARSITY] = "1:4 axis=0"
    weight = np.zeros((16, 32), np.float32)
    weight[::4] = 1
    edit.replace_weight(value, weight)
    assert facts.verify(model, Fact.SPARSE) == ()
    weight[1] = tiny.weight(model, "w1.scale") * 0.6
    edit.replace_weight(value, weight)
    (finding,) = facts.verify(model, Fact.SPARSE)
    assert finding.reason.startswith("32 groups break 1:4 axis=0, the first")


def test_the_claim_of_a_body_is_verified(context_for: ContextFor) -> None:
    model = compiled("prune", context_for, tiny.if_branch())
    body = tiny.node(model, "If.y").attributes["then_branch"].as_graph()
    weight = tiny.weight(model, "w_then").copy()
    weight[:] = 1
    edit.replace_weight(body.initializers["w_then"], weight)
    assert [f.where for f in facts.broken_claims(model)] == ["tensor 'w_then'"]


@pytest.mark.parametrize("text", ["2:4", "axis=0", "2:4 axis=x", "", "2:4 axis=-1"])
def test_a_claim_that_cannot_be_read_is_refused(text: str) -> None:
    model = tiny.mlp()
    model.graph.initializers["w1"].metadata_props[claims.SPARSITY] = text
    with pytest.raises(ModelError, match=r"tensor 'w1': the sparsity claim .* cannot be read"):
        facts.present(model)


@pytest.mark.parametrize("text", ["4:2 axis=0", "two:four axis=0", "2:4 axis=7", "2:5 axis=0"])
def test_a_claim_that_cannot_hold_is_broken(text: str) -> None:
    model = tiny.mlp()
    model.graph.initializers["w1"].metadata_props[claims.SPARSITY] = text
    (finding,) = facts.broken_claims(model)
    assert finding.where == "tensor 'w1'"
    assert finding.reason.startswith(f"{text} cannot hold: ")


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_must_be_a_positive_number(bad: float, context_for: ContextFor) -> None:
    model = compiled("quantize", context_for)
    scale = tiny.weight(model, "w1.scale").copy()
    scale[3] = bad
    edit.replace_weight(model.graph.initializers["w1.scale"], scale)
    (finding,) = facts.verify(model, Fact.QDQ)
    assert finding.rule == "scale"
    assert finding.where == "w1.DequantizeLinear"
    assert finding.reason.startswith(f"scale 3 is {bad}")


def test_a_zero_point_must_be_zero(context_for: ContextFor) -> None:
    model = compiled("quantize", context_for)
    zero = model.graph.initializers["w1.zero_point"]
    edit.replace_weight(zero, np.ones(32, np.int8))
    assert {f.rule for f in facts.verify(model, Fact.QDQ)} == {"zero-point"}


def test_a_scale_must_be_constant(context_for: ContextFor) -> None:
    model = compiled("quantize", context_for)
    scale = model.graph.initializers.pop("x.scale")
    scale.const_value = None
    model.graph.inputs.append(scale)
    assert {f.reason for f in facts.verify(model, Fact.QDQ)} == {"the scale is not a constant"}


def test_foreign_quantizers_promise_nothing() -> None:
    model = tiny.int4_weight()
    edit.replace_weight(model.graph.initializers["scale"], np.zeros(32, np.float32))
    assert facts.broken_claims(model) == ()


def test_a_float_weight_behind_a_quantizer_is_not_frozen(context_for: ContextFor) -> None:
    model = tiny.mlp()
    plan = plan_of("quantize").pipeline.passes[:-1]
    Pipeline(passes=plan).run(model, context_for(model))
    assert {f.where for f in facts.verify(model, Fact.FROZEN)} == {
        "w1.QuantizeLinear",
        "w2.QuantizeLinear",
    }
    assert facts.present(model) == {Fact.CANONICAL, Fact.QDQ}


def test_what_is_not_canonical_is_named() -> None:
    model = tiny.mlp()
    tiny.node(model, "Relu.h").name = "Gemm.a"
    constant = ir.node("Constant", [], {"value_float": 1.0}, name="one")
    constant.outputs[0].name = "one"
    model.graph.insert_before(model.graph[0], constant)
    found = {(f.rule, f.where) for f in facts.verify(model, Fact.CANONICAL)}
    assert found == {("constant-node", "one"), ("node-name", "Gemm.a")}

"""Unpacking: byte for byte what was there before, or a refusal of what somebody changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir import claims, edit, packed
from gpusq_compiler.passes.base import Context
from gpusq_compiler.recipe import Overrides, plan_of
from tests import tiny

ContextFor = Callable[..., Context]
EVERYTHING = Overrides(settings=("pack.least=0",))


def frozen(model: ir.Model, context_for: ContextFor) -> ir.Model:
    plan_of("prune,quantize").pipeline.run(model, context_for(model))
    return model


def packed_mlp(context_for: ContextFor) -> ir.Model:
    model = tiny.mlp()
    plan_of("prune,pack", overrides=EVERYTHING).pipeline.run(model, context_for(model))
    return model


def bytes_of(model: ir.Model) -> bytes:
    content: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return content


@pytest.mark.parametrize("through_a_file", [False, True], ids=["in memory", "as a file"])
@pytest.mark.parametrize("which", tiny.MODELS)
def test_unpacked_is_byte_for_byte_what_was_packed(
    which: str, through_a_file: bool, context_for: ContextFor
) -> None:
    model = frozen(tiny.MODELS[which](), context_for)
    for value in model.graph.initializers.values():
        if value.const_value is not None and claims.sparsity_of(value):
            value.doc_string = value.const_value.doc_string = "why"
            value.metadata_props["their.key"] = "kept"
            value.const_value.metadata_props["their.tensor.key"] = "kept"
    before = bytes_of(model)
    (report,) = plan_of("pack", overrides=EVERYTHING).pipeline.passes[-1:]
    report.rewrite(model, context_for(model))
    assert bytes_of(model) != before
    if through_a_file:
        model = ir.from_proto(ir.to_proto(model))
    names = packed.unpack(model)
    assert names
    assert bytes_of(model) == before
    assert packed.unpack(model) == ()


def test_who_reads_the_zeros_too_keeps_them(context_for: ContextFor) -> None:
    model = packed_mlp(context_for)
    zeros = tiny.node(model, "pack.zeros").outputs[0]
    node = ir.node("Cast", [zeros], {"to": 1}, name="theirs")
    node.outputs[0].name, node.outputs[0].type = "theirs", ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])
    packed.unpack(model)
    assert "ScatterElements" not in tiny.operators(model)
    assert tiny.operators(model).count("ConstantOfShape") == 1


def test_a_packed_weight_that_somebody_made_an_output_stays_one(
    context_for: ContextFor,
) -> None:
    model = packed_mlp(context_for)
    (value, _) = packed.packed_values(model)
    model.graph.outputs.append(value)
    packed.unpack(model)
    assert [output.name for output in model.graph.outputs] == ["y", "w1.codes"]
    assert model.graph.outputs[1] is model.graph.initializers["w1.codes"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_the_same_nodes_of_somebody_else_are_left(context_for: ContextFor) -> None:
    model = packed_mlp(context_for)
    for node in model.graph:
        node.metadata_props.clear()
    before = bytes_of(model)
    assert packed.unpack(model) == ()
    assert bytes_of(model) == before


def node_of(model: ir.Model, operator: str) -> ir.Node:
    return next(n for n in model.graph if n.op_type == operator)


def other_attribute(model: ir.Model) -> None:
    node_of(model, "BitShift").attributes["direction"] = ir.AttrString("direction", "LEFT")


def ones_for_zeros(model: ir.Model) -> None:
    one = ir.tensor(np.ones(1, np.int8))
    node_of(model, "ConstantOfShape").attributes["value"] = ir.AttrTensor("value", one)


def more_attributes(model: ir.Model) -> None:
    attribute = ir.AttrString("reduction", "add")
    node_of(model, "ScatterElements").attributes["reduction"] = attribute


def other_operator(model: ir.Model) -> None:
    node_of(model, "Mod").op_type = "Div"


def other_domain(model: ir.Model) -> None:
    node_of(model, "Cast").domain = "their.domain"


def computed(model: ir.Model) -> None:
    node = node_of(model, "ScatterElements")
    model.graph.initializers["w1.codes.kept"].const_value = None
    assert node.inputs[2] is not None


def other_type(model: ir.Model) -> None:
    value = model.graph.initializers["w1.codes.positions"]
    value.const_value = ir.tensor(tiny.weight(model, "w1.codes.positions").astype(np.uint16))


def read_elsewhere(model: ir.Model) -> None:
    node = ir.node("Identity", [node_of(model, "Cast").outputs[0]], name="theirs")
    node.outputs[0].name = "theirs"
    model.graph.append(node)


def repeated_positions(model: ir.Model) -> None:
    value = model.graph.initializers["w1.codes.positions"]
    edit.replace_weight(value, np.zeros_like(tiny.weight(model, "w1.codes.positions")))


def no_zeros(model: ir.Model) -> None:
    room = edit.new_initializer(model.graph, "folded", np.zeros((4, 1, 4, 32), np.int8))
    node_of(model, "ScatterElements").replace_input_with(0, room)


DAMAGE = [
    (other_attribute, "its BitShift is not as gpusq writes it"),
    (ones_for_zeros, "its ConstantOfShape is not as gpusq writes it"),
    (more_attributes, "its ScatterElements is not as gpusq writes it"),
    (other_operator, "no Mod stands where gpusq puts one"),
    (other_domain, "no Cast stands where gpusq puts one"),
    (no_zeros, "no ConstantOfShape stands where gpusq puts one"),
    (computed, "a part of it is not a constant"),
    (other_type, "'w1.codes.positions' holds uint16"),
    (read_elsewhere, "something else reads the result of its Cast"),
    (repeated_positions, "the positions of a group do not ascend"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGE)
def test_what_somebody_changed_is_refused_in_one_line(
    damage: Callable[[ir.Model], None], says: str, context_for: ContextFor
) -> None:
    model = packed_mlp(context_for)
    damage(model)
    with pytest.raises(ModelError, match=rf"tensor 'w1\.codes': is stored packed, and {says}"):
        packed.unpack(model)

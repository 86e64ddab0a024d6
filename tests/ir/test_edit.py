from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from gpusq_compiler.ir import claims, edit
from tests import tiny

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array


def test_a_weight_keeps_its_type_its_claims_and_what_others_wrote() -> None:
    model = tiny.bf16_matmul()
    value = model.graph.initializers["w"]
    before = tiny.weight(model, "w").copy()
    old = ir.tensor(before, dtype=ir.DataType.BFLOAT16, name="w", doc_string="why")
    value.const_value = old
    value.metadata_props["their.key"] = "kept"
    old.metadata_props["their.tensor.key"] = "kept"
    edit.replace_weight(value, np.full((16, 8), 1.5, np.float32))
    assert value.const_value is not old
    assert value.const_value.dtype == ir.DataType.BFLOAT16
    assert tiny.weight(model, "w").dtype == ml_dtypes.bfloat16
    assert (tiny.weight(model, "w") == 1.5).all()
    assert np.array_equal(old.numpy(), before)
    assert value.metadata_props["their.key"] == "kept"
    assert value.const_value.metadata_props["their.tensor.key"] == "kept"
    assert value.const_value.doc_string == "why"


def test_int4_weights_are_replaced_exactly() -> None:
    model = tiny.int4_weight()
    codes = np.arange(-8, 8, dtype=np.int8).repeat(32).reshape(16, 32)
    edit.replace_weight(model.graph.initializers["codes"], codes)
    again = ir.from_proto(ir.to_proto(model))
    assert np.array_equal(tiny.weight(again, "codes").astype(np.int8), codes)


def test_a_transposed_weight_lies_in_rows_again() -> None:
    model = tiny.mlp()
    value = model.graph.initializers["w1"]
    wish = tiny.weight(model, "w1").T.copy().T
    edit.replace_weight(value, wish)
    assert np.array_equal(tiny.weight(model, "w1"), wish)
    common.DeduplicateHashedInitializersPass()(model)  # raises where a tensor does not


def test_fresh_names_collide_with_nothing() -> None:
    names = edit.Names(tiny.if_branch())
    for taken in (
        "x",
        "w",
        "h",
        "y",
        "MatMul.h",
        "inner",
        "w_then",
        "then_branch/MatMul.inner",
    ):
        assert names.fresh(taken) == f"{taken}.2"
    assert names.fresh("new") == "new"
    assert names.fresh("new") == "new.2"
    assert names.fresh("new") == "new.3"


@pytest.mark.parametrize("dtype", [np.float32, np.int8, ml_dtypes.int4])
def test_a_new_initializer_is_registered(dtype: type) -> None:
    model = tiny.mlp()
    array: Array = np.array([[1, 2], [3, 4]]).astype(dtype)
    value = edit.new_initializer(model.graph, "new", array)
    assert model.graph.initializers["new"] is value
    assert value.shape == ir.Shape([2, 2])
    assert np.array_equal(tiny.weight(ir.from_proto(ir.to_proto(model)), "new"), array)


def test_a_new_node_is_stamped_and_typed() -> None:
    like = tiny.mlp().graph.inputs[0]
    node = edit.new_node(
        "Cast", [like], name="n", author="somebody", output="o", like=like,
        dtype=ir.DataType.FLOAT16, attributes={"to": 10},
    )  # fmt: skip
    assert node.metadata_props == {claims.PASS: "somebody"}
    assert (node.name, node.op_type, node.attributes["to"].as_int()) == ("n", "Cast", 10)
    (result,) = node.outputs
    assert (result.name, result.shape, result.dtype) == ("o", like.shape, ir.DataType.FLOAT16)
    same = edit.new_node("Relu", [like], name="m", author="a", output="p", like=like)
    assert same.outputs[0].dtype == ir.DataType.FLOAT


def test_redirect_moves_the_named_readers_alone() -> None:
    model = tiny.shared_weight()
    first, second = tiny.node(model, "MatMul.a"), tiny.node(model, "MatMul.y")
    other = edit.new_initializer(model.graph, "other", np.eye(16, dtype=np.float32))
    edit.redirect([(second, 1)], other)
    assert first.inputs[1] is model.graph.initializers["w"]
    assert second.inputs[1] is other


def test_only_what_nothing_reads_is_dropped() -> None:
    model = tiny.mlp()
    unused = [
        edit.new_initializer(model.graph, name, np.zeros(1, np.float32)) for name in ("u", "v")
    ]
    model.graph.outputs.append(unused[1])
    edit.drop_unused(model.graph, [*unused, model.graph.initializers["w1"]])
    assert set(model.graph.initializers) == {"w1", "b1", "w2", "b2", "v"}


def test_shapes_are_inferred_quietly(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.mlp()
    tiny.node(model, "Relu.h").domain = "their.domain"
    model.opset_imports["their.domain"] = 1
    with caplog.at_level(logging.DEBUG):
        edit.infer_shapes(model)
    shapes = {v.name: str(v.shape) for n in model.graph for v in n.outputs}
    assert shapes == {"a": "[N,32]", "h": "None", "z": "None", "y": "[N,10]"}
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.ir import claims, edit
from gpusq_compiler.ir.changes import Changes, Snapshot
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable


def changes(model: ir.Model, act: Callable[[ir.Model], object]) -> Changes:
    before = Snapshot(model)
    act(model)
    return before.until(Snapshot(model))


def expected(**fields: tuple[str, ...]) -> Changes:
    empty: tuple[str, ...] = ()
    names = ("tensors", "nodes", "metadata", "interface")
    return Changes(**{name: fields.get(name, empty) for name in names})


@pytest.mark.parametrize("which", tiny.MODELS)
def test_nothing_changed(which: str) -> None:
    model = tiny.MODELS[which]()
    found = changes(model, lambda m: None)
    assert found == expected()
    assert not found


def replace(name: str) -> Callable[[ir.Model], None]:
    def act(model: ir.Model) -> None:
        for graph in model.graphs():
            if name in graph.initializers:
                edit.replace_weight(graph.initializers[name], np.zeros((8, 8), np.float32))

    return act


def test_a_weight() -> None:
    assert changes(tiny.if_branch(), replace("w")) == expected(tensors=("w",))


def test_a_weight_of_a_body_and_not_the_node_around_it() -> None:
    assert changes(tiny.if_branch(), replace("w_then")) == expected(tensors=("w_then",))


def insert(model: ir.Model) -> None:
    y = model.graph.outputs[0]
    node = edit.new_node("Relu", [y], name="new", author="a", output="new_y", like=y)
    model.graph.append(node)


def rewire(model: ir.Model) -> None:
    tiny.node(model, "Add.y").replace_input_with(0, tiny.node(model, "MatMul.z").outputs[0])
    tiny.node(model, "MatMul.z").replace_input_with(1, model.graph.initializers["w1"])


def claim(model: ir.Model) -> None:
    model.graph.initializers["w1"].metadata_props[claims.SPARSITY] = "2:4 axis=0"


def note(model: ir.Model) -> None:
    model.graph.initializers["w1"].metadata_props["their.key"] = "x"


def attribute(model: ir.Model) -> None:
    tiny.node(model, "Gemm.a").attributes["alpha"] = ir.AttrFloat32("alpha", 2.0)


def stamp(model: ir.Model) -> None:
    model.metadata_props[claims.PREFIX + "recipe"] = "x"


def output(model: ir.Model) -> None:
    model.graph.outputs.append(tiny.node(model, "Relu.h").outputs[0])


def retype(model: ir.Model) -> None:
    model.graph.inputs[0].type = ir.TensorType(ir.DataType.DOUBLE)


def remove(model: ir.Model) -> None:
    relu = tiny.node(model, "Relu.h")
    source = relu.inputs[0]
    assert source is not None
    relu.outputs[0].replace_all_uses_with(source)
    model.graph.remove(relu, safe=True)


@pytest.mark.parametrize(
    ("act", "fields"),
    [
        (insert, {"nodes": ("new",), "metadata": ("new:gpusq.pass",)}),
        (rewire, {"nodes": ("MatMul.z",)}),
        (claim, {"metadata": ("w1:gpusq.sparsity",)}),
        (note, {}),
        (attribute, {"nodes": ("Gemm.a",)}),
        (stamp, {"metadata": (":gpusq.recipe",)}),
        (output, {"interface": ("h",)}),
        (retype, {"interface": ("x",)}),
        (remove, {"nodes": ("Relu.h", "MatMul.z")}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_changed_is_named(
    act: Callable[[ir.Model], None], fields: dict[str, tuple[str, ...]]
) -> None:
    found = changes(tiny.mlp(), act)
    assert found == expected(**fields)
    assert bool(found) == bool(fields)


def test_the_attributes_of_a_node_count_by_value() -> None:
    model = tiny.conv_bn_relu()

    def same(model: ir.Model) -> None:
        conv = tiny.node(model, "Conv.c2")
        conv.attributes["strides"] = ir.AttrInt64s("strides", [2, 2])

    def other(model: ir.Model) -> None:
        conv = tiny.node(model, "Conv.c2")
        conv.attributes["strides"] = ir.AttrInt64s("strides", [1, 1])

    assert not changes(model, same)
    assert changes(model, other).nodes == ("Conv.c2",)


def test_a_snapshot_remembers_the_moment() -> None:
    model = tiny.mlp()
    first = Snapshot(model)
    replacement = np.zeros((16, 32), np.float32)
    edit.replace_weight(model.graph.initializers["w1"], replacement)
    second = Snapshot(model)
    edit.replace_weight(model.graph.initializers["w2"], np.zeros((32, 10), np.float32))
    third = Snapshot(model)
    assert first.until(second).tensors == ("w1",)
    assert second.until(third).tensors == ("w2",)
    assert first.until(third).tensors == ("w1", "w2")

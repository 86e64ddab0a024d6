"""What stands in a graph in place of a packed weight, and that ONNX Runtime computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.ir import claims, edit, packed
from gpusq_compiler.runtime.session import Session
from gpusq_compiler.sparsity.nm import NM, mask_from_zeros, mask_of
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.runtime.samples import Array

CHAIN = ["BitShift", "Mod", "Cast", "ScatterElements", "Reshape"]


def sparse(shape: Sequence[int], axis: int, pattern: NM) -> Array:
    rng = np.random.default_rng(0)
    mask = mask_of(rng.random(shape), pattern, axis=axis)
    return np.where(mask, rng.integers(-127, 128, shape), 0).astype(np.int8)


def model_of(weights: dict[str, Array]) -> ir.Model:
    """A model whose outputs are its integer weights as floats."""
    model = tiny.model_of("empty (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    for name, codes in weights.items():
        value = edit.new_initializer(model.graph, name, codes)
        node = ir.node("Cast", [value], {"to": 1}, name=f"{name}.cast")
        node.outputs[0].name = f"{name}.out"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape(codes.shape)
        model.graph.append(node)
        model.graph.outputs.append(node.outputs[0])
    return model


def store(model: ir.Model, axes: dict[str, int], pattern: NM) -> None:
    forms = {}
    for name, axis in axes.items():
        codes = tiny.weight(model, name)
        mask = mask_from_zeros(codes, pattern, axis=axis)
        units = {"n": pattern.n, "m": pattern.m, "unit": pattern.unit}
        form = packed.pack(codes, mask, axis=axis, **units)
        assert form is not None
        forms[model.graph.initializers[name]] = form
    packed.store(model.graph, forms, edit.Names(model))


SHAPES = [((16, 6), 0), ((6, 16), 1), ((16,), 0), ((8, 16, 3, 3), 1), ((3, 2, 16, 5), 2)]
SHAPES += [((16, 5), 0), ((48, 3), 0), ((1, 16, 1, 1), 1)]


@pytest.mark.parametrize("optimize", [False, True], ids=["as it is", "folded"])
@pytest.mark.parametrize(
    "pattern", [NM(), NM(1, 4), NM(1, 2), NM(4, 8), NM(2, 4, 2), NM(2, 16)], ids=str
)
def test_onnx_runtime_computes_what_was_packed(pattern: NM, optimize: bool) -> None:
    weights = {f"w{i}": sparse(shape, axis, pattern) for i, (shape, axis) in enumerate(SHAPES)}
    model = model_of(weights)
    store(model, {f"w{i}": axis for i, (_, axis) in enumerate(SHAPES)}, pattern)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    found = Session(model, threads=1, optimize=optimize)({"x": np.zeros((1, 4), np.float32)})
    for name, codes in weights.items():
        assert np.array_equal(found[f"{name}.out"], codes)
        (value,) = (v for v in packed.packed_values(model) if v.name == name)
        assert np.array_equal(packed.read(value).codes(), codes)


def test_the_value_stays_with_its_name_claims_and_readers() -> None:
    model = model_of({"w": sparse((16, 8), 0, NM())})
    value = model.graph.initializers["w"]
    value.metadata_props[claims.SPARSITY] = "2:4 axis=0"
    value.metadata_props["their.key"] = value.doc_string = "kept"
    store(model, {"w": 0}, NM())
    assert "w" not in model.graph.initializers
    assert list(packed.packed_values(model)) == [value]
    assert value.const_value is None
    assert value.metadata_props == {claims.SPARSITY: "2:4 axis=0", "their.key": "kept"}
    assert [node.name for node, _ in value.uses()] == ["w.cast"]
    again = ir.from_proto(ir.to_proto(model))
    (found,) = packed.packed_values(again)
    assert (found.name, found.metadata_props) == ("w", value.metadata_props)
    assert (str(found.shape), found.dtype) == ("[16,8]", ir.DataType.INT8)


def test_the_nodes_stand_before_all_others_and_say_who_made_them() -> None:
    model = model_of({"w": sparse((16, 8), 0, NM())})
    store(model, {"w": 0}, NM())
    assert tiny.operators(model) == ["ConstantOfShape", *CHAIN, "Relu", "Cast"]
    made = list(model.graph)[:6]
    assert all(node.metadata_props == {claims.PASS: "pack"} for node in made)
    assert list(model.graph.initializers)[:2] == ["w.kept", "w.positions"]


def test_what_is_alike_stands_there_once() -> None:
    weights = {"a": (16, 8), "b": (16, 8), "c": (16, 12)}
    model = model_of({name: sparse(shape, 0, NM()) for name, shape in weights.items()})
    store(model, dict.fromkeys(weights, 0), NM())
    operators = tiny.operators(model)
    assert operators.count("ConstantOfShape") == 2
    assert operators.count("ScatterElements") == 3
    own = [name for name in model.graph.initializers if name.startswith("pack.")]
    # Shifts and levels, and two shapes of each kind.
    assert len(own) == 6


def test_names_that_are_taken_are_not_taken_again() -> None:
    model = model_of({"w": sparse((16, 8), 0, NM()), "w.kept": np.ones(3, np.int8)})
    tiny.node(model, "Relu.y").name = "pack.0.0"
    store(model, {"w": 0}, NM())
    kept = [name for name in model.graph.initializers if name.startswith("w.kept")]
    assert kept == ["w.kept.2", "w.kept"]
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    assert np.array_equal(tiny.weight(model, "w.kept"), np.ones(3))


def test_a_file_says_types_and_shapes_of_constants_once() -> None:
    model = model_of({"w": sparse((16, 8), 0, NM())})
    store(model, {"w": 0}, NM())
    said: Any = {info.name for info in ir.to_proto(model).graph.value_info}
    assert said == {"w"}

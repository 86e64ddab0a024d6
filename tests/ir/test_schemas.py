"""Which inputs and outputs may be half precision, by the standard."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from gpusq_compiler.ir import schemas

HALF, BRAIN = ir.DataType.FLOAT16, ir.DataType.BFLOAT16


def node(op_type: str, inputs: int, outputs: int = 1, **attributes: object) -> ir.Node:
    values = [ir.Value(name=f"i{index}") for index in range(inputs)]
    return ir.node(
        op_type,
        values,
        attributes=attributes,  # type: ignore[arg-type]
        num_outputs=outputs,
    )


@pytest.mark.parametrize(
    ("op_type", "count", "opset", "kind", "free"),
    [
        ("MatMul", 2, 17, HALF, "11 1"),
        ("Conv", 3, 17, HALF, "111 1"),
        ("Conv", 3, 17, BRAIN, "000 0"),
        ("Conv", 3, 22, BRAIN, "111 1"),
        ("Concat", 4, 17, HALF, "1111 1"),
        ("Resize", 3, 17, HALF, "110 1"),
        ("Range", 3, 17, HALF, "000 0"),
        ("NonMaxSuppression", 2, 17, HALF, "00 0"),
        ("Greater", 2, 17, HALF, "11 0"),
        ("Where", 3, 17, HALF, "011 1"),
        ("QuantizeLinear", 3, 13, HALF, "000 0"),
        ("QuantizeLinear", 3, 19, HALF, "110 0"),
        ("DequantizeLinear", 3, 13, HALF, "000 0"),
        ("DequantizeLinear", 3, 19, HALF, "010 1"),
        ("DequantizeLinear", 3, 19, BRAIN, "010 1"),
        ("Identity", 1, 17, HALF, "1 1"),
        ("NoSuchOperator", 2, 17, HALF, "00 0"),
    ],
)
def test_slots(op_type: str, count: int, opset: int, kind: ir.DataType, free: str) -> None:
    found = schemas.slots(node(op_type, count), opset, kind)
    slots = [found.inputs, found.outputs]
    assert " ".join("".join(str(int(slot)) for slot in each) for each in slots) == free


def test_an_attribute_that_names_the_type_fixes_it() -> None:
    eye = node("EyeLike", 1, dtype=1)
    assert schemas.slots(eye, 17, HALF).outputs == (False,)
    assert schemas.slots(node("EyeLike", 1), 17, HALF).outputs == (True,)
    cast = node("Cast", 1, to=1)
    assert schemas.slots(cast, 17, HALF) == schemas.Slots(inputs=(True,), outputs=(True,))


def test_other_domains_and_bodies_have_no_free_slot() -> None:
    foreign = ir.node("MatMul", [ir.Value(name="a"), ir.Value(name="b")], domain="their.own")
    assert not any(schemas.slots(foreign, 17, HALF).inputs)
    body = ir.Graph([], [], nodes=[], name="body")
    branch = ir.node("If", [ir.Value(name="c")], attributes={"then_branch": body})
    assert schemas.slots(branch, 17, HALF) == schemas.Slots(inputs=(False,), outputs=(False,))

"""What the ONNX standard says of an operator: which types each input and output may have."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import onnx.defs
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMING_TYPES = ("dtype", "output_datatype", "output_dtype")
"""Attributes that fix the type of what a node computes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slots:
    """For each input and output of a node, whether it may have a certain type."""

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]


def slots(node: ir.Node, opset: int, dtype: ir.DataType) -> Slots:
    """Which inputs and outputs of a node may be of this type instead of float32.

    None of those of an operator that the standard does not know, of one that has bodies, and
    none of the outputs whose type an attribute names; those of Cast and ConstantOfShape,
    whose attribute can follow, are free.
    """
    schema = None if node.domain not in {"", "ai.onnx"} else _schema(node.op_type, opset)
    bodies = any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
    if schema is None or bodies:
        return Slots(inputs=(False,) * len(node.inputs), outputs=(False,) * len(node.outputs))
    text = f"tensor({dtype.name.lower()})"
    named = any(name in node.attributes for name in NAMING_TYPES)
    outputs = tuple(
        text in types and not named for types in _types(schema.outputs, len(node.outputs))
    )
    inputs = tuple(text in types for types in _types(schema.inputs, len(node.inputs)))
    return Slots(inputs=inputs, outputs=outputs)


@functools.cache
def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _types(
    formal: Sequence[onnx.defs.OpSchema.FormalParameter], count: int
) -> list[frozenset[str]]:
    """The types of each actual parameter; the last formal one may stand for many."""
    found = [frozenset(parameter.types) for parameter in formal]
    return [found[min(index, len(found) - 1)] for index in range(count if found else 0)]

"""Rules about QuantizeLinear and DequantizeLinear and the types of constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import query
from gpusq_compiler.trt.legality.constants import (
    NARROW,
    PAIR,
    code_type,
    initializers,
    is_fixed,
    is_per_channel,
    known,
    nodes_of,
    zero_point,
)
from gpusq_compiler.trt.legality.rules import Place, Version, at_node, at_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

UNREADABLE = frozenset(
    {
        ir.DataType.INT16,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
        ir.DataType.UINT4,
        ir.DataType.STRING,
        ir.DataType.COMPLEX64,
        ir.DataType.COMPLEX128,
    }
)


def asymmetric(model: ir.Model, version: Version) -> Iterator[Place]:
    """A zero point that is not 0."""
    del version
    for node in nodes_of(model, *PAIR):
        zeros = known(zero_point(node))
        if zeros is not None and np.any(zeros.astype(np.float32) != 0):
            values = zeros.astype(np.int64).reshape(-1)
            worst = int(values[np.argmax(np.abs(values))])
            yield at_node(node, f"the zero point is {worst}")


def computed_zero_point(model: ir.Model, version: Version) -> Iterator[Place]:
    """A zero point that depends on the model's inputs."""
    del version
    for node in nodes_of(model, *PAIR):
        zero = zero_point(node)
        if zero is not None and not is_fixed(zero):
            yield at_node(node, f"the zero point '{zero.name}' is computed from inputs")


def computed_scale(model: ir.Model, version: Version) -> Iterator[Place]:
    """A scale that depends on the model's inputs."""
    del version
    for node in nodes_of(model, *PAIR):
        scale = node.inputs[1]
        if scale is not None and not is_fixed(scale):
            yield at_node(node, f"the scale '{scale.name}' is computed from inputs")


def not_positive(model: ir.Model, version: Version) -> Iterator[Place]:
    """A scale, or one element of it, that is zero, negative or no number."""
    del version
    for node in nodes_of(model, *PAIR):
        scale = known(node.inputs[1])
        if scale is None:
            continue
        steps = scale.astype(np.float32).reshape(-1)
        bad = np.flatnonzero(~(steps > 0))
        if len(bad):
            more = f", as are {len(bad) - 1} more" if len(bad) > 1 else ""
            yield at_node(node, f"scale {bad[0]} of {len(steps)} is {steps[bad[0]]:g}{more}")


def unsigned_zero_point(model: ir.Model, version: Version) -> Iterator[Place]:
    """A QuantizeLinear to uint8 with zero point 0, also by leaving the zero point out."""
    del version
    for node in nodes_of(model, "QuantizeLinear"):
        zeros = known(zero_point(node))
        if code_type(node) == ir.DataType.UINT8 and (zeros is None or not np.any(zeros)):
            said = "is left out, which means uint8" if zeros is None else "is uint8"
            yield at_node(node, f"the zero point {said}")


def code_kind(model: ir.Model, version: Version) -> Iterator[Place]:
    """Codes of a type that DequantizeLinear does not take; uint8 only from QuantizeLinear."""
    del version
    for node in nodes_of(model, "DequantizeLinear"):
        kind = code_type(node)
        if kind in {None, ir.DataType.INT8} | NARROW | UNREADABLE:
            continue
        if kind == ir.DataType.UINT8 and _comes_from_quantizer(node.inputs[0]):
            continue
        assert kind is not None
        yield at_node(node, f"it reads {kind.name.lower()}")


def _comes_from_quantizer(value: ir.Value | None) -> bool:
    while value is not None and value.producer() is not None:
        producer = value.producer()
        assert producer is not None
        if producer.op_type == "QuantizeLinear":
            return True
        value = producer.inputs[0] if producer.inputs else None
    return False


def stray_codes(model: ir.Model, version: Version) -> Iterator[Place]:
    """An int8 constant that somebody else than DequantizeLinear reads."""
    del version
    for value in initializers(model):
        if value.dtype not in {ir.DataType.INT8} | NARROW:
            continue
        for node, index in value.uses():
            if not (node.op_type in PAIR and index in {0, 2}):
                reads = f"is {value.dtype.name.lower()} and read by {node.op_type}"
                yield at_tensor(value, f"{reads} '{node.name or node.outputs[0].name}'")
                break


def unreadable(model: ir.Model, version: Version) -> Iterator[Place]:
    """A constant or an input of a type that TensorRT does not have."""
    del version
    for value in (*model.graph.inputs, *initializers(model)):
        if value.dtype in UNREADABLE:
            yield at_tensor(value, f"is {value.dtype.name.lower()}")


def per_channel_activation(model: ir.Model, version: Version) -> Iterator[Place]:
    """Several scales for what is computed."""
    del version
    for node in nodes_of(model, *PAIR):
        data = node.inputs[0]
        if data is None or not is_per_channel(node) or is_fixed(data):
            continue
        if query.is_op(data.producer(), "QuantizeLinear"):
            continue  # said of that one
        scale = node.inputs[1]
        assert scale is not None
        count = "several" if scale.const_value is None else str(scale.const_value.size)
        yield at_node(node, f"the activation '{data.name}' has {count} scales")

"""Rules about weighted layers: which of them run in INT8, and which on sparse kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.ir import query
from gpusq_compiler.quant.placement.scene import Scene
from gpusq_compiler.quant.placement.topology import commutes, end_of, origin, readers_of
from gpusq_compiler.sparsity import nm
from gpusq_compiler.trt.legality.constants import is_blocked, is_per_channel
from gpusq_compiler.trt.legality.rules import Place, Version, at_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.runtime.samples import Array

EIGHT_BITS = frozenset({ir.DataType.INT8, ir.DataType.UINT8})
STAYS_FLOAT = "An output of the model; leave it, unless its reader takes int8"


def refused_blocks(model: ir.Model, version: Version) -> Iterator[Place]:
    """Blocks of an int8 weight that is transposed, or multiplied with more than a matrix.

    Only where the activation is quantized. The builder of TensorRT for RTX 1.7.1 fails there;
    it builds the product of two matrices as they stand.
    """
    del version
    for use in _blocked(model):
        if _fails(use):
            yield at_node(use.node, f"the scales of '{use.value.name}' stand for blocks")


def confused_blocks(model: ir.Model, version: Version) -> Iterator[Place]:
    """Blocks of an int8 weight as it stands, multiplied with a quantized matrix.

    The layer list of TensorRT for RTX 1.7.1 shows an INT8 product over the whole sum whose
    result is multiplied with all scales of all blocks; that cannot be the same. It was read,
    not run.
    """
    del version
    for use in _blocked(model):
        if is_dequantized(use) and not _fails(use):
            yield at_node(use.node, f"the scales of '{use.value.name}' stand for blocks")


def slow_blocks(model: ir.Model, version: Version) -> Iterator[Place]:
    """Blocks of an int8 weight beside a float activation: the product runs in float."""
    del version
    for use in _blocked(model):
        if not is_dequantized(use):
            yield at_node(use.node, f"the scales of '{use.value.name}' stand for blocks")


def _blocked(model: ir.Model) -> Iterator[query.WeightUse]:
    for use in query.weight_uses(model):
        last = _dequantizer(use)
        if last is not None and is_blocked(last) and _codes(last) in EIGHT_BITS:
            yield use


def _fails(use: query.WeightUse) -> bool:
    value = use.activation
    rank = None if value is None or value.shape is None else len(value.shape)
    transposed = use.relaid or query.int_attribute(use.node, "transB", 0)
    return is_dequantized(use) and (bool(transposed) or rank != 2)


def reduced_scale(model: ir.Model, version: Version) -> Iterator[Place]:
    """Scales along the axis that the product sums over."""
    del version
    for use in query.weight_uses(model):
        axis = _scale_axis(use)
        if axis is not None and axis == use.reduction % len(use.shape):
            yield at_node(
                use.node,
                f"the scales of '{use.value.name}' stand along summed axis {axis}",
            )


def _scale_axis(use: query.WeightUse) -> int | None:
    """The axis of the operand that the scales stand along."""
    last = _dequantizer(use)
    if last is None or not is_per_channel(last):
        return None
    assert use.value.const_value is not None
    rank = len(use.value.const_value.shape)
    axis = query.int_attribute(last, "axis", 1) % rank
    for node in use.path[use.path.index(last) + 1 :]:
        if query.is_op(node, "Transpose"):
            axis = _order(node, rank).index(axis)
        elif not query.is_op(node, "Cast", "Identity"):
            return None
    return axis


def _order(transpose: ir.Node, rank: int) -> tuple[int, ...]:
    given = transpose.attributes.get("perm")
    return tuple(range(rank))[::-1] if given is None else tuple(given.as_ints())


def half_quantized(model: ir.Model, version: Version) -> Iterator[Place]:
    """Only one of weight and activation is quantized."""
    del version
    for use in query.weight_uses(model):
        last = _dequantizer(use)
        weight = last is not None and _codes(last) in EIGHT_BITS
        if last is not None and (not weight or is_blocked(last)):
            continue  # narrower weights and blocks are meant for products in float
        if weight != is_dequantized(use):
            odd = "activation" if weight else "weight"
            yield at_node(use.node, f"its {odd} is float, the other factor is quantized")


def wrong_axis(model: ir.Model, version: Version) -> Iterator[Place]:
    """2:4 along an axis that the product does not sum over."""
    del version
    for use in query.weight_uses(model):
        weight = as_read(use)
        if weight is None or nm.has_pattern(weight, axis=use.reduction):
            continue
        others = [
            axis
            for axis in range(weight.ndim)
            if axis != use.reduction % weight.ndim and nm.has_pattern(weight, axis=axis)
        ]
        if others:
            yield at_node(
                use.node,
                f"'{use.value.name}' is 2:4 along axis {others[0]}, but axis "
                f"{use.reduction} is summed over",
            )


def float_output(model: ir.Model, version: Version) -> Iterator[Place]:
    """A sparse layer with quantized inputs whose output stays float."""
    del version
    uses = tuple(query.weight_uses(model))
    scene = Scene(graph=model.graph, layers=uses)
    for use in uses:
        if not (use.quantized and is_dequantized(use)):
            continue
        weight = as_read(use)
        if weight is None or not nm.has_pattern(weight, axis=use.reduction):
            continue
        end = layer_end(scene, use.node)
        if not is_quantized(end):
            what = f"'{use.value.name}' is 2:4, output '{end.name}' float"
            yield at_node(use.node, what, STAYS_FLOAT if _leaves(end) else "")


def layer_end(scene: Scene, node: ir.Node) -> ir.Value:
    """The end of the layer's epilogue, behind the residual Add that runs inside it."""
    end = scene.ends.get(node, node.outputs[0])
    join = next((j for j in scene.joins.values() if j.main is end), None)
    return end if join is None else end_of(join.add.outputs[0])


def _leaves(value: ir.Value) -> bool:
    """Whether a value is an output of the model, behind a Cast at most."""
    casts = [node for node, _ in value.uses() if query.is_op(node, "Cast")]
    return value.is_graph_output() or any(c.outputs[0].is_graph_output() for c in casts)


def is_quantized(value: ir.Value) -> bool:
    """Whether everybody reads it through QuantizeLinear, behind moves at most."""
    readers = readers_of(value)
    if value.is_graph_output() or not readers:
        return False
    return all(
        node.op_type == "QuantizeLinear"
        or (commutes(node) and all(is_quantized(moved) for moved in node.outputs))
        for node, _ in readers
    )


def is_dequantized(use: query.WeightUse) -> bool:
    """Whether the activation comes out of a DequantizeLinear, behind one Cast at most."""
    if use.activation is None:
        return False
    producer = origin(use.node, 1 - use.operand)[0].producer()
    if producer is not None and query.is_op(producer, "Cast"):
        producer = origin(producer, 0)[0].producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _dequantizer(use: query.WeightUse) -> ir.Node | None:
    return next((n for n in use.path if query.is_op(n, "DequantizeLinear")), None)


def _codes(dequantizer: ir.Node) -> ir.DataType | None:
    codes = dequantizer.inputs[0]
    return None if codes is None else codes.dtype


def as_read(use: query.WeightUse) -> Array | None:
    """The stored weight, laid out as the node reads it; None where that is not known."""
    assert use.value.const_value is not None
    weight = use.value.const_value.numpy()
    for node in use.path:
        if query.is_op(node, "Transpose"):
            weight = weight.transpose(_order(node, weight.ndim))
        elif query.is_op(node, *query.LAYOUT) and not query.is_op(node, "Cast", "Identity"):
            shape = node.outputs[0].shape
            if shape is None or not shape.is_static():
                return None
            weight = weight.reshape(shape.numpy())
    return weight

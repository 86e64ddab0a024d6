"""A bias as int32 codes, in units of the sums of its layer: the only one that kernels take.

    bias ─▶ Conv          codes ─▶ DQ(scale of the input * scales of the weight) ─▶ Conv

A channel whose weights are tiny beside its bias has units so small that int32 cannot count the
bias in them. Its weights get a larger scale, and codes closer to 0; they had no say before.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import edit, query
from gpusq_compiler.quant.arithmetic import along

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

BIAS = 2
LARGEST = 2**30
"""The other half of the range of int32 is left to the sums."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factor:
    """What a layer reads through a DequantizeLinear.

    Attributes:
        node: The DequantizeLinear.
        scale: Its scale.
        steps: The values of the scale.
    """

    node: ir.Node
    scale: ir.Value
    steps: Array


def write(layer: ir.Node, names: edit.Names, author: str) -> bool:
    """Let a layer read its bias as codes, and say whether it does.

    Args:
        layer: A Conv or Gemm.
        names: Of the model.
        author: The pass that does it.
    """
    bias = layer.inputs[BIAS] if len(layer.inputs) > BIAS else None
    tensor = None if bias is None else bias.const_value
    factors = [_factor(layer, index) for index in (0, 1)]
    x, weight = factors
    if bias is None or tensor is None or x is None or weight is None or not _is_plain(layer):
        return False
    if tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 1:
        return False
    values = tensor.numpy().astype(np.float64)
    if x.steps.size > 1 or weight.steps.size not in {1, values.size}:
        return False
    steps = _countable(values, x, weight)
    if steps is None:
        return False
    codes = np.rint(values / steps).astype(np.int32)
    _read(layer, _dequantized(layer, bias, codes, steps, names, author))
    if isinstance(bias.graph, ir.Graph):
        edit.drop_unused(bias.graph, [bias])
    return True


def _factor(layer: ir.Node, index: int) -> Factor | None:
    value = layer.inputs[index]
    node = None if value is None else value.producer()
    if node is None or not query.is_op(node, "DequantizeLinear"):
        return None
    scale = node.inputs[1]
    if scale is None or scale.const_value is None:
        return None
    return Factor(node=node, scale=scale, steps=scale.const_value.numpy())


def _is_plain(layer: ir.Node) -> bool:
    """Whether nothing is multiplied with product or bias."""
    factors = (layer.attributes.get(name) for name in ("alpha", "beta"))
    return all(factor is None or factor.as_float() == 1 for factor in factors)


def _countable(bias: Array, x: Factor, weight: Factor) -> Array | None:
    """What one unit of the sums stands for, once all of a bias can be counted in it."""
    steps: Array = x.steps * weight.steps
    tiny = np.abs(bias) > LARGEST * steps.astype(np.float64)
    if np.any(tiny):
        codes = _own_codes(weight)
        if codes is None or steps.size == 1:
            return None
        least = np.abs(bias) / (LARGEST * x.steps.astype(np.float64))
        _widen(weight, codes, np.where(tiny, least, weight.steps).astype(np.float32))
        assert weight.scale.const_value is not None
        steps = x.steps * weight.scale.const_value.numpy()
    return steps


def _own_codes(weight: Factor) -> ir.Value | None:
    """The codes of a weight, if nobody else reads them or their scale."""
    codes = weight.node.inputs[0]
    if codes is None or codes.const_value is None:
        return None
    shared = any(len(v.uses()) > 1 or v.is_graph_output() for v in (codes, weight.scale))
    return None if shared else codes


def _widen(weight: Factor, codes: ir.Value, steps: Array) -> None:
    """Give a weight larger scales."""
    assert codes.const_value is not None
    old = codes.const_value.numpy()
    axis = query.int_attribute(weight.node, "axis", 1) % old.ndim
    fresh = np.rint(old * along(weight.steps / steps, old.ndim, axis))
    edit.replace_weight(codes, fresh.astype(old.dtype))
    edit.replace_weight(weight.scale, steps)


def _dequantized(
    layer: ir.Node,
    bias: ir.Value,
    codes: Array,
    steps: Array,
    names: edit.Names,
    author: str,
) -> ir.Node:
    graph, stem = layer.graph, f"{layer.name}.bias"
    assert isinstance(graph, ir.Graph)
    stored = edit.new_initializer(graph, names.fresh(f"{stem}.codes"), codes)
    scale = edit.new_initializer(graph, names.fresh(f"{stem}.scale"), steps)
    return edit.new_node(
        "DequantizeLinear",
        [stored, scale],
        name=names.fresh(f"{stem}.DequantizeLinear"),
        author=author,
        output=names.fresh(f"{stem}.dequantized"),
        like=bias,
        attributes={"axis": 0} if steps.ndim else {},
    )


def _read(layer: ir.Node, dequantize: ir.Node) -> None:
    assert isinstance(layer.graph, ir.Graph)
    layer.graph.insert_before(layer, dequantize)
    layer.replace_input_with(BIAS, dequantize.outputs[0])

"""The form in which ONNX Runtime finds its integer kernels: the same grids, other types.

    int8 codes, zero point 0      uint8 codes, zero point 128
    float bias                    int32 codes, scale of the input times those of the weight
    an image of 3 channels        4, the last of zeros
    shapes with free sizes        not stated

A convolution and a Gemm run in INT8 only with a bias in the units of their sums, to which it is
rounded: half of the least that a sum can differ by. The rest changes no number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import claims, edit, query
from gpusq_compiler.passes import integer_bias
from gpusq_compiler.quant.placement.chains import integer_end
from gpusq_compiler.quant.placement.topology import cuts_at_zero
from gpusq_compiler.quant.scheme import MIDDLE

if TYPE_CHECKING:
    from collections.abc import Iterator

AUTHOR = "freeze"
PIXELS = 64 * 64
LANES = 4
"""Kernels take channels four by four; with three they copy every pixel on its own."""


def write(model: ir.Model) -> dict[str, int]:
    """Bring a frozen model into the form, in place, and count what that changed."""
    names = edit.Names(model)
    for node in ours(model, "QuantizeLinear"):
        _quantize_before_clip(node, names)
    layers = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if _fuses(node)]
    counts = {
        "activations": sum(_unsigned(node) for node in ours(model, "QuantizeLinear")),
        "biases": sum(integer_bias.write(node, names, AUTHOR) for node in layers),
        "padded": sum(_padded(node, names) for node in layers),
    }
    _forget_free_sizes(model)
    return counts


def _fuses(node: ir.Node) -> bool:
    """Whether a layer with a bias runs in INT8: a Gemm always, a Conv that writes codes."""
    if query.is_op(node, "Conv"):
        readers = integer_end(node.outputs[0]).uses()
        return bool(readers) and all(query.is_op(n, "QuantizeLinear") for n, _ in readers)
    return query.is_op(node, "Gemm")


def ours(model: ir.Model, op_type: str) -> Iterator[ir.Node]:
    """Quantizers of one operator that passes of ours made."""
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if query.is_op(node, op_type) and claims.PASS in node.metadata_props:
            yield node


def _quantize_before_clip(quantizer: ir.Node, names: edit.Names) -> None:
    """Let a convolution write codes where the Clip behind it cuts more than saturation does.

    conv ─▶ Clip ─▶ Q(s) ─▶        conv ─▶ Q(s) ─▶ DQ(s) ─▶ Clip ─▶ Q(s) ─▶

    A trained scale may reach beyond the upper end. Quantized twice on one grid, with a cut
    between, every number is what it was: what is rounded up over the end was rounded so before.
    """
    value = quantizer.inputs[0]
    clip = None if value is None else value.producer()
    convolved = clip.inputs[0] if clip is not None and query.is_op(clip, "Clip") else None
    if convolved is None or clip is None or not _cuts_more(clip, quantizer):
        return
    graph = clip.graph
    if not query.is_op(convolved.producer(), "Conv") or not _alone(convolved):
        return
    assert graph is not None
    pair: list[ir.Node] = []
    for op_type, kind in (("Quantize", ir.DataType.UINT8), ("Dequantize", ir.DataType.FLOAT)):
        pair.append(
            edit.new_node(
                f"{op_type}Linear",
                [pair[-1].outputs[0] if pair else convolved, *quantizer.inputs[1:]],
                name=names.fresh(f"{convolved.name}.{op_type}Linear"),
                author=AUTHOR,
                output=names.fresh(f"{convolved.name}.{op_type.lower()}d"),
                like=convolved,
                dtype=kind,
            )
        )
    graph.insert_before(clip, pair)
    clip.replace_input_with(0, pair[-1].outputs[0])


def _cuts_more(clip: ir.Node, quantizer: ir.Node) -> bool:
    """Whether a Clip from 0 ends below the largest code."""
    bounds = [None if v is None else v.const_value for v in clip.inputs[1:]]
    parameters = [None if v is None else v.const_value for v in quantizer.inputs[1:]]
    if len(bounds) < 2 or None in (bounds[1], *parameters) or not cuts_at_zero(clip):
        return False
    (_, high), (scale, zero) = bounds, parameters
    assert high is not None
    assert scale is not None
    assert zero is not None
    if zero.dtype != ir.DataType.UINT8 or zero.numpy().any() or high.dtype != scale.dtype:
        return False
    return bool(scale.numpy() * np.float32(255) > high.numpy())


def _unsigned(quantizer: ir.Node) -> bool:
    """Count the codes of an activation from 128 on instead of from 0."""
    zero, codes = quantizer.inputs[2], quantizer.outputs[0]
    if zero is None or zero.const_value is None or codes.dtype != ir.DataType.INT8:
        return False
    if zero.dtype == ir.DataType.INT8:  # else a quantizer that shares it was here before
        if not all(_is_of_activation(node) for node, _ in zero.uses()):
            return False
        edit.retype(zero, ir.DataType.UINT8)
        edit.replace_weight(zero, np.array(MIDDLE, np.uint8))
    codes.type = ir.TensorType(ir.DataType.UINT8)
    return True


def _is_of_activation(node: ir.Node) -> bool:
    """Whether a quantizer of ours belongs to the pair of an activation."""
    above = node.inputs[0]
    producer = None if above is None else above.producer()
    return claims.PASS in node.metadata_props and (
        query.is_op(node, "QuantizeLinear") or query.is_op(producer, "QuantizeLinear")
    )


def _padded(node: ir.Node, names: edit.Names) -> bool:
    """Give a strided convolution of an image of three channels a fourth, of zeros.

    x ─▶ Pad ─▶ Q ─▶ DQ ─▶ Conv ◀─ codes with a channel more
    """
    pair = _own_pair(node)
    codes = None if pair is None else _own_codes(node)
    if pair is None or codes is None or codes.const_value is None:
        return False
    quantize, dequantize = pair
    weight, x, graph = codes.const_value.numpy(), quantize.inputs[0], node.graph
    assert x is not None
    assert isinstance(graph, ir.Graph)
    if weight.shape[1] % LANES != LANES - 1 or not _is_strided(node, weight.shape[2:]):
        return False
    if not _is_large(x):
        return False
    zeros = np.zeros((weight.shape[0], 1, *weight.shape[2:]), weight.dtype)
    edit.replace_weight(codes, np.concatenate([weight, zeros], axis=1))
    ends = np.zeros(2 * weight.ndim, np.int64)
    ends[weight.ndim + 1] = 1
    pads = edit.new_initializer(graph, names.fresh(f"{node.name}.pads"), ends)
    pad = edit.new_node(
        "Pad",
        [x, pads],
        name=names.fresh(f"{node.name}.Pad"),
        author=AUTHOR,
        output=names.fresh(f"{x.name}.padded"),
        like=x,
    )
    graph.insert_before(quantize, pad)
    quantize.replace_input_with(0, pad.outputs[0])
    ((widened, _),) = codes.uses()
    for changed in (pad, quantize, dequantize, widened):
        changed.outputs[0].shape = None
    return True


def _is_strided(node: ir.Node, kernel: tuple[int, ...]) -> bool:
    """Whether a convolution makes an image smaller, and reads pixels more than once."""
    strides = node.attributes.get("strides")
    steps = (1,) if strides is None else strides.as_ints()
    return max(steps) > 1 and tuple(steps) != kernel


def _is_large(image: ir.Value) -> bool:
    """Whether an image is known to have so many pixels that copying them takes time."""
    sizes = [] if image.shape is None else [n for n in image.shape[2:] if isinstance(n, int)]
    return math.prod(sizes) >= PIXELS


def _own_pair(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The quantizers of a convolution's input, if nobody else reads them."""
    value = node.inputs[0] if node.op_type == "Conv" else None
    dequantize = None if value is None else value.producer()
    if not query.is_op(dequantize, "DequantizeLinear") or not _alone(value):
        return None
    assert dequantize is not None
    codes = dequantize.inputs[0]
    quantize = None if codes is None else codes.producer()
    if not query.is_op(quantize, "QuantizeLinear") or not _alone(codes):
        return None
    assert quantize is not None
    x = quantize.inputs[0]
    return None if x is None or x.dtype != ir.DataType.FLOAT else (quantize, dequantize)


def _own_codes(node: ir.Node) -> ir.Value | None:
    """The codes of a dense convolution's weight, if nobody else reads them."""
    value = node.inputs[1]
    producer = None if value is None else value.producer()
    if not query.is_op(producer, "DequantizeLinear") or query.int_attribute(node, "group", 1) > 1:
        return None
    assert producer is not None
    codes = producer.inputs[0]
    if not _alone(value) or not _alone(codes) or codes is None or codes.const_value is None:
        return None
    return None if claims.sparsity_of(codes) else codes


def _alone(value: ir.Value | None) -> bool:
    """Whether one node reads a value and nothing else does."""
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()


def _forget_free_sizes(model: ir.Model) -> None:
    """Shapes that the runtime plans memory by, and worse than it does without."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if value.shape is not None and not value.is_graph_output():
                if not all(isinstance(size, int) for size in value.shape):
                    value.shape = None

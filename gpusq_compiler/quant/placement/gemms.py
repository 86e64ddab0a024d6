"""Both inputs of every weighted layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.ir import query
from gpusq_compiler.quant.placement.sites import Refusal, Site
from gpusq_compiler.quant.placement.topology import is_computed
from gpusq_compiler.quant.scheme import QuantScheme

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.quant.placement.draft import Draft
    from gpusq_compiler.quant.placement.scene import Scene
    from gpusq_compiler.quant.placement.sites import Reader

RULE = "gemm-inputs"


def gemm_inputs(scene: Scene, draft: Draft) -> Iterator[Site | Refusal]:
    """Weight and activation of Conv, ConvTranspose, Gemm and MatMul; the bias stays float.

    x ─▶ Q ─▶ DQ ─▶ MatMul          one scale
    W ─▶ Q ─▶ DQ ─▶ MatMul          one scale per output channel
    """
    del draft
    schemes: dict[object, QuantScheme] = {}
    for use in scene.layers:
        reader = weight_reader(use)
        if reader is None:
            continue
        scheme = weight_scheme(use, scene.weights)
        if schemes.setdefault(use.value, scheme) != scheme:
            reason = (
                f"other layers read it as {schemes[use.value]}; {use.node.name} has its own"
            )
            yield Refusal(rule="two-axes", where=use.value.name or "", reason=reason)
        yield Site(value=use.value, scheme=scheme, readers=(reader,), rule=RULE, weight=True)
        yield from _activation(scene, use)


def _activation(scene: Scene, use: query.WeightUse) -> Iterator[Site | Refusal]:
    value = use.activation
    if value is None:
        return
    reader: Reader = (use.node, 1 - use.operand)
    if query.is_op(value.producer(), "DequantizeLinear"):
        reason = f"the input '{value.name}' has a quantizer already"
        yield Refusal(rule="already-quantized", where=use.node.name or "", reason=reason)
    elif is_computed(value):
        yield Site(value=value, scheme=scene.scheme_of(value), readers=(reader,), rule=RULE)
    else:
        scheme = QuantScheme(dtype=scene.weights, narrow=True)
        yield Site(value=value, scheme=scheme, readers=(reader,), rule=RULE, weight=True)


def weight_scheme(use: query.WeightUse, dtype: str) -> QuantScheme:
    """One scale per output channel.

    A grouped ConvTranspose ``[in, out / groups, ...]`` gets one scale: an output channel
    there is a group and a channel, which no single axis of the weight holds. So does a
    batch of matrices ``[batch, in, out]``: no integer kernel takes a scale per channel there.
    """
    grouped = use.node.op_type == "ConvTranspose" and use.groups > 1
    batched = use.node.op_type == "MatMul" and len(use.shape) > 2
    axis = None if grouped or batched else use.channel
    return QuantScheme(dtype=dtype, axis=axis, narrow=True)


def weight_reader(use: query.WeightUse) -> Reader | None:
    """Who reads the stored weight on the way to the layer; None behind foreign quantizers."""
    reader: Reader = (use.node, use.operand)
    value = use.node.inputs[use.operand]
    while value is not None and value is not use.value:
        producer = value.producer()
        if producer is None or query.is_op(producer, "QuantizeLinear", "DequantizeLinear"):
            return None
        reader, value = (producer, 0), producer.inputs[0]
    return reader

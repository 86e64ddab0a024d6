"""The layers of a model as they are: zeros, pattern, quantizers, the type they run in."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.ir import claims, query
from gpusq_compiler.quant.placement.scene import Scene
from gpusq_compiler.quant.placement.topology import origin
from gpusq_compiler.quant.scheme import MIDDLE
from gpusq_compiler.sparsity import nm
from gpusq_compiler.trt.engines.prediction import predict
from gpusq_compiler.trt.legality.constants import (
    code_type,
    is_blocked,
    is_per_channel,
    known,
    prepared,
    zero_point,
)
from gpusq_compiler.trt.legality.layers import as_read, is_quantized, layer_end
from gpusq_compiler.trt.legality.taken import as_taken

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.trt.engines.prediction import Layer as Predicted
    from gpusq_compiler.trt.legality.rules import Version

FLATTENED = "flattened"
"""Not an axis but all axes behind the first, in one: a pattern that no kernel reads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantizer:
    """What stands between a tensor and the layer that reads it.

    Attributes:
        dtype: Of the codes; empty where the model does not tell.
        scales: ``tensor``, ``channel`` or ``block``: what one scale is for.
        axis: Along which scales stand; None for one scale.
        symmetric: Whether all zero points are 0, or the middle of uint8, which is 128; None
            where they are computed.
        stored: Whether codes are stored, not floats that are quantized each time.
    """

    dtype: str
    scales: str
    axis: int | None
    symmetric: bool | None
    stored: bool

    def __str__(self) -> str:
        doubt = {True: "", False: " asymmetric", None: " computed"}[self.symmetric]
        grain = "" if self.scales == "tensor" else f" per {self.scales}"
        return f"{self.dtype or '?'}{grain}{doubt}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedLayer:
    """One product with a constant weight.

    Attributes:
        name: The node.
        operator: Its operator.
        weight: The initializer.
        dtype: As it is stored.
        shape: As the node reads it.
        axis: Which of its axes the product sums over.
        zeros: Share of zeros.
        sparse: Whether it is 2:4 along that axis.
        elsewhere: Other axes along which it is 2:4, where it is not along that one.
        claim: The pattern that it claims; empty where it claims none.
        weight_quantizer: On its weight.
        input_quantizer: On what it is multiplied with.
        output_quantized: Whether everybody reads its result, bias and activation included,
            through a quantizer.
        runs_in: Type in which TensorRT would multiply, as predicted.
        sparse_kernel: Whether a sparse kernel may be chosen, as predicted.
        drawback: What keeps sparse kernels off it, or makes them unlikely, as predicted.
    """

    name: str
    operator: str
    weight: str
    dtype: str
    shape: tuple[int, ...]
    axis: int
    zeros: float
    sparse: bool
    elsewhere: tuple[int | str, ...]
    claim: str
    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | None
    output_quantized: bool
    runs_in: str
    sparse_kernel: bool
    drawback: str

    @property
    def pattern(self) -> str:
        """Where it is 2:4, in words."""
        if self.sparse:
            return f"axis {self.axis}"
        return f"not {self.axis}, {self.elsewhere[0]}" if self.elsewhere else "no"


def weighted_layers(model: ir.Model, version: Version) -> tuple[WeightedLayer, ...]:
    """Every product with a constant weight, in graph order, functions inlined.

    Args:
        model: By whatever tool; left as it is.
        version: Of TensorRT, whose rules hold.
    """
    clone = prepared(model)
    uses = tuple(query.weight_uses(clone))
    scene = Scene(graph=clone.graph, layers=uses)
    foreseen = predict(as_taken(model), version)
    return tuple(_layer(use, scene, one) for use, one in zip(uses, foreseen, strict=True))


def _layer(use: query.WeightUse, scene: Scene, foreseen: Predicted) -> WeightedLayer:
    tensor, weight = use.value.const_value, as_read(use)
    assert tensor is not None
    values = tensor.numpy() if weight is None else weight
    sparse = weight is not None and nm.has_pattern(weight, axis=use.reduction)
    return WeightedLayer(
        name=foreseen.name,
        operator=use.node.op_type,
        weight=use.value.name or "",
        dtype=tensor.dtype.name.lower(),
        shape=use.shape,
        axis=use.reduction,
        zeros=1 - int(np.count_nonzero(values)) / values.size if values.size else 0.0,
        sparse=sparse,
        elsewhere=() if sparse or weight is None else tuple(_patterns(weight, use.reduction)),
        claim=use.value.metadata_props.get(claims.SPARSITY, ""),
        weight_quantizer=_on_weight(use),
        input_quantizer=_on_input(use),
        output_quantized=is_quantized(layer_end(scene, use.node)),
        runs_in=foreseen.reads,
        sparse_kernel=foreseen.chosen is not False,
        drawback=foreseen.reason,
    )


def _patterns(weight: Array, reduction: int) -> Iterator[int | str]:
    """Where else a weight is 2:4."""
    for axis in range(weight.ndim):
        if axis != reduction and nm.has_pattern(weight, axis=axis):
            yield axis
    if weight.ndim > 2:
        flat = weight.reshape(weight.shape[0], -1)
        if flat.size and nm.has_pattern(flat, axis=1):
            yield FLATTENED


def _on_weight(use: query.WeightUse) -> Quantizer | None:
    last = next((n for n in use.path if query.is_op(n, "DequantizeLinear")), None)
    return None if last is None else _quantizer(last)


def _on_input(use: query.WeightUse) -> Quantizer | None:
    if use.activation is None:
        return None
    producer = origin(use.node, 1 - use.operand)[0].producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    return _quantizer(producer)


def _quantizer(dequantizer: ir.Node) -> Quantizer:
    kind, codes = code_type(dequantizer), dequantizer.inputs[0]
    several = is_blocked(dequantizer) or is_per_channel(dequantizer)
    grain = "block" if is_blocked(dequantizer) else "channel" if several else "tensor"
    return Quantizer(
        dtype="" if kind is None else kind.name.lower(),
        scales=grain,
        axis=query.int_attribute(dequantizer, "axis", 1) if several else None,
        symmetric=_is_symmetric(dequantizer),
        stored=codes is not None and codes.const_value is not None,
    )


def _is_symmetric(dequantizer: ir.Node) -> bool | None:
    zero = zero_point(dequantizer)
    if zero is None:
        return True
    values = known(zero)
    if values is None:
        return None
    middle = MIDDLE if values.dtype == np.uint8 and np.any(values) else 0
    return bool(np.all(values.astype(np.float32) == middle))

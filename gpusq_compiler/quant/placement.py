"""Where quantizers go: small named rules that answer sites and reasons.

``gemm-inputs``: both inputs of every weighted Conv, ConvTranspose, Gemm and MatMul. Nothing
else is quantized, so that a bias, a norm or the residual stream stays float.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.quant.scheme import QuantScheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from gpusq_compiler.ir import query

PLACEMENTS = ("gemm-inputs",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """One tensor that gets a Q/DQ pair, and who reads the result.

    Attributes:
        value: A weight's initializer or an activation.
        scheme: The quantizer.
        readers: (node, input index) pairs that read the quantized tensor.
        weight: Whether the tensor is a constant weight.
    """

    value: ir.Value
    scheme: QuantScheme
    readers: tuple[tuple[ir.Node, int], ...]
    weight: bool


def gemm_inputs(uses: Sequence[query.WeightUse], weights: str, activations: str) -> list[Site]:
    """Sites on the weight and the activation of every use; one per tensor, in graph order.

    Args:
        uses: Layers to quantize.
        weights: Integer type of weights, per output channel.
        activations: Integer type of activations, per tensor.
    """
    sites: dict[tuple[ir.Value, str], Site] = {}
    for use in uses:
        scheme = QuantScheme(dtype=weights, axis=use.channel, narrow=True)
        _add(sites, use.value, scheme, (use.node, use.operand), weight=True)
        if use.activation is not None:
            reader = (use.node, 1 - use.operand)
            scheme = QuantScheme(dtype=activations)
            _add(sites, use.activation, scheme, reader, weight=False)
    return list(sites.values())


def _add(
    sites: dict[tuple[ir.Value, str], Site],
    value: ir.Value,
    scheme: QuantScheme,
    reader: tuple[ir.Node, int],
    *,
    weight: bool,
) -> None:
    key = (value, str(scheme))
    known = sites[key].readers if key in sites else ()
    sites[key] = Site(value=value, scheme=scheme, readers=(*known, reader), weight=weight)

"""What weights will take in the file, told from the passes before any of them runs."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from typing import TYPE_CHECKING

from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.passes.quantize import ineligible as stays_float
from gpusq_compiler.passes.selection import Selection
from gpusq_compiler.quant.placement.gemms import weight_scheme
from gpusq_compiler.quant.scheme import TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx_ir as ir

    from gpusq_compiler.ir import query
    from gpusq_compiler.passes.base import Pass
    from gpusq_compiler.quant.scheme import QuantScheme

FLOAT, CODE = 4, 1
"""Bytes of a scale and of a zero point, and of a weight that stays float behind its pair."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """What one layer's weight becomes.

    Attributes:
        value: The initializer that it is now.
        axis: Along which it is pruned; None where it is not.
        scheme: Its quantizer; None where it stays float.
        bytes: With scales and zero points.
    """

    value: ir.Value
    axis: int | None
    scheme: QuantScheme | None
    bytes: int

    @property
    def changed(self) -> bool:
        """Whether it will be another tensor than it is."""
        return self.axis is not None or self.scheme is not None


def forms_of(
    model: ir.Model,
    uses: Sequence[query.WeightUse],
    passes: Sequence[Pass],
    pruned: Iterable[query.WeightUse],
) -> list[Form]:
    """The form of every layer's weight after the passes.

    Args:
        model: In canonical form.
        uses: All its layers.
        passes: That would run; what others than ours do to weights is not known.
        pruned: The layers that get a pattern.
    """
    quantize = next((step for step in passes if isinstance(step, Quantize)), None)
    frozen = any(isinstance(step, Freeze) for step in passes)
    prunes = any(isinstance(step, Prune) for step in passes)
    sparse = {use.node for use in pruned} if prunes else set()
    schemes: dict[ir.Node, QuantScheme] = {}
    if quantize is not None:
        selection = Selection(quantize.include, quantize.exclude, uses, owner=quantize.name)
        dtype = quantize.weights.partition("-")[0]
        schemes = {
            use.node: weight_scheme(use, dtype)
            for use in uses
            if stays_float(use, model, selection) is None
        }
    return [_form(use, sparse, schemes.get(use.node), frozen=frozen) for use in uses]


def _form(
    use: query.WeightUse, sparse: set[ir.Node], scheme: QuantScheme | None, *, frozen: bool
) -> Form:
    tensor = use.value.const_value
    assert tensor is not None
    size = int(tensor.nbytes)
    if scheme is not None:
        scales = 1 if scheme.axis is None else use.shape[scheme.axis]
        bits = TYPES[scheme.dtype] if frozen else 8 * FLOAT
        size = math.ceil(tensor.size * bits / 8) + scales * (FLOAT + CODE)
    axis = use.reduction if use.node in sparse else None
    return Form(value=use.value, axis=axis, scheme=scheme, bytes=size)


def total(uses: Sequence[query.WeightUse], forms: Sequence[Form]) -> int:
    """Bytes of all weights in their new forms: shared ones once, copies where they differ.

    A weight that something else reads too, as an embedding that is also the head, stays in its
    old form beside the new one.
    """
    distinct = {(f.value, f.axis, str(f.scheme)): f.bytes for f in forms}
    readers: dict[ir.Value, set[object]] = defaultdict(set)
    for use, form in zip(uses, forms, strict=True):
        readers[form.value].add(use.reader)
    old = sum(
        int(value.const_value.nbytes)
        for value in {form.value for form in forms if form.changed}
        if value.const_value is not None and _is_kept(value, readers[value])
    )
    return sum(distinct.values()) + old


def _is_kept(value: ir.Value, layers: set[object]) -> bool:
    """Whether somebody besides the layers reads a weight."""
    return value.is_graph_output() or any(tuple(use) not in layers for use in value.uses())

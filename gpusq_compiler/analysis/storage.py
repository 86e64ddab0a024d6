"""What weights will take in the file, told from the passes before any of them runs."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

import onnx_ir as ir

from gpusq_compiler.ir.packed import packed_bytes
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.lower import TYPED, Lower
from gpusq_compiler.passes.pack import Pack
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.passes.quantize import ineligible as stays_float
from gpusq_compiler.passes.selection import Selection
from gpusq_compiler.quant.placement.gemms import weight_scheme
from gpusq_compiler.quant.scheme import TYPES
from gpusq_compiler.sparsity.nm import NM

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpusq_compiler.ir import query
    from gpusq_compiler.passes.base import Pass
    from gpusq_compiler.quant.scheme import QuantScheme

    Found = TypeVar("Found", bound=Pass)

CODE = 1
"""Bytes of a zero point."""


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


class Outlook:
    """What passes will do to the bytes of a model.

    Args:
        model: In canonical form.
        uses: All its layers.
        passes: That would run; what others than ours do is not known.
        pruned: The layers that get a pattern.
    """

    def __init__(
        self,
        model: ir.Model,
        uses: Sequence[query.WeightUse],
        passes: Sequence[Pass],
        pruned: Iterable[query.WeightUse],
    ) -> None:
        prune, pack = _first(passes, Prune), _first(passes, Pack)
        self._pattern = None if prune is None else NM.parse(prune.pattern)
        self._sparse = {use.node for use in pruned} if prune is not None else set()
        self._pack = pack
        self._frozen = _first(passes, Freeze) is not None
        self._schemes = _schemes(model, uses, _first(passes, Quantize))
        self._narrow = _narrows(_first(passes, Lower))
        self._uses = uses

    def forms(self) -> list[Form]:
        """The form of every layer's weight."""
        return [self._form(use) for use in self._uses]

    def total(self, forms: Sequence[Form]) -> int:
        """Bytes of all weights in these forms: shared ones once, copies where they differ.

        A weight that something else reads too, as an embedding that is also the head, stays
        in its old form beside the new one.
        """
        distinct = {(f.value, f.axis, str(f.scheme)): f.bytes for f in forms}
        readers: dict[ir.Value, set[object]] = defaultdict(set)
        for use, form in zip(self._uses, forms, strict=True):
            readers[form.value].add(use.reader)
        old = sum(
            self.narrowed(value.const_value)
            for value in {form.value for form in forms if form.changed}
            if value.const_value is not None and _is_kept(value, readers[value])
        )
        return sum(distinct.values()) + old

    def narrowed(self, tensor: ir.TensorProtocol) -> int:
        """Bytes of a constant that is no layer's weight."""
        halved = self._narrow and tensor.dtype == ir.DataType.FLOAT
        return int(tensor.nbytes) // (2 if halved else 1)

    def _form(self, use: query.WeightUse) -> Form:
        tensor, scheme = use.value.const_value, self._schemes.get(use.node)
        assert tensor is not None
        axis = use.reduction if use.node in self._sparse else None
        size = self.narrowed(tensor)
        if scheme is not None:
            scales = 1 if scheme.axis is None else use.shape[scheme.axis]
            size = self._codes(use, scheme, axis) + scales * (self._float + CODE)
        return Form(value=use.value, axis=axis, scheme=scheme, bytes=size)

    @property
    def _float(self) -> int:
        """Bytes of a scale."""
        return 2 if self._narrow else 4

    def _codes(self, use: query.WeightUse, scheme: QuantScheme, axis: int | None) -> int:
        """Bytes of a quantized weight without its scales; float ones until it is frozen."""
        values = math.prod(use.shape)
        if not self._frozen:
            return 4 * values
        dense = math.ceil(values * TYPES[scheme.dtype] / 8)
        if self._pack is None or self._pattern is None or axis is None:
            return dense
        units = {"n": self._pattern.n, "m": self._pattern.m, "unit": self._pattern.unit}
        packed = packed_bytes(use.shape, axis=axis, **units)
        worth = packed is not None and self._pack.is_worth(dense - packed)
        return packed if packed is not None and worth else dense


def _first(passes: Sequence[Pass], kind: type[Found]) -> Found | None:
    return next((step for step in passes if isinstance(step, kind)), None)


def _schemes(
    model: ir.Model, uses: Sequence[query.WeightUse], quantize: Quantize | None
) -> dict[ir.Node, QuantScheme]:
    """The quantizers of the weights that get one."""
    if quantize is None:
        return {}
    selection = Selection(quantize.include, quantize.exclude, uses, owner=quantize.name)
    dtype = quantize.weights.partition("-")[0]
    return {
        use.node: weight_scheme(use, dtype)
        for use in uses
        if stays_float(use, model, selection) is None
    }


def _narrows(lower: Lower | None) -> bool:
    """Whether what is not quantized becomes half precision."""
    return lower is not None and lower.rest != "fp32" and lower.version.major >= TYPED


def _is_kept(value: ir.Value, layers: set[object]) -> bool:
    """Whether somebody besides the layers reads a weight."""
    return value.is_graph_output() or any(tuple(use) not in layers for use in value.uses())

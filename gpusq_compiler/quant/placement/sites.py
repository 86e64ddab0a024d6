"""What a rule can answer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.quant.scheme import QuantScheme

    Reader = tuple[ir.Node, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """One tensor that gets a Q/DQ pair, and who reads the result.

    Attributes:
        value: A weight's initializer or an activation.
        scheme: The quantizer.
        readers: (node, input index) pairs that read the quantized tensor.
        rule: Who wants it; several rules, divided by commas, where a tensor has one pair.
        weight: Whether the tensor is a constant.
        fixed: A scale known beforehand; None leaves it to calibration.
    """

    value: ir.Value
    scheme: QuantScheme
    readers: tuple[Reader, ...]
    rule: str
    weight: bool = False
    fixed: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedScale:
    """Tensors whose pairs read one scale."""

    values: tuple[ir.Value, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """A place that a rule considered and left.

    Attributes:
        rule: Short name, ``graph-output``.
        where: Node or tensor.
        reason: One sentence.
    """

    rule: str
    where: str
    reason: str

"""Claims: what a pass decided about a tensor, written on it in its metadata.

A claim survives saving and loading. It is never believed: `passes.facts` recomputes it from
the values. A layer left alone has no claim, so an excluded and a broken one differ.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from gpusq_compiler.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx_ir as ir

PREFIX = "gpusq."
SPARSITY = PREFIX + "sparsity"
QUANTIZER = PREFIX + "quantizer"
PASS = PREFIX + "pass"
TENSORRT = PREFIX + "tensorrt"
"""On a model: the version of TensorRT that it is legal for."""
FEATURE_LOSS = PREFIX + "feature-loss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sparsity:
    """The claim ``2:4 axis=0``: at most 2 of every 4 consecutive values along the axis."""

    pattern: str
    axis: int

    def __str__(self) -> str:
        return f"{self.pattern} axis={self.axis}"

    @classmethod
    def parse(cls, text: str, *, where: str = "") -> Sparsity:
        """Read what ``str`` wrote.

        Raises:
            ModelError: The text is no such claim.
        """
        pattern, _, axis = text.partition(" axis=")
        if not pattern or not axis.isdigit():
            raise ModelError(
                f"the sparsity claim '{text}' cannot be read",
                where=where,
                remedy="Remove the tensor's gpusq metadata or compile the dense model again",
            )
        return cls(pattern=pattern, axis=int(axis))


def sparsity_of(value: ir.Value) -> Sparsity | None:
    """The sparsity claim on a value, if it carries one."""
    text = value.metadata_props.get(SPARSITY)
    return None if text is None else Sparsity.parse(text, where=f"tensor '{value.name}'")


def sparse_values(model: ir.Model) -> Iterator[tuple[ir.Value, Sparsity]]:
    """Every initializer with a sparsity claim, bodies of If and Loop included."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            claim = sparsity_of(value)
            if claim is not None:
                yield value, claim


def write_feature_losses(model: ir.Model, losses: Mapping[str, float]) -> None:
    """Write on each critical tensor what its features differ by from the dense model's."""
    for node in model.graph:
        for value in node.outputs:
            value.metadata_props.pop(FEATURE_LOSS, None)
            loss = losses.get(value.name or "")
            if loss is not None:
                value.metadata_props[FEATURE_LOSS] = f"{loss:.6g}"


def feature_losses(model: ir.Model) -> dict[str, float]:
    """The recorded loss of every critical tensor that carries one, in graph order.

    Raises:
        ModelError: One is no positive number.
    """
    found = {}
    for node in model.graph:
        for value in node.outputs:
            text = value.metadata_props.get(FEATURE_LOSS)
            if text is not None:
                found[value.name or ""] = _positive(text, f"tensor '{value.name}'")
    return found


def _positive(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise ModelError(
            f"the recorded feature loss '{text}' is no number",
            where=where,
            remedy="Run distill again, or remove the tensor's gpusq metadata",
        )
    return number

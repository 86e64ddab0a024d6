"""How a Q/DQ pair is trained: the float arithmetic that stands in for it."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, ClassVar

from gpusq_compiler.components import Component

if TYPE_CHECKING:
    from gpusq_compiler.train.job import GraphBuilder


INTEGERS_FROM = 1.5 * 2**23
"""Around this number float32 holds integers only: adding and subtracting it rounds to even."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantizer(Component, abc.ABC):
    """Builds trainable fake quantization; its values must equal Q followed by DQ."""

    kind: ClassVar[str] = "quantizer"
    learns_scale: ClassVar[bool] = True

    @abc.abstractmethod
    def build(self, graph: GraphBuilder, x: str, scale: str, low: int, high: int) -> str:
        """Add the nodes that quantize ``x`` and return the name of the result.

        Args:
            graph: The training graph under construction.
            x: Name of a float tensor.
            scale: Name of the scale, shaped so that it broadcasts against ``x``.
            low: Smallest code.
            high: Largest code.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedStep(Quantizer):
    r"""Learned step size (LSQ, Esser et al. 2020, equations 1 to 3).

    ``s * clip(round(x / s), low, high)`` with the gradient passed straight through ``round``:
    the gradient of x is 1 inside the range and 0 outside; the gradient of s is
    ``round(x/s) - x/s`` inside and ``low`` or ``high`` outside.
    """

    name: ClassVar[str] = "lsq"

    def build(self, graph: GraphBuilder, x: str, scale: str, low: int, high: int) -> str:
        """Div, round, Clip, Mul."""
        # Round is slow and has no gradient; this rounds alike and lets the gradient through.
        coarse = graph.constant(INTEGERS_FROM)
        shifted = graph.node("Add", graph.node("Div", x, scale), coarse)
        rounded = graph.node("Sub", shifted, coarse)
        bounds = graph.constant(float(low)), graph.constant(float(high))
        return graph.node("Mul", graph.node("Clip", rounded, *bounds), scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedStep(LearnedStep):
    """The same arithmetic with the calibrated scales kept as they are."""

    name: ClassVar[str] = "fixed"
    learns_scale: ClassVar[bool] = False

"""clip-weights: no weight is larger than a multiple of its layer's standard deviation.

W ← clip(W, -c sd(W), c sd(W))
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from gpusq_compiler.errors import OptionError
from gpusq_compiler.ir import edit, query
from gpusq_compiler.passes.base import Fact, Finding, Pass, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.passes.base import Context


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipWeights(Pass):
    """Clip outliers of weights, so that quantizers spend no codes on them."""

    name: ClassVar[str] = "clip-weights"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL})
    refuses: ClassVar[frozenset[Fact]] = frozenset({Fact.FROZEN})
    idempotent: ClassVar[bool] = False

    deviations: Annotated[float, "standard deviations that stay"] = 3.0

    def __post_init__(self) -> None:
        """Refuse a range that keeps nothing."""
        if self.deviations <= 0:
            raise OptionError("must be positive", where="clip-weights.deviations")

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Clip every float weight once."""
        del ctx
        changed: list[str] = []
        skipped: list[Finding] = []
        for use in query.weight_uses(model):
            assert use.value.const_value is not None
            if use.value.const_value.dtype not in query.FLOATS:
                reason = f"the weight is {use.value.const_value.dtype.name}"
                skipped.append(
                    Finding(rule="not-float", where=use.node.name or "", reason=reason)
                )
                continue
            weight = use.value.const_value.numpy()
            limit = self.deviations * np.std(weight, dtype=np.float64)
            if np.abs(weight).max() > limit and use.value.name not in changed:
                edit.replace_weight(use.value, np.clip(weight, -limit, limit))
                changed.append(use.value.name or "")
        return PassResult(changed=tuple(changed), skipped=tuple(skipped))

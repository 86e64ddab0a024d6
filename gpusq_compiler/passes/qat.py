"""qat: fine-tune the Q/DQ graph, distilled from the untouched dense model.

The loss is GPUSQ-ViT's mixture of hard labels, soft logits and features of critical layers.
The 2:4 mask holds at every step; weights are trained together with the quantizers' scales.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar

from gpusq_compiler.ir import claims
from gpusq_compiler.passes.base import Fact
from gpusq_compiler.passes.training import TrainingPass
from gpusq_compiler.train.job import ParameterGroup
from gpusq_compiler.train.quantizers import LearnedStep, Quantizer

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qat(TrainingPass):
    """Quantization-aware training by distillation; sparsity stays."""

    name: ClassVar[str] = "qat"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QDQ})
    refuses: ClassVar[frozenset[Fact]] = frozenset({Fact.FROZEN})
    idempotent: ClassVar[bool] = False
    rates: ClassVar[tuple[str, ...]] = (*TrainingPass.rates, "scale_learning_rate")

    quantizer: Annotated[Quantizer, "how Q/DQ pairs are trained"] = LearnedStep()
    scale_learning_rate: Annotated[float, "of scales, relative to their size"] = 1e-3

    def groups(self, model: ir.Model) -> tuple[ParameterGroup, ...]:
        """Weights and biases, and the scales where the quantizer learns them."""
        groups = super().groups(model)
        if not self.quantizer.learns_scale:
            return groups
        scales = tuple(
            name
            for name, value in model.graph.initializers.items()
            if claims.QUANTIZER in value.metadata_props
        )
        rate = self.scale_learning_rate
        return (*groups, ParameterGroup(names=scales, learning_rate=rate, relative=True))

    def _quantizer(self) -> dict[str, Quantizer]:
        return {"quantizer": self.quantizer}

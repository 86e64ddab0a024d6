"""qat: fine-tune the Q/DQ graph, distilled from the untouched dense model.

The loss is GPUSQ-ViT's mixture of hard labels, soft logits and features of critical layers.
The 2:4 mask holds at every step; weights are trained together with the quantizers' scales.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from gpusq_compiler.ir import claims
from gpusq_compiler.passes.base import Fact
from gpusq_compiler.passes.training import TrainingPass
from gpusq_compiler.train.job import ParameterGroup
from gpusq_compiler.train.quantizers import LearnedStep, Quantizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qat(TrainingPass):
    """Quantization-aware training by distillation; sparsity stays.

    The student is the Q/DQ graph, the teacher the model before its first lossy pass. The best
    iterate on held-out samples comes back, the start included. It needs samples and a trainer
    in the context. ``gpusq passes show qat`` explains the options.
    """

    name: ClassVar[str] = "qat"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QDQ})
    refuses: ClassVar[frozenset[Fact]] = frozenset({Fact.FROZEN})
    idempotent: ClassVar[bool] = False
    rates: ClassVar[tuple[str, ...]] = (*TrainingPass.rates, "scale_learning_rate")

    weight_factor: Annotated[
        Literal["auto", "off"], "whether what distill recorded weighs the critical layers"
    ] = "auto"
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

    def factors(self, model: ir.Model) -> Mapping[str, float]:
        """``w_i = L l_i / sum_j l_j`` of the losses l that `distill` recorded on L layers.

        That a larger sparse loss gives a larger weight is the paper's; this normalisation,
        whose mean is 1, is our choice. Without records every layer weighs 1.
        """
        losses = claims.feature_losses(model) if self.weight_factor == "auto" else {}
        total = sum(losses.values())
        if not total:
            return {}
        return {name: len(losses) * loss / total for name, loss in losses.items()}

    def _quantizer(self) -> Quantizer:
        return self.quantizer

"""distill: fine-tune the float sparse student towards the untouched dense model.

The first stage of GPUSQ-ViT. The loss is the same mixture as in `qat`; the 2:4 mask holds at
every step. What the features of each critical layer still differ by at the end is written on
them, because a layer that pruning hurt more deserves more attention when it is quantized:
`qat` makes its feature weights ``w_i`` of it, in the same run or in another.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from gpusq_compiler.ir import claims
from gpusq_compiler.passes.base import Fact
from gpusq_compiler.passes.training import TrainingPass

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.passes.base import Context, PassResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distill(TrainingPass):
    """Sparse training in float, before anything is quantized; records each layer's loss.

    What is recorded weighs the layers in `qat`. It needs samples and a trainer in the context.
    ``gpusq passes show distill`` explains the options.
    """

    name: ClassVar[str] = "distill"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SPARSE})
    refuses: ClassVar[frozenset[Fact]] = frozenset({Fact.QDQ, Fact.FROZEN})
    idempotent: ClassVar[bool] = False

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Train, write the best iterate back, and record the losses of the features."""
        result = super().rewrite(model, ctx)
        rows = result.tables["features"]
        losses = {str(row["tensor"]): float(row["after"] or 0.0) for row in rows}
        claims.write_feature_losses(model, losses)
        return result

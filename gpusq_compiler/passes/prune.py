"""prune: of every four consecutive weights along the reduction axis the two best stay.

    W ← W ∘ M,   M = argmax over legal masks of  Σ M ∘ score(W)

The reduction axis is what the matrix product sums over: axis 0 of a MatMul's ``[K, N]``, the
input channels of a convolution, for every output channel and kernel position on their own.
That is the pattern which Sparse Tensor Cores read (Mishra et al. 2021).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir import claims, edit, query
from gpusq_compiler.passes.base import Cell, Fact, Finding, Pass, PassResult
from gpusq_compiler.passes.selection import Selection
from gpusq_compiler.sparsity.nm import NM, kept_magnitude, mask_of
from gpusq_compiler.sparsity.scores import Magnitude, Score

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.passes.base import Context


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prune(Pass):
    """Rewrite weights to the 2:4 pattern that Sparse Tensor Cores run at twice the rate."""

    name: ClassVar[str] = "prune"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.SPARSE})
    refuses: ClassVar[frozenset[Fact]] = frozenset({Fact.FROZEN})

    pattern: Annotated[str, "n of every m consecutive weights are kept"] = "2:4"
    score: Annotated[Score, "what makes a weight worth keeping"] = Magnitude()
    include: Annotated[tuple[str, ...], "only these nodes, weights, operators or regexes"] = ()
    exclude: Annotated[tuple[str, ...], "but not these"] = ()

    def __post_init__(self) -> None:
        """Refuse a pattern that is none."""
        NM.parse(self.pattern)

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Prune every eligible weight once and claim its pattern."""
        del ctx
        pattern = NM.parse(self.pattern)
        uses = list(query.weight_uses(model))
        selection = Selection(self.include, self.exclude, uses, owner=self.name)
        rows: list[dict[str, Cell]] = []
        changed: list[str] = []
        skipped: list[Finding] = []
        for use in uses:
            finding = ineligible(use, pattern, selection)
            if finding is None and _claimed_otherwise(use, pattern):
                finding = _left(
                    use,
                    "conflicting-axes",
                    "shares its weight with a layer that reduces along another axis",
                )
            if finding is not None:
                skipped.append(finding)
            else:
                before = _state(use.value)
                rows.append(self._prune(use, pattern))
                if _state(use.value) != before:
                    changed.append(use.value.name or "")
        return PassResult(
            changed=tuple(changed),
            skipped=tuple(skipped),
            metrics=_totals(uses, rows),
            tables={"layers": rows},
        )

    def _prune(self, use: query.WeightUse, pattern: NM) -> dict[str, Cell]:
        assert use.value.const_value is not None
        weight = use.value.const_value.numpy()
        if not np.all(np.isfinite(weight.astype(np.float32))):
            raise ModelError(
                "the weight holds NaN or infinity",
                where=f"tensor '{use.value.name}'",
                remedy="Repair or retrain the model",
            )
        mask = mask_of(self.score.importance(weight), pattern, axis=use.reduction)
        if np.any(weight[~mask]):
            edit.replace_weight(use.value, np.where(mask, weight, weight.dtype.type(0)))
        claim = claims.Sparsity(pattern=self.pattern, axis=use.reduction)
        use.value.metadata_props[claims.SPARSITY] = str(claim)
        return {
            "layer": use.node.name,
            "weight": use.value.name,
            "operator": use.node.op_type,
            "shape": "x".join(map(str, use.shape)),
            "axis": use.reduction,
            "parameters": int(mask.size),
            "kept_magnitude": kept_magnitude(weight, mask),
        }


def _state(value: ir.Value) -> tuple[object, object]:
    return value.const_value, claims.sparsity_of(value)


def ineligible(use: query.WeightUse, pattern: NM, selection: Selection) -> Finding | None:
    """Why this layer stays dense, or None when it can be pruned."""
    refused = selection.refusal(use)
    if refused is not None:
        return _left(use, "user", refused)
    tensor = use.value.const_value
    assert tensor is not None
    if tensor.dtype not in query.FLOATS:
        return _left(
            use, "not-float", f"the weight is {tensor.dtype.name}, not floating point"
        )
    if use.depthwise:
        return _left(use, "depthwise", "each channel is convolved on its own: nothing to sum")
    if use.reduction_length % pattern.m:
        return _left(
            use,
            f"k-not-multiple-of-{pattern.m}",
            f"its reduction length {use.reduction_length} is no multiple of {pattern.m}",
        )
    if query.is_stem(use):
        return _left(use, "stem", "the first convolution sees the input itself")
    return None


def _claimed_otherwise(use: query.WeightUse, pattern: NM) -> bool:
    claim = claims.sparsity_of(use.value)
    return claim is not None and claim != claims.Sparsity(
        pattern=str(pattern), axis=use.reduction
    )


def _left(use: query.WeightUse, rule: str, reason: str) -> Finding:
    return Finding(rule=rule, where=use.node.name or "", reason=reason)


def _totals(uses: list[query.WeightUse], rows: list[dict[str, Cell]]) -> dict[str, float]:
    sizes = {use.value.name: int(np.prod(use.shape)) for use in uses}
    pruned = {str(row["weight"]): sizes[str(row["weight"])] for row in rows}
    total = sum(sizes.values())
    return {
        "layers": len(pruned),
        "parameters_in_pattern": sum(pruned.values()),
        "share_of_weights": sum(pruned.values()) / total if total else 0.0,
    }

"""prune: of every four consecutive weights along the reduction axis the two best stay.

    W ← W ∘ M,   M = argmax over legal masks of  Σ M ∘ score(W)

The reduction axis is what the matrix product sums over: axis 0 of a MatMul's ``[K, N]``, the
input channels of a convolution, for every output channel and kernel position on their own.
That is the pattern which Sparse Tensor Cores read (Mishra et al. 2021).
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from gpusq_compiler.ir import claims, edit, query
from gpusq_compiler.passes.base import Cell, Fact, Finding, Pass, PassResult
from gpusq_compiler.passes.selection import Selection
from gpusq_compiler.passes.sharing import separate
from gpusq_compiler.sparsity.nm import NM, kept_magnitude, mask_of
from gpusq_compiler.sparsity.scores import Magnitude, Score

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        verdicts = [(use, ineligible(use, pattern, selection)) for use in uses]
        skipped = [finding for _, finding in verdicts if finding is not None]
        chosen = [use for use, finding in verdicts if finding is None]
        skipped += separate(model, chosen)
        wanted = {use.node for use in chosen}
        rows: list[dict[str, Cell]] = []
        changed: list[str] = []
        for use in query.weight_uses(model):
            if use.node in wanted:
                before = _state(use.value)
                rows.append(self._prune(use, pattern))
                if _state(use.value) != before:
                    changed.append(use.value.name or "")
        return PassResult(
            changed=tuple(changed),
            skipped=tuple(skipped),
            metrics=_totals(query.weight_uses(model), rows),
            tables={"layers": rows},
        )

    def _prune(self, use: query.WeightUse, pattern: NM) -> dict[str, Cell]:
        assert use.value.const_value is not None
        weight = use.value.const_value.numpy()
        query.require_finite(use)
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
    tensor = use.value.const_value
    assert tensor is not None
    refused = selection.refusal(use) or ""
    length, kind = use.reduction_length, tensor.dtype.name
    rules = (
        ("user", bool(refused), refused),
        ("not-float", tensor.dtype not in query.FLOATS, f"its weight is {kind}, not float"),
        ("depthwise", use.depthwise, "each channel is convolved alone: nothing to sum"),
        (
            f"k-not-multiple-of-{pattern.span}",
            length % pattern.span != 0,
            f"its reduction length {length} is no multiple of {pattern.span}",
        ),
        (
            "quantized-layout",
            use.relaid and use.quantized,
            "its weight passes a quantizer and a layout operator",
        ),
    )
    where = use.node.name or ""
    for rule, applies, reason in rules:
        if applies:
            return Finding(rule=rule, where=where, reason=reason)
    if query.is_stem(use):
        reason = "the first convolution sees the input itself"
        return Finding(rule="stem", where=where, reason=reason)
    return None


def _totals(uses: Iterable[query.WeightUse], rows: list[dict[str, Cell]]) -> dict[str, float]:
    total = sum({use.value.name: math.prod(use.shape) for use in uses}.values())
    pruned = {row["weight"]: int(row["parameters"] or 0) for row in rows}
    return {
        "layers": len(pruned),
        "parameters_in_pattern": sum(pruned.values()),
        "share_of_weights": sum(pruned.values()) / total if total else 0.0,
    }

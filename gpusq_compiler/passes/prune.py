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

from gpusq_compiler.calibration.matrices import weight_from, weight_matrices
from gpusq_compiler.errors import OptionError
from gpusq_compiler.ir import claims, edit, query
from gpusq_compiler.passes.base import Cell, Fact, Finding, Pass, PassResult
from gpusq_compiler.passes.evidence import Gathering
from gpusq_compiler.passes.selection import Selection
from gpusq_compiler.passes.sharing import separate
from gpusq_compiler.passes.untouched import untouched
from gpusq_compiler.runtime.session import refusal
from gpusq_compiler.sparsity.nm import (
    NM,
    kept_by,
    mask_of,
    masked,
    obeys,
    sparsified,
)
from gpusq_compiler.sparsity.scores import (
    Auto,
    Evidence,
    Magnitude,
    Score,
    SparseGpt,
    relative_output_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir

    from gpusq_compiler.calibration.matrices import Matrices
    from gpusq_compiler.passes.base import Context
    from gpusq_compiler.runtime.samples import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prune(Pass):
    """Rewrite weights to the 2:4 pattern that Sparse Tensor Cores run at twice the rate.

    Of every four consecutive weights along the axis that the product sums over, the two that
    the score prefers stay. The pattern is written on the tensor and holds from then on.
    ``gpusq passes show prune`` explains the options.
    """

    name: ClassVar[str] = "prune"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.SPARSE})
    refuses: ClassVar[frozenset[Fact]] = frozenset({Fact.FROZEN})

    pattern: Annotated[str, "n of every m consecutive weights are kept"] = "2:4"
    score: Annotated[Score, "what makes a weight worth keeping"] = Auto()
    samples: Annotated[int, "samples that a score looks at, at most"] = 512
    include: Annotated[tuple[str, ...], "only these nodes, weights, operators or regexes"] = ()
    exclude: Annotated[tuple[str, ...], "but not these"] = ()

    def __post_init__(self) -> None:
        """Refuse a pattern that is none, and numbers that cannot be."""
        NM.parse(self.pattern)
        if self.samples < 1:
            raise OptionError(
                f"{self.samples} is too small", where=f"{self.name}.samples", remedy=">= 1"
            )

    def resolve(self, model: ir.Model, ctx: Context) -> Prune:
        """Take the score that model and data allow where the user chose none."""
        if not isinstance(self.score, Auto):
            return self
        seen = (
            self.asks_model(ctx)
            and refusal(model, threads=ctx.threads, device=ctx.device) is None
        )
        return dataclasses.replace(self, score=SparseGpt() if seen else Magnitude())

    def asks_model(self, ctx: Context) -> bool:
        """Where there are real data, and the user chose no score."""
        real = ctx.data is not None and not ctx.synthesised
        return real and isinstance(self.score, Auto)

    def wants_samples(self) -> bool:
        """Where the score does; `Auto` takes one that does not where none are given."""
        return self.score.needs is not Evidence.NOTHING

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Prune every eligible weight once and claim its pattern."""
        pattern = NM.parse(self.pattern)
        uses = list(query.weight_uses(model))
        selection = Selection(self.include, self.exclude, uses, owner=self.name)
        verdicts = [(use, ineligible(use, pattern, selection)) for use in uses]
        skipped = [finding for _, finding in verdicts if finding is not None]
        chosen = [use for use, finding in verdicts if finding is None]
        skipped += untouched(model)
        skipped += separate(model, chosen)
        wanted = {use.node for use in chosen}
        layers = [use for use in query.weight_uses(model) if use.node in wanted]
        gathering = Gathering(model=model, ctx=ctx, samples=self.samples, author=self.name)
        skipped += gathering.obstacles(layers, self.score.needs)
        rows: dict[ir.Node, dict[str, Cell]] = {}
        changed: set[str] = set()
        for use, evidence in gathering.evidence(layers, self.score.needs):
            before = _state(use.value)
            rows[use.node] = self._prune(use, pattern, evidence)
            edit.let_go(before[0])
            if _state(use.value) != before:
                changed.add(use.value.name or "")
        return PassResult(
            changed=_in_order(layers, changed),
            skipped=tuple(skipped),
            metrics=_totals(model, list(rows.values())),
            tables={"layers": [rows[use.node] for use in layers]},
        )

    def _prune(
        self, use: query.WeightUse, pattern: NM, evidence: Matrices | None
    ) -> dict[str, Cell]:
        assert use.value.const_value is not None
        weight = use.value.const_value.numpy()
        query.require_finite(use)
        chosen = self._pruned(use, weight, pattern, evidence)
        if chosen is not weight:
            edit.replace_weight(use.value, chosen)
        claim = claims.Sparsity(pattern=self.pattern, axis=use.reduction)
        use.value.metadata_props[claims.SPARSITY] = str(claim)
        return {
            "layer": use.node.name,
            "weight": use.value.name,
            "operator": use.node.op_type,
            "shape": "x".join(map(str, use.shape)),
            "axis": use.reduction,
            "parameters": int(weight.size),
            "kept_magnitude": kept_by(weight, chosen, pattern, axis=use.reduction),
            "output_error": _output_error(use, weight, chosen, evidence, self.score.needs),
        }

    def _pruned(
        self, use: query.WeightUse, weight: Array, pattern: NM, evidence: Matrices | None
    ) -> Array:
        """The sparse weight; one that has the pattern already stays as it is."""
        if obeys(weight, pattern, axis=use.reduction):
            return weight
        if evidence is None:
            score = self.score if self.score.needs is Evidence.NOTHING else Magnitude()
            if score.alone:
                return sparsified(weight, score.importance, pattern, axis=use.reduction)
            mask = mask_of(score.importance(weight), pattern, axis=use.reduction)
            return masked(weight, mask)
        parts = zip(weight_matrices(use, weight), evidence, strict=True)
        sparse = np.stack([self.score.prune(part, pattern, seen) for part, seen in parts])
        return weight_from(use, sparse + 0.0, weight.shape)


def _output_error(
    use: query.WeightUse,
    weight: Array,
    chosen: Array,
    evidence: Matrices | None,
    kind: Evidence,
) -> float | None:
    """Relative error of the layer's output on the samples, where its inputs were seen."""
    if evidence is None or kind is not Evidence.INPUTS:
        return None
    dense, sparse = weight_matrices(use, weight), weight_matrices(use, chosen)
    parts = zip(dense, sparse, evidence, strict=True)
    return float(np.mean([relative_output_error(*part) for part in parts]))


def _in_order(layers: Iterable[query.WeightUse], names: set[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(n for u in layers if (n := u.value.name or "") in names))


def _state(value: ir.Value) -> tuple[ir.TensorProtocol | None, object]:
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
            "one-channel",
            _is_fixed_sum(use),
            "a 1x1 convolution to one channel: nothing to gain, and fixed sums look so",
        ),
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


def _is_fixed_sum(use: query.WeightUse) -> bool:
    """Points of an image summed to one channel: detectors write the mean over bins so."""
    return use.node.op_type == "Conv" and use.shape[0] == 1 and math.prod(use.shape[2:]) == 1


def _totals(model: ir.Model, rows: list[dict[str, Cell]]) -> dict[str, float]:
    sizes = {use.value.name: math.prod(use.shape) for use in query.weight_uses(model)}
    total = sum(sizes.values()) + sum(size for _, size in query.other_weights(model))
    pruned = {row["weight"]: int(row["parameters"] or 0) for row in rows}
    return {
        "layers": len(pruned),
        "parameters_in_pattern": sum(pruned.values()),
        "share_of_weights": sum(pruned.values()) / total if total else 0.0,
    }

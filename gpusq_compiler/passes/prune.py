"""prune: of every four consecutive weights along the reduction axis the two best stay.

    W ← W ∘ M,   M = argmax over legal masks of  Σ M ∘ score(W)

The reduction axis is what the matrix product sums over: axis 0 of a MatMul's ``[K, N]``, the
input channels of a convolution, for every output channel and kernel position on their own.
That is the pattern which Sparse Tensor Cores read (Mishra et al. 2021).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from gpusq_compiler.calibration.matrices import weight_from, weight_matrices
from gpusq_compiler.errors import OptionError
from gpusq_compiler.ir import claims, edit, query, tensors
from gpusq_compiler.parallel import in_order
from gpusq_compiler.passes.base import Cell, Fact, Finding, Pass, PassResult
from gpusq_compiler.passes.evidence import Gathering
from gpusq_compiler.passes.selection import Selection
from gpusq_compiler.passes.sharing import separate
from gpusq_compiler.passes.untouched import untouched
from gpusq_compiler.runtime.session import refusal
from gpusq_compiler.sparsity.masking import Mask, kept_magnitude, mask_by
from gpusq_compiler.sparsity.nm import NM, mask_of, obeys
from gpusq_compiler.sparsity.scores import (
    Auto,
    Evidence,
    Magnitude,
    Score,
    SparseGpt,
    relative_output_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir

    from gpusq_compiler.calibration.matrices import Matrices
    from gpusq_compiler.passes.base import Context
    from gpusq_compiler.runtime.samples import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What becomes of one weight.

    Attributes:
        tensor: The sparse one; None where the weight has the pattern already.
        kept: Share of its magnitude at the places that are kept.
        error: Relative error of the layer's output, where inputs were seen.
    """

    tensor: ir.TensorProtocol | None = None
    kept: float = 1.0
    error: float | None = None


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
        weights = list({use.value: use for use in reversed(layers)}.values())[::-1]
        found: dict[ir.Value, Outcome] = {}
        changed: set[str] = set()
        for use, outcome in self._outcomes(gathering, weights, pattern):
            before = _state(use.value)
            if outcome.tensor is not None:
                edit.replace_tensor(use.value, outcome.tensor)
            claim = claims.Sparsity(pattern=self.pattern, axis=use.reduction)
            use.value.metadata_props[claims.SPARSITY] = str(claim)
            if _state(use.value) != before:
                changed.add(use.value.name or "")
            found[use.value] = outcome
        rows = [_row(use, found[use.value]) for use in layers]
        return PassResult(
            changed=tuple(n for use in weights if (n := use.value.name or "") in changed),
            skipped=tuple(skipped),
            metrics=_totals(model, rows),
            tables={"layers": rows},
        )

    def _outcomes(
        self, gathering: Gathering, weights: Sequence[query.WeightUse], pattern: NM
    ) -> Iterator[tuple[query.WeightUse, Outcome]]:
        """Each weight with what becomes of it; evidence is of a model with those before pruned."""
        if self.score.needs is Evidence.NOTHING:
            alone = functools.partial(self._outcome, pattern=pattern, evidence=None)
            yield from zip(weights, in_order(alone, weights, gathering.ctx.threads), strict=True)
            return
        for use, evidence in gathering.evidence(weights, self.score.needs):
            yield use, self._outcome(use, pattern, evidence)

    def _outcome(
        self, use: query.WeightUse, pattern: NM, evidence: Matrices | None
    ) -> Outcome:
        """The sparse weight; one that has the pattern already stays as it is."""
        tensor = use.value.const_value
        assert tensor is not None
        weight = tensors.values(tensor)
        if obeys(weight, pattern, axis=use.reduction):
            query.require_finite(use)
            return Outcome(error=_output_error(use, weight, weight, evidence, self.score.needs))
        if evidence is None:
            mask = self._mask(weight, pattern, use.reduction)
            kept = kept_magnitude(weight, mask)
            if not math.isfinite(kept):
                query.require_finite(use)
            return Outcome(tensor=tensors.derived(tensor, Mask.of(mask)), kept=kept)
        query.require_finite(use)
        sparse = self._adapted(use, weight, pattern, evidence)
        return Outcome(
            tensor=tensors.replaced(tensor, sparse),
            kept=kept_magnitude(weight, sparse != 0),
            error=_output_error(use, weight, sparse, evidence, self.score.needs),
        )

    def _mask(self, weight: Array, pattern: NM, axis: int) -> Array:
        """Where nothing is known but the weight."""
        score = self.score if self.score.needs is Evidence.NOTHING else Magnitude()
        if score.alone:
            return mask_by(score.importance, weight, pattern, axis=axis)
        return mask_of(score.importance(weight), pattern, axis=axis)

    def _adapted(
        self, use: query.WeightUse, weight: Array, pattern: NM, evidence: Matrices
    ) -> Array:
        """What the score makes of a weight of which something is known."""
        parts = zip(weight_matrices(use, weight), evidence, strict=True)
        sparse = np.stack([self.score.prune(part, pattern, seen) for part, seen in parts])
        return weight_from(use, sparse + 0.0, weight.shape)


def _row(use: query.WeightUse, outcome: Outcome) -> dict[str, Cell]:
    """A layer in the report."""
    return {
        "layer": use.node.name,
        "weight": use.value.name,
        "operator": use.node.op_type,
        "shape": "x".join(map(str, use.shape)),
        "axis": use.reduction,
        "parameters": math.prod(use.shape),
        "kept_magnitude": outcome.kept,
        "output_error": outcome.error,
    }


def _output_error(
    use: query.WeightUse,
    weight: Array,
    sparse: Array,
    evidence: Matrices | None,
    kind: Evidence,
) -> float | None:
    """Relative error of the layer's output on the samples, where its inputs were seen."""
    if evidence is None or kind is not Evidence.INPUTS:
        return None
    sides = weight_matrices(use, weight), weight_matrices(use, sparse)
    parts = zip(*sides, evidence, strict=True)
    return float(np.mean([relative_output_error(*part) for part in parts]))


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

"""quantize: Q/DQ pairs where integer kernels want them, with ranges from the user's data.

    x ──▶ MatMul ──▶          x ─▶ Q ─▶ DQ ─▶ MatMul ──▶
    W ──▶                     W ─▶ Q ─▶ DQ ─▶

Symmetric with zero point 0, so a pruned 0 stays 0; weights per output channel, activations per
tensor. Weights stay float behind their pair until `freeze`, so that `qat` can train them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from gpusq_compiler.calibration.collect import collect
from gpusq_compiler.calibration.padding import by_length
from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.errors import OptionError
from gpusq_compiler.ir import query
from gpusq_compiler.parallel import in_order
from gpusq_compiler.passes.base import Cell, Fact, Finding, Pass, PassResult
from gpusq_compiler.passes.selection import Selection
from gpusq_compiler.passes.untouched import untouched
from gpusq_compiler.quant.arithmetic import dequantize, quantize
from gpusq_compiler.quant.histograms import Counted, Largest
from gpusq_compiler.quant.observers import MeanSquare, Observer
from gpusq_compiler.quant.placement import TARGETS, UNSIGNED, Placement, Scene, place
from gpusq_compiler.quant.placement.gemms import weight_reader
from gpusq_compiler.quant.placement.pairs import insert
from gpusq_compiler.quant.scheme import one_sided

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gpusq_compiler.passes.base import Context
    from gpusq_compiler.quant.observers import RangeState
    from gpusq_compiler.quant.placement import Draft, Site
    from gpusq_compiler.quant.scheme import QuantScheme
    from gpusq_compiler.runtime.samples import Array

QUANTIZABLE = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantize(Pass):
    """Insert symmetric Q/DQ pairs, calibrated on the data.

    Weights get one scale per output channel and stay float behind their pair; activations get
    one scale, from the samples of the context. ``gpusq passes show quantize`` explains the
    options.
    """

    name: ClassVar[str] = "quantize"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL})
    refuses: ClassVar[frozenset[Fact]] = frozenset({Fact.PACKED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.QDQ})
    breaks: ClassVar[frozenset[Fact]] = frozenset({Fact.FROZEN})

    weights: Annotated[
        Literal["int8-per-channel"], "integer type and granularity of weights"
    ] = "int8-per-channel"
    activations: Annotated[
        Literal["int8-per-tensor"], "integer type and granularity of activations"
    ] = "int8-per-tensor"
    placement: Annotated[Placement | None, "where pairs go; none: by the target"] = None
    attention: Annotated[
        Literal["all", "none"], "q, k, v and softmax together, where the placement asks for it"
    ] = "all"
    observer: Annotated[Observer, "chooses the range of activations"] = MeanSquare()
    samples: Annotated[int, "calibration samples at most"] = 512
    batch_size: Annotated[int, "samples per batch; memory holds what two batches quantize"] = 4
    include: Annotated[tuple[str, ...], "only these nodes, weights, operators or regexes"] = ()
    exclude: Annotated[tuple[str, ...], "but not these"] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        for name in ("samples", "batch_size"):
            value = getattr(self, name)
            if value < 1:
                raise OptionError(
                    f"{value} is too small", where=f"{self.name}.{name}", remedy=">= 1"
                )

    def resolve(self, model: ir.Model, ctx: Context) -> Quantize:
        """Take the placement of the target where the user chose none."""
        del model
        return dataclasses.replace(self, placement=self.placement or TARGETS[ctx.target])

    def asks_model(self, ctx: Context) -> bool:
        """Never: the target decides."""
        del ctx
        return False

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Place, calibrate, insert."""
        uses = list(query.weight_uses(model))
        selection = Selection(self.include, self.exclude, uses, owner=self.name)
        refusals = [(use, ineligible(use, model, selection)) for use in uses]
        scene = Scene(
            graph=model.graph,
            layers=tuple(use for use, finding in refusals if finding is None),
            weights=self.weights.partition("-")[0],
            activations=self.activations.partition("-")[0],
            attention=self.attention,
        )
        assert self.placement is not None, "resolved before"
        draft = place(self.placement, scene)
        states = self._calibrate(model, draft, ctx)
        ranges = {name: state.absmax() for name, state in states.items()}
        if self.placement in UNSIGNED:
            draft.refit(_one_sided(draft, states, ranges))
        scales = insert(model, draft, ranges)
        rows = list(in_order(lambda pair: _row(*pair, states), scales.items(), ctx.threads))
        findings = [finding for _, finding in refusals if finding is not None]
        findings += untouched(model)
        findings += [Finding(**dataclasses.asdict(refusal)) for refusal in draft.refusals]
        return PassResult(
            changed=tuple(dict.fromkeys(str(row["tensor"]) for row in rows)),
            skipped=(*findings, *_never_seen(ranges)),
            metrics={
                "layers": len(scene.layers),
                "weights": sum(site.weight for site in scales),
                "activations": sum(not site.weight for site in scales),
            },
            tables={"tensors": rows},
            histograms={
                name: state.histogram()
                for name, state in states.items()
                if isinstance(state, Counted)
            },
        )

    def _calibrate(
        self, model: ir.Model, draft: Draft, ctx: Context
    ) -> Mapping[str, RangeState]:
        sites = [site for site in draft.sites if not site.weight and site.fixed is None]
        if not sites:
            return {}
        data = ctx.samples(self.name)
        order = ctx.rng(self.name).permutation(data.count)[: self.samples]
        return collect(
            model,
            [site.value.name or "" for site in sites],
            by_length(Subset(data, np.sort(order))),
            self.observer,
            unsigned={site.value.name or "" for site in sites if site.scheme.unsigned},
            batch_size=self.batch_size,
            threads=ctx.threads,
            device=ctx.device,
            events=ctx.events,
        )


def _one_sided(
    draft: Draft, states: Mapping[str, RangeState], ranges: Mapping[str, float]
) -> dict[ir.Value, QuantScheme]:
    """Finer quantizers for activations that hardly reach below 0, as behind a GELU."""
    found = {}
    for site in draft.sites:
        state = states.get(site.value.name or "")
        if site.weight or site.scheme.unsigned or not isinstance(state, Largest):
            continue
        scheme = one_sided(state.lowest, ranges[site.value.name or ""])
        if scheme is not None:
            found[site.value] = scheme
    return found


def ineligible(use: query.WeightUse, model: ir.Model, selection: Selection) -> Finding | None:
    """Why this layer stays float, or None when it is quantized."""
    refused = selection.refusal(use)
    where = use.node.name or ""
    if refused is not None:
        return Finding(rule="user", where=where, reason=refused)
    if weight_reader(use) is None:
        return Finding(rule="already-quantized", where=where, reason="has quantizers already")
    activation = use.activation
    if activation is not None and activation.graph is not model.graph:
        reason = "its input is computed in the body of If or Loop, where nothing calibrates it"
        return Finding(rule="in-body", where=where, reason=reason)
    tensor = use.value.const_value
    if tensor is None or tensor.dtype not in QUANTIZABLE:
        kind = "unknown" if tensor is None else tensor.dtype.name
        return Finding(rule="not-float", where=where, reason=f"the weight is {kind}")
    return None


def _row(site: Site, scale: Array, states: Mapping[str, RangeState]) -> dict[str, Cell]:
    step, high = float(np.max(scale)), site.scheme.high
    state = None if site.weight else states.get(site.value.name or "")
    return {
        "tensor": site.value.name or "",
        "kind": "weight" if site.weight else "activation",
        "rule": site.rule,
        "scheme": str(site.scheme),
        "scale": step,
        "scale_min": float(np.min(scale)),
        "scale_median": float(np.median(scale)),
        "clip": high * step,
        "clipped": state.beyond((high + 0.5) * step) if isinstance(state, Counted) else None,
        "relative_error": _relative_error(site, scale) if site.weight else None,
    }


def _never_seen(ranges: Mapping[str, float]) -> Iterator[Finding]:
    for name, absmax in ranges.items():
        if absmax == 0:
            reason = "was zero on every calibration sample; its scale is the smallest there is"
            yield Finding(rule="all-zero", where=name, reason=reason)


def _relative_error(site: Site, scale: Array) -> float:
    """Root of the squared rounding error over the squared weights."""
    assert site.value.const_value is not None
    weight = site.value.const_value.numpy()
    restored = dequantize(quantize(weight, scale, site.scheme), scale, site.scheme)
    norm = float(np.linalg.norm(weight))
    return float(np.linalg.norm(restored - weight)) / norm if norm else 0.0

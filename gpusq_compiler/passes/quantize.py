"""quantize: Q/DQ pairs where integer kernels want them, with ranges from the user's data.

    x ──▶ MatMul ──▶          x ─▶ Q ─▶ DQ ─▶ MatMul ──▶
    W ──▶                     W ─▶ Q ─▶ DQ ─▶

Symmetric with zero point 0, so a pruned 0 stays 0; weights per output channel, activations per
tensor. Weights stay float behind their pair until `freeze`, so that `qat` can train them.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from gpusq_compiler.calibration.batches import Subset
from gpusq_compiler.calibration.collect import collect
from gpusq_compiler.ir import claims, edit, query
from gpusq_compiler.passes.base import Cell, Fact, Finding, Pass, PassResult
from gpusq_compiler.passes.selection import Selection
from gpusq_compiler.quant.arithmetic import dequantize, quantize, scale_of, weight_scales
from gpusq_compiler.quant.observers import Observer, Percentile
from gpusq_compiler.quant.placement import Site, gemm_inputs

if TYPE_CHECKING:
    from gpusq_compiler.passes.base import Context
    from gpusq_compiler.runtime.samples import Array

QUANTIZABLE = frozenset({ir.DataType.FLOAT})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantize(Pass):
    """Insert symmetric Q/DQ pairs, calibrated on the data."""

    name: ClassVar[str] = "quantize"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.QDQ})
    breaks: ClassVar[frozenset[Fact]] = frozenset({Fact.FROZEN})

    weights: Annotated[
        Literal["int8-per-channel"], "integer type and granularity of weights"
    ] = "int8-per-channel"
    activations: Annotated[
        Literal["int8-per-tensor"], "integer type and granularity of activations"
    ] = "int8-per-tensor"
    placement: Annotated[Literal["gemm-inputs"], "where the pairs go"] = "gemm-inputs"
    observer: Annotated[Observer, "chooses the range of activations"] = Percentile()
    samples: Annotated[int, "calibration samples at most"] = 512
    batch_size: Annotated[int, "samples per calibration batch"] = 32
    include: Annotated[tuple[str, ...], "only these nodes, weights, operators or regexes"] = ()
    exclude: Annotated[tuple[str, ...], "but not these"] = ()

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Place, calibrate, insert."""
        uses = list(query.weight_uses(model))
        selection = Selection(self.include, self.exclude, uses, owner=self.name)
        refusals = [(use, _ineligible(use, model, selection)) for use in uses]
        chosen = [use for use, finding in refusals if finding is None]
        sites = gemm_inputs(
            chosen, self.weights.partition("-")[0], self.activations.partition("-")[0]
        )
        ranges = self._calibrate(model, [site for site in sites if not site.weight], ctx)
        names = edit.Names(model)
        rows = [_insert(model, site, ranges, names) for site in sites]
        return PassResult(
            changed=tuple(str(row["tensor"]) for row in rows),
            skipped=tuple(finding for _, finding in refusals if finding is not None),
            metrics={
                "layers": len(chosen),
                "weights": sum(site.weight for site in sites),
                "activations": sum(not site.weight for site in sites),
            },
            tables={"tensors": rows},
        )

    def _calibrate(self, model: ir.Model, sites: list[Site], ctx: Context) -> dict[str, float]:
        if not sites:
            return {}
        data = ctx.samples(self.name)
        order = ctx.rng(self.name).permutation(data.count)[: self.samples]
        return collect(
            model,
            [site.value.name or "" for site in sites],
            Subset(data, np.sort(order)),
            self.observer,
            batch_size=self.batch_size,
            threads=ctx.threads,
            device=ctx.device,
            events=ctx.events,
        )


def _ineligible(use: query.WeightUse, model: ir.Model, selection: Selection) -> Finding | None:
    refused = selection.refusal(use)
    where = use.node.name or ""
    if refused is not None:
        return Finding(rule="user", where=where, reason=refused)
    if use.node.inputs[use.operand] is not use.value:
        return Finding(rule="already-quantized", where=where, reason="has quantizers already")
    if use.node.graph is not model.graph:
        return Finding(rule="in-body", where=where, reason="stands in the body of If or Loop")
    tensor = use.value.const_value
    if tensor is None or tensor.dtype not in QUANTIZABLE:
        kind = "unknown" if tensor is None else tensor.dtype.name
        return Finding(rule="not-float32", where=where, reason=f"the weight is {kind}")
    return None


def _insert(
    model: ir.Model, site: Site, ranges: dict[str, float], names: edit.Names
) -> dict[str, Cell]:
    """Put one Q/DQ pair on a tensor and lead the site's readers to it."""
    name = site.value.name or "tensor"
    error: float | None = None
    if site.weight:
        assert site.value.const_value is not None
        weight = site.value.const_value.numpy()
        scale = weight_scales(weight, site.scheme)
        error = _relative_error(weight, scale, site)
    else:
        scale = scale_of(ranges[name], site.scheme)
    q, dq = _pair(model.graph, site, scale, names)
    model.graph.insert_before(site.readers[0][0], [q, dq])
    edit.redirect(site.readers, dq.outputs[0])
    return {
        "tensor": name,
        "kind": "weight" if site.weight else "activation",
        "scheme": str(site.scheme),
        "scale": float(np.max(scale)),
        "relative_error": error,
    }


def _pair(
    graph: ir.Graph, site: Site, scale: Array, names: edit.Names
) -> tuple[ir.Node, ir.Node]:
    """A QuantizeLinear and its DequantizeLinear with their scale and zero point."""
    name = site.value.name or "tensor"
    step = edit.new_initializer(graph, names.fresh(f"{name}.scale"), np.asarray(scale))
    zero = edit.new_initializer(
        graph, names.fresh(f"{name}.zero_point"), np.zeros(np.shape(scale), np.int8)
    )
    step.metadata_props[claims.QUANTIZER] = str(site.scheme)
    make = functools.partial(
        edit.new_node,
        author="quantize",
        like=site.value,
        attributes={} if site.scheme.axis is None else {"axis": site.scheme.axis},
    )
    q = make(
        "QuantizeLinear",
        [site.value, step, zero],
        name=names.fresh(f"{name}.QuantizeLinear"),
        output=names.fresh(f"{name}.quantized"),
        dtype=ir.DataType.INT8,
    )
    dq = make(
        "DequantizeLinear",
        [q.outputs[0], step, zero],
        name=names.fresh(f"{name}.DequantizeLinear"),
        output=names.fresh(f"{name}.dequantized"),
    )
    return q, dq


def _relative_error(weight: Array, scale: Array, site: Site) -> float:
    """Root of the squared rounding error over the squared weights."""
    restored = dequantize(quantize(weight, scale, site.scheme), scale, site.scheme)
    norm = float(np.linalg.norm(weight))
    return float(np.linalg.norm(restored - weight)) / norm if norm else 0.0

"""What a model is, whoever wrote it: contents, layers, claims, and what stands in its way."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import TYPE_CHECKING

from gpusq_compiler.analysis.contents import contents_of
from gpusq_compiler.analysis.weights import weighted_layers
from gpusq_compiler.analysis.words import count, plural, share, size
from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir import claims
from gpusq_compiler.passes import facts
from gpusq_compiler.plain import FORMAT, plain
from gpusq_compiler.trt.legality.legal import lint
from gpusq_compiler.trt.legality.rules import NEWEST, Version
from gpusq_compiler.trt.legality.taken import as_taken

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx_ir as ir

    from gpusq_compiler.analysis.contents import Contents
    from gpusq_compiler.analysis.weights import WeightedLayer
    from gpusq_compiler.trt.legality.rules import Diagnosis

HEADINGS = (
    "layer",
    "weight",
    "zeros",
    "2:4",
    "weight, input, output",
    "runs in",
    "sparse kernels",
)
FIGURES = ("zeros",)
"""Headings of columns that hold numbers."""
ODD = (AssertionError, LookupError, AttributeError, RuntimeError, TypeError, ValueError)
"""What looking at a model may stumble over that cannot be worked on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over all layers; a weight that several layers share counts once.

    Attributes:
        layers: Products with a constant weight.
        parameters: Values of their weights.
        zeros: Share of these that is zero.
        sparse_layers: Layers whose weight is 2:4 along the axis that they sum over.
        sparse_parameters: Values of those weights.
        quantized_weights: Layers whose weight comes through a quantizer.
        quantized_inputs: Layers whose input does.
        quantized_outputs: Layers whose output goes through one.
        runs_in: Layers by the type in which TensorRT would multiply, as predicted.
        sparse_kernels: Layers for which sparse kernels may be chosen, as predicted.
    """

    layers: int
    parameters: int
    zeros: float
    sparse_layers: int
    sparse_parameters: int
    quantized_weights: int
    quantized_inputs: int
    quantized_outputs: int
    runs_in: Mapping[str, int]
    sparse_kernels: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """Everything that can be seen of a model.

    Attributes:
        contents: What is in the file.
        claims: Tensors that claim a pattern.
        broken: Claims that their values do not keep.
        tensorrt: Whose rules ``findings`` and predictions follow.
        layers: Every product with a constant weight; None where the model cannot be worked on
            and is too odd to tell.
        totals: Over the layers.
        findings: What TensorRT would refuse, run in float or not run sparse; None as layers.
    """

    contents: Contents
    claims: int
    broken: tuple[str, ...]
    tensorrt: str
    layers: tuple[WeightedLayer, ...] | None
    totals: Totals | None
    findings: tuple[Diagnosis, ...] | None

    def as_json(self) -> dict[str, object]:
        """Everything as plain values."""
        rows = None if self.layers is None else [plain(layer) for layer in self.layers]
        found = None if self.findings is None else [one.as_json() for one in self.findings]
        return {
            "format": FORMAT,
            "contents": plain(self.contents),
            "claims": {"sparse": self.claims, "broken": list(self.broken)},
            "layers": rows,
            "totals": plain(self.totals),
            "tensorrt": {"version": self.tensorrt, "findings": found},
        }

    def rows(self) -> list[tuple[str, ...]]:
        """The table of layers for people, under `HEADINGS`."""
        return [_row(layer) for layer in self.layers or ()]

    def head(self) -> Iterator[str]:
        """The file, in lines."""
        found = self.contents
        opsets = ", ".join(f"{domain} {number}" for domain, number in found.opsets.items())
        by = f", written by {found.producer}" if found.producer else ""
        yield f"{size(found.bytes)}, opset {opsets}, IR version {found.ir_version}{by}"
        if found.data_files:
            yield f"weights in {', '.join(found.data_files)}"
        if found.complaint is not None:
            yield f"cannot be worked on: {found.complaint}"
        yield from (f"input   {end}" for end in found.inputs)
        yield from (f"output  {end}" for end in found.outputs)
        total = sum(found.operators.values())
        listed = (f"{number} {name}" for name, number in found.operators.items())
        yield f"{plural(total, 'node')}: {', '.join(listed)}"
        for name, nodes in found.functions.items():
            yield f"function {name}: {plural(nodes, 'node')}"
        for one in found.constants:
            values = f"{count(one.values)} values in {plural(one.tensors, 'tensor')}"
            yield f"{one.dtype:8} {values}, {size(one.bytes)}"
        yield from self._notes()

    def _notes(self) -> Iterator[str]:
        """What the model says of itself, and whether that is true."""
        metadata = self.contents.metadata
        if self.contents.recipe:
            yield f"compiled by gpusq: {', '.join(self.contents.recipe)}"
        if self.contents.packed:
            yield f"{plural(len(self.contents.packed), 'weight')} packed, shown unpacked"
        accuracy = metadata.get(claims.PREFIX + "accuracy")
        if accuracy is not None:
            yield f"accuracy {accuracy}"
        if self.claims or self.broken:
            kept = "all keep it" if not self.broken else f"broken: {self.broken[0]}"
            yield f"{plural(self.claims, 'tensor')} claim a pattern, {kept}"
        others = [key for key in metadata if not key.startswith(claims.PREFIX)]
        if others:
            yield f"notes: {', '.join(others)}"

    def tail(self) -> Iterator[str]:
        """Sums over the layers, and what stands in their way, in lines."""
        if self.layers is None or self.totals is None or self.findings is None:
            yield "too odd to tell more of it"
            return
        sums = self.totals
        if sums.layers:
            yield from self._sums(sums)
        else:
            yield "no product with a constant weight"
        yield from _told(self.findings, self.tensorrt)

    def _sums(self, sums: Totals) -> Iterator[str]:
        """How sparse and how quantized, and why layers run on no sparse kernel."""
        yield (
            f"{plural(sums.layers, 'layer')}, {count(sums.parameters)} weights, "
            f"{sums.zeros:.1%} of them zero; 2:4 where sparse kernels want it: "
            f"{plural(sums.sparse_layers, 'layer')}, "
            f"{share(sums.sparse_parameters, sums.parameters)} of the weights"
        )
        yield (
            f"quantized: {plural(sums.quantized_weights, 'weight')}, "
            f"{plural(sums.quantized_inputs, 'input')}, "
            f"{plural(sums.quantized_outputs, 'output')}"
        )
        held = self.layers or ()
        narrow = sum(bool(layer.drawback) for layer in held if layer.sparse_kernel)
        doubt = f", {narrow} of them narrow: dense ones tend to win there" * bool(narrow)
        able = plural(sums.sparse_kernels, "layer")
        yield f"predicted for TensorRT {self.tensorrt}: sparse kernels may run {able}{doubt}"
        reasons = Counter(
            layer.drawback.partition(": ")[0] for layer in held if not layer.sparse_kernel
        )
        for reason, number in reasons.most_common():
            yield f"  {plural(number, 'layer')}: {reason}"


def inspect(
    model: ir.Model, *, complaint: str | None = None, version: Version = NEWEST
) -> Inspection:
    """Look at a model that was loaded from a file, by whatever tool.

    Args:
        model: Left as it is.
        complaint: What `ir.soundness` says against it; such a model is looked at as far as it
            goes.
        version: Of TensorRT, whose rules hold.
    """
    number, broken = _claims(model)
    layers: tuple[WeightedLayer, ...] | None = None
    findings: tuple[Diagnosis, ...] | None = None
    try:
        layers, findings = weighted_layers(model, version), lint(as_taken(model), version)
    except ODD:
        if complaint is None:
            raise
    return Inspection(
        contents=contents_of(model, complaint=complaint),
        claims=number,
        broken=broken,
        tensorrt=str(version),
        layers=layers,
        totals=None if layers is None else _totals(layers),
        findings=findings,
    )


def _claims(model: ir.Model) -> tuple[int, tuple[str, ...]]:
    """How many tensors claim a pattern, and what speaks against their claims."""
    held = (v for graph in model.graphs() for v in graph.initializers.values())
    number = sum(claims.SPARSITY in value.metadata_props for value in held)
    try:
        return number, tuple(map(str, facts.broken_claims(model)))
    except ModelError as error:  # a claim that nobody can read
        return number, (str(error),)


def _totals(layers: Sequence[WeightedLayer]) -> Totals:
    unique = list({layer.weight: layer for layer in layers}.values())
    sizes = [math.prod(layer.shape) for layer in unique]
    zeros = sum(layer.zeros * size for layer, size in zip(unique, sizes, strict=True))
    pairs = zip(unique, sizes, strict=True)
    return Totals(
        layers=len(layers),
        parameters=sum(sizes),
        zeros=zeros / sum(sizes) if sum(sizes) else 0.0,
        sparse_layers=sum(layer.sparse for layer in layers),
        sparse_parameters=sum(size for layer, size in pairs if layer.sparse),
        quantized_weights=sum(layer.weight_quantizer is not None for layer in layers),
        quantized_inputs=sum(layer.input_quantizer is not None for layer in layers),
        quantized_outputs=sum(layer.output_quantized for layer in layers),
        runs_in=dict(Counter(layer.runs_in for layer in layers)),
        sparse_kernels=sum(layer.sparse_kernel for layer in layers),
    )


def _row(layer: WeightedLayer) -> tuple[str, ...]:
    shape = "x".join(map(str, layer.shape))
    quantizers = (layer.weight_quantizer, layer.input_quantizer)
    ends = ["float" if one is None else str(one) for one in quantizers]
    ends.append("quantized" if layer.output_quantized else "float")
    return (
        layer.name,
        f"{layer.operator} {shape}",
        f"{layer.zeros:.1%}",
        layer.pattern,
        "float" if set(ends) == {"float"} else ", ".join(ends),
        layer.runs_in,
        layer.drawback.partition(": ")[0] or "may run it",
    )


def _told(findings: Sequence[Diagnosis], version: str) -> Iterator[str]:
    """What TensorRT would do to the model, one line a rule."""
    by_rule: dict[str, list[Diagnosis]] = {}
    for one in findings:
        by_rule.setdefault(one.rule.name, []).append(one)
    for held in by_rule.values():
        first = held[0]
        more = f" (and {len(held) - 1} more)" * (len(held) > 1)
        what = f"{first.place.where}: {first.place.what}{more}"
        yield f"TensorRT {version}, {first.severity.value}: {what}. {first.remedy}"
    if not findings:
        yield f"TensorRT {version}: nothing to say against it"

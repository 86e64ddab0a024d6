"""What a compile would do to a model: its passes, every layer, and what comes out of it.

Nothing is changed and nothing is measured: sizes and gains are predicted.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.analysis.contents import constants
from gpusq_compiler.analysis.steps import step_of
from gpusq_compiler.analysis.survey import survey
from gpusq_compiler.analysis.words import count, digits, plural, share, size
from gpusq_compiler.calibration.collect import layer_shapes
from gpusq_compiler.errors import DataError
from gpusq_compiler.ir import io
from gpusq_compiler.ir.gemms import operations
from gpusq_compiler.ir.sizes import inferred_shapes
from gpusq_compiler.plain import FORMAT
from gpusq_compiler.runtime.session import fixed_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx_ir as ir

    from gpusq_compiler.analysis.steps import Step
    from gpusq_compiler.analysis.survey import Layer, Survey
    from gpusq_compiler.passes.base import Context, Pass
HEADINGS = ("layer", "weight", "M x N x K", "M MAC", "2:4", "kept", "kB", "sparse kernels")
FIGURES = ("M MAC", "kept", "kB")
"""Headings of columns that hold numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over all layers; a weight that several layers share counts once.

    Attributes:
        layers: Layers with a weight.
        eligible_layers: Those that 2:4 fits.
        paying_layers: Those of them for which sparse kernels are predicted to pay.
        parameters: Values of all constants of the model.
        layer_parameters: Values of the layers' weights.
        eligible_parameters: Values of the eligible layers' weights.
        operations: Multiply-adds per sample, of the layers whose cost is known.
        eligible_operations: Those of eligible layers.
        unknown_operations: Layers whose cost no shape tells.
        kept: Share of the magnitude that stays at most, as a mean over eligible weights.
        weight_bytes: Of all layers' weights.
        weight_bytes_after: The same after the passes, as predicted.
        file_bytes: Of the model's files.
        file_bytes_after: The same after the passes, as predicted.
    """

    layers: int
    eligible_layers: int
    paying_layers: int
    parameters: int
    layer_parameters: int
    eligible_parameters: int
    operations: int
    eligible_operations: int
    unknown_operations: int
    kept: float | None
    weight_bytes: int
    weight_bytes_after: int
    file_bytes: int
    file_bytes_after: int

    @property
    def ratio(self) -> float:
        """How many times smaller the file is predicted to be."""
        return self.file_bytes / self.file_bytes_after


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """A compile, before it runs.

    Attributes:
        notes: What a person should know first.
        passes: In order.
        layers: In graph order.
        totals: Over the layers.
    """

    notes: tuple[str, ...]
    passes: tuple[Step, ...]
    layers: tuple[Layer, ...]
    totals: Totals

    def as_json(self) -> dict[str, object]:
        """Everything as plain values."""
        return {
            "format": FORMAT,
            "notes": list(self.notes),
            "passes": [step.as_json() for step in self.passes],
            "layers": [layer.as_json() for layer in self.layers],
            "totals": {**dataclasses.asdict(self.totals), "ratio": self.totals.ratio},
        }

    def rows(self) -> list[tuple[str, ...]]:
        """The table of layers for people, under `HEADINGS`."""
        return [_row(layer) for layer in self.layers]

    def summary(self) -> Iterator[str]:
        """What it comes to, in a few lines."""
        sums = self.totals
        doubt = f", {sums.unknown_operations} of them of unknown cost"
        yield (
            f"{plural(sums.layers, 'layer')}{doubt * bool(sums.unknown_operations)}: "
            f"{count(sums.layer_parameters)} of {count(sums.parameters)} parameters, "
            f"{count(sums.operations)} multiply-adds per sample"
        )
        yield (
            f"2:4 fits {sums.eligible_layers} of them: "
            f"{share(sums.eligible_parameters, sums.layer_parameters)} of the weights, "
            f"{share(sums.eligible_operations, sums.operations)} of the multiply-adds"
        )
        yield (
            f"predicted: sparse kernels may pay in {sums.paying_layers}; weights "
            f"{size(sums.weight_bytes)} → {size(sums.weight_bytes_after)}, file "
            f"{size(sums.file_bytes)} → {size(sums.file_bytes_after)}, {sums.ratio:.2f}x"
        )


def plan_of(
    model: ir.Model,
    canonical: ir.Model,
    passes: Sequence[Pass],
    ctx: Context,
    notes: Sequence[str] = (),
) -> ModelPlan:
    """Look at a model and at what passes would do to it.

    Args:
        model: As it was loaded from a file.
        canonical: The same in canonical form.
        passes: That would run.
        ctx: Samples, which give the shapes, and the target.
        notes: To be shown first.

    Raises:
        OptionError: A pass refuses its options for this model.
        ModelError: A pass trains, and the runtime does not take the model.
    """
    shapes, batch = _shapes(canonical, ctx), fixed_batch(canonical) or 1
    cost = operations(canonical, shapes, batch)
    steps = tuple(step_of(step, canonical, ctx, cost) for step in passes)
    found = survey(canonical, passes, shapes, batch)
    return ModelPlan(
        notes=tuple(notes),
        passes=steps,
        layers=found.layers,
        totals=_totals(model, canonical, found),
    )


def _shapes(canonical: ir.Model, ctx: Context) -> Mapping[str, Sequence[int]]:
    """Of tensors; where the model does not run on made-up inputs, those that are known."""
    samples = ctx.samples("plan")
    try:
        return layer_shapes(canonical, samples, threads=ctx.threads, device=ctx.device)
    except DataError:
        if not ctx.synthesised:
            raise
        return inferred_shapes(canonical, {})


def _totals(model: ir.Model, canonical: ir.Model, found: Survey) -> Totals:
    eligible = [layer for layer in found.layers if layer.eligible]
    unique, chosen = _unique(found.layers), _unique(eligible)
    dense = sum(layer.bytes for layer in unique)
    file, stored = io.source_size(model), sum(int(one.nbytes) for one in constants(model))
    known = [(layer.kept, layer.parameters) for layer in chosen if layer.kept is not None]
    weights = sum(values for _, values in known)
    return Totals(
        layers=len(found.layers),
        eligible_layers=len(eligible),
        paying_layers=sum(layer.pays for layer in eligible),
        parameters=sum(tensor.size for tensor in constants(canonical)),
        layer_parameters=sum(layer.parameters for layer in unique),
        eligible_parameters=sum(layer.parameters for layer in chosen),
        operations=sum(layer.operations or 0 for layer in found.layers),
        eligible_operations=sum(layer.operations or 0 for layer in eligible),
        unknown_operations=sum(layer.operations is None for layer in found.layers),
        kept=sum(kept * values for kept, values in known) / weights if weights else None,
        weight_bytes=dense,
        weight_bytes_after=found.bytes_after,
        file_bytes=file,
        file_bytes_after=file - stored + found.bytes_after + found.others_after,
    )


def _unique(layers: Sequence[Layer]) -> list[Layer]:
    """One layer for every weight."""
    return list({layer.weight: layer for layer in layers}.values())


def _row(layer: Layer) -> tuple[str, ...]:
    cost, shape = layer.operations, "x".join(map(str, layer.shape))
    return (
        layer.name,
        f"{layer.operator} {shape}".rstrip(),
        "" if layer.gemm is None else str(layer.gemm),
        "" if cost is None else digits(cost / 1e6),
        f"axis {layer.axis}" if layer.eligible else "no",
        "" if layer.kept is None else f"{layer.kept:.1%}",
        f"{digits(layer.bytes / 1e3)} → {digits(layer.bytes_after / 1e3)}",
        layer.rule or layer.drawback.partition(": ")[0] or "may pay",
    )

"""Every layer with a weight: what it multiplies, whether 2:4 fits it, what it will take.

What is eligible is asked of `passes.prune`, so that a plan says what a run does.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.analysis import storage
from gpusq_compiler.analysis.contents import constants
from gpusq_compiler.ir import query
from gpusq_compiler.ir.gemms import gemm_of
from gpusq_compiler.passes.prune import Prune, ineligible
from gpusq_compiler.passes.selection import Selection
from gpusq_compiler.passes.untouched import untouched
from gpusq_compiler.sparsity.masking import kept_magnitude
from gpusq_compiler.sparsity.nm import NM, mask_of
from gpusq_compiler.trt.engines.prediction import drawback
from gpusq_compiler.trt.legality.layers import as_read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir

    from gpusq_compiler.ir.gemms import Gemm, Shapes
    from gpusq_compiler.passes.base import Finding, Pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer with a weight, before anything is done to it.

    Attributes:
        name: The node.
        operator: Its operator.
        weight: The initializer.
        dtype: Its type.
        shape: Of the weight, as the node reads it; empty where it has several.
        axis: Which of its axes the product sums over.
        gemm: The product that it is, for one sample.
        parameters: Values of the weight.
        eligible: Whether `prune` takes it.
        rule: The rule that says no; empty where none does.
        reason: The same in a sentence.
        kept: Share of the sum of magnitudes that the pattern keeps at most; None where it is
            not eligible.
        drawback: Why no sparse kernel takes it, or why it tends to lose: predicted from the
            shape. Empty where it may pay.
        bytes: Of the weight now.
        bytes_after: Of what the passes make of it, as predicted.
    """

    name: str
    operator: str
    weight: str
    dtype: str
    shape: tuple[int, ...]
    axis: int | None
    gemm: Gemm | None
    parameters: int
    eligible: bool
    rule: str
    reason: str
    kept: float | None
    drawback: str
    bytes: int
    bytes_after: int

    @property
    def operations(self) -> int | None:
        """Multiply-adds per sample; None where shapes do not tell."""
        return None if self.gemm is None else self.gemm.operations

    @property
    def pays(self) -> bool:
        """Whether a sparse kernel is predicted to pay."""
        return self.eligible and not self.drawback

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        gemm = found.pop("gemm")
        sides = dict.fromkeys("mnk") if gemm is None else dataclasses.asdict(gemm)
        derived = {"operations": self.operations, "pays": self.pays}
        return {**found, "shape": list(self.shape), **sides, **derived}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """All layers of a model.

    Attributes:
        layers: In graph order, then those that no pass knows.
        bytes_after: Of all weights together after the passes, as predicted.
        others_after: Of all other constants, likewise.
    """

    layers: tuple[Layer, ...]
    bytes_after: int
    others_after: int


def survey(
    canonical: ir.Model, passes: Sequence[Pass], shapes: Shapes, batch: int = 1
) -> Survey:
    """Look at every layer.

    Weights are read one after the other, so that a model larger than memory can be looked at.

    Args:
        canonical: The model in canonical form.
        passes: That would run.
        shapes: Of its tensors, by name.
        batch: How many samples the shapes are for.

    Raises:
        OptionError: An entry of ``include`` or ``exclude`` matches nothing.
    """
    prune = next((step for step in passes if isinstance(step, Prune)), Prune())
    pattern, uses = NM.parse(prune.pattern), list(query.weight_uses(canonical))
    selection = Selection(prune.include, prune.exclude, uses, owner=prune.name)
    verdicts = [ineligible(use, pattern, selection) for use in uses]
    chosen = [use for use, no in zip(uses, verdicts, strict=True) if no is None]
    outlook = storage.Outlook(canonical, uses, passes, chosen)
    forms = outlook.forms()
    known = tuple(
        _layer(use, gemm_of(use, shapes, batch), finding, pattern, form.bytes)
        for use, finding, form in zip(uses, verdicts, forms, strict=True)
    )
    unknown = _unknown(canonical, outlook)
    return Survey(
        layers=(*known, *unknown),
        bytes_after=outlook.total(forms) + sum(layer.bytes_after for layer in unknown),
        others_after=sum(map(outlook.narrowed, _others(canonical, uses))),
    )


def _layer(
    use: query.WeightUse, gemm: Gemm, finding: Finding | None, pattern: NM, after: int
) -> Layer:
    tensor = use.value.const_value
    assert tensor is not None
    return Layer(
        name=use.node.name or "",
        operator=use.node.op_type,
        weight=use.value.name or "",
        dtype=tensor.dtype.name.lower(),
        shape=use.shape,
        axis=use.reduction,
        gemm=gemm,
        parameters=int(tensor.size),
        eligible=finding is None,
        rule="" if finding is None else finding.rule,
        reason="" if finding is None else finding.reason,
        kept=None if finding is not None else _kept(use, pattern),
        drawback=drawback(use) if finding is None else "",
        bytes=int(tensor.nbytes),
        bytes_after=after,
    )


def _kept(use: query.WeightUse, pattern: NM) -> float | None:
    weight = as_read(use)
    if weight is None:
        return None
    return kept_magnitude(weight, mask_of(abs(weight), pattern, axis=use.reduction))


def _others(model: ir.Model, uses: Sequence[query.WeightUse]) -> Iterator[ir.TensorProtocol]:
    """The constants that are no layer's weights."""
    weights: set[object] = {use.value.const_value for use in uses}
    for node, _ in query.other_weights(model):
        weights.update(query.float_tensors(node))
    yield from (tensor for tensor in constants(model) if tensor not in weights)


def _unknown(model: ir.Model, outlook: storage.Outlook) -> list[Layer]:
    """Layers whose weights pass through as they are."""
    nodes = (node for node, _ in query.other_weights(model))
    found = []
    for node, finding in zip(nodes, untouched(model), strict=True):
        tensors = query.float_tensors(node)
        found.append(
            Layer(
                name=node.name or "",
                operator=node.op_type,
                weight=", ".join(tensor.name or "" for tensor in tensors),
                dtype=tensors[0].dtype.name.lower(),
                shape=(),
                axis=None,
                gemm=None,
                parameters=sum(tensor.size for tensor in tensors),
                eligible=False,
                rule=finding.rule,
                reason=finding.reason,
                kept=None,
                drawback="",
                bytes=sum(int(tensor.nbytes) for tensor in tensors),
                bytes_after=sum(map(outlook.narrowed, tensors)),
            )
        )
    return found

"""Which layers of an engine are sparse INT8, as far as anybody can tell: one table.

`predicted` needs a model and nothing else. `measured` adds what TensorRT said while it built,
and what the engine says of itself: the log line ``(Sparsity) Chose`` or a tactic with a sparse
name makes a layer *chosen*, nothing else does. A layer that is eligible is only that.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from gpusq_compiler.trt.engines import buildlog
from gpusq_compiler.trt.engines.prediction import Layer, predict
from gpusq_compiler.trt.legality.rules import NEWEST, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx_ir as ir

    from gpusq_compiler.trt.engines.enginelayers import EngineLayer
    from gpusq_compiler.trt.engines.names import NodeNames

PREDICTED, MEASURED = "predicted", "measured"
HEADINGS = ("layer", "weight", "types", "eligible", "chosen", "kernel, or what says no")
SLOWER = "TensorRT found a dense kernel faster"
SPARSE_CAPABILITY = (8, 0)
"""Sparse tensor cores come with Ampere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """The table, and how it came about.

    Attributes:
        basis: ``predicted`` or ``measured``.
        layers: Every product with a constant weight, in graph order.
        pairs: What the log said of sparsity; more than one pair where parts of the network
            were compiled on their own.
    """

    basis: str
    layers: tuple[Layer, ...]
    pairs: tuple[buildlog.Pair, ...] = ()

    @property
    def eligible(self) -> int:
        """Layers whose weights have the pattern."""
        return sum(layer.eligible is True for layer in self.layers)

    @property
    def chosen(self) -> int:
        """Layers that run on a sparse kernel."""
        return sum(layer.chosen is True for layer in self.layers)

    @property
    def chosen_int8(self) -> int:
        """Those of them that read and write INT8."""
        return sum(
            layer.chosen is True and layer.reads == layer.writes == "int8"
            for layer in self.layers
        )

    @property
    def possible(self) -> int:
        """Layers for which a sparse kernel may be chosen, as far as is known."""
        return sum(layer.eligible is True and layer.chosen is None for layer in self.layers)

    @property
    def precisions(self) -> Mapping[str, int]:
        """How many layers multiply in which type."""
        return Counter(layer.reads for layer in self.layers)

    def rows(self) -> list[tuple[str, ...]]:
        """The table for people, under `HEADINGS`."""
        return [
            (
                layer.name,
                f"{layer.operator} {'x'.join(map(str, layer.shape))}",
                f"{layer.reads} → {layer.writes}",
                {True: "yes", False: "no", None: "?"}[layer.eligible],
                self._chosen(layer),
                "; ".join(filter(None, (layer.tactic, layer.reason))),
            )
            for layer in self.layers
        ]

    def _chosen(self, layer: Layer) -> str:
        if layer.chosen is None:
            return "may be" if self.basis == PREDICTED else "?"
        return "yes" if layer.chosen else "no"

    def summary(self) -> str:
        """One line that claims no more than is known."""
        counted = f"{self.basis}: {len(self.layers)} layers, {self.eligible} eligible"
        if self.basis == PREDICTED:
            return f"{counted}, {self.possible} of them may become sparse; chosen: not known"
        unknown = f", {self.possible} not known" if self.possible else ""
        return f"{counted}, {self.chosen} chosen ({self.chosen_int8} in INT8){unknown}"


def predicted(model: ir.Model, version: Version = NEWEST) -> Evidence:
    """What can be known of a model before anything is built."""
    return Evidence(basis=PREDICTED, layers=predict(model, version))


def measured(
    model: ir.Model,
    lines: Iterable[str],
    engine: Sequence[EngineLayer],
    names: NodeNames,
    version: Version = NEWEST,
) -> Evidence:
    """The prediction, corrected by what a build said.

    Args:
        model: That the engine was built from.
        lines: The builder's log.
        engine: The layers of the engine; empty where they are not at hand.
        names: Of the nodes of the model.
        version: Of the TensorRT that built.
    """
    pairs = buildlog.sparsity_pairs(lines)
    found = tuple(
        _corrected(layer, pairs, product_of(layer.name, engine), names)
        for layer in predict(model, version)
    )
    return Evidence(basis=MEASURED, layers=found, pairs=pairs)


def without_sparse_cores(evidence: Evidence, capability: tuple[int, int]) -> Evidence:
    """The table for a GPU: where it has no sparse tensor cores, that is the reason."""
    if capability >= SPARSE_CAPABILITY:
        return evidence
    reason = f"the GPU has compute capability {capability[0]}.{capability[1]}, below 8.0"
    layers = (
        dataclasses.replace(layer, reason=reason, chosen=False) if layer.eligible else layer
        for layer in evidence.layers
    )
    return dataclasses.replace(evidence, layers=tuple(layers))


def product_of(name: str, engine: Sequence[EngineLayer]) -> EngineLayer | None:
    """The engine's layer that does a node's product, else a kernel or part that holds it."""
    holding = [one for one in engine if name in one.nodes]
    for kind in ("is_product", "is_fusion", "is_foreign"):
        for one in holding:
            if getattr(one, kind):
                return one
    return None


def _corrected(
    layer: Layer,
    pairs: Sequence[buildlog.Pair],
    main: EngineLayer | None,
    names: NodeNames,
) -> Layer:
    eligible, chosen = _logged(layer.name, pairs, names)
    if main is not None:
        # A sparse name of a tactic is proof; another name is one where the log is silent.
        chosen = True if main.is_sparse else main.is_sparse if chosen is None else chosen
        eligible = main.sparse_weights if eligible is None else eligible
    eligible = True if chosen else eligible
    told = main if main is not None and main.is_product else None
    return dataclasses.replace(
        layer,
        reads=told.factors[0] if told and told.factors else layer.reads,
        writes=told.outputs[0] if told and told.outputs else layer.writes,
        eligible=eligible,
        chosen=chosen,
        tactic="" if main is None else main.tactic,
        reason=_reason(layer, eligible=eligible, chosen=chosen),
    )


def _logged(
    name: str, pairs: Sequence[buildlog.Pair], names: NodeNames
) -> tuple[bool | None, bool | None]:
    """Whether a layer is eligible and chosen according to the log; None where it is silent.

    Where the builder tried again, the last pair that names the layer counts.
    """
    eligible: bool | None = None
    chosen: bool | None = None
    complete = bool(pairs)
    for pair in pairs:
        able, all_able = _listed(pair.eligible, names)
        taken, all_taken = _listed(pair.chosen, names)
        complete = complete and all_able
        if name in able | taken:
            eligible = True
            chosen = name in taken or (False if all_taken else None)
    if eligible is None and complete:
        return False, False
    if (
        eligible is None
        and pairs
        and all(pair.chosen and not pair.chosen.count for pair in pairs)
    ):
        return None, False
    return eligible, chosen


def _listed(said: buildlog.Said | None, names: NodeNames) -> tuple[frozenset[str], bool]:
    """The nodes that a line names, and whether these are all that it speaks of."""
    if said is None or said.text is None:
        return frozenset(), False
    return names.listed(said.text)


def _reason(layer: Layer, *, eligible: bool | None, chosen: bool | None) -> str:
    if chosen:
        return ""
    if eligible is None:
        return "neither log nor engine names it"
    if not eligible:
        return "TensorRT does not see the pattern" if layer.eligible else layer.reason
    if not layer.eligible:
        return f"predicted otherwise: {layer.reason}"
    if chosen is None:
        return "log and engine do not tell its kernel"
    return layer.reason or SLOWER

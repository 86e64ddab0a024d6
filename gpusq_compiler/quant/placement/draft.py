"""The sites placed so far: one per tensor and scheme, with their shared scales."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.ir import query
from gpusq_compiler.quant.placement import gemms
from gpusq_compiler.quant.placement.sites import Refusal, SharedScale, Site
from gpusq_compiler.quant.placement.topology import commutes, origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx_ir as ir

    from gpusq_compiler.quant.scheme import QuantScheme

MOVE = "integer-move"
KEPT = frozenset({gemms.RULE, MOVE})
"""Rules whose pairs on what arrives quantized stay, with the scale of what arrives."""


class Draft:
    """Collects what rules answer; a tensor that several rules want gets one pair."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self._sites: dict[tuple[ir.Value, str], Site] = {}
        self._repeats: list[Site] = []
        self._pairs: dict[ir.Value, set[tuple[ir.Node, int]]] = {}
        self._share: dict[ir.Value, ir.Value] = {}

    @property
    def sites(self) -> tuple[Site, ...]:
        """Pairs whose scale is calibrated or known, in the order they were first wanted."""
        return tuple(self._sites.values())

    @property
    def repeats(self) -> tuple[Site, ...]:
        """Pairs on what arrives quantized; they repeat its scale and need no range."""
        return tuple(self._repeats)

    def take(self, answers: Iterable[Site | SharedScale | Refusal]) -> None:
        """Add what a rule answers."""
        for answer in answers:
            if isinstance(answer, Refusal):
                self.refusals.append(answer)
            elif isinstance(answer, Site):
                self._add(answer)
            else:
                self._join_scales(answer.values)

    def _add(self, site: Site) -> None:
        key = (site.value, str(site.scheme))
        if key in self._sites:
            known = self._sites[key]
            readers = tuple(dict.fromkeys((*known.readers, *site.readers)))
            rules = dict.fromkeys((*known.rule.split(", "), site.rule))
            site = dataclasses.replace(known, readers=readers, rule=", ".join(rules))
        self._sites[key] = site
        if not site.weight:
            self._pairs.setdefault(site.value, set()).update(site.readers)

    def _join_scales(self, values: Iterable[ir.Value]) -> None:
        first, *others = (self.scale_of(value) for value in values)
        self._share.update((root, first) for root in others if root != first)

    def scale_of(self, value: ir.Value) -> ir.Value:
        """The tensor whose scale this tensor's pair reads: itself, if it shares none."""
        while value in self._share:
            value = self._share[value]
        return value

    def carrier(self, node: ir.Node, index: int) -> ir.Value | None:
        """The tensor whose pair quantizes what this input reads; None where it is float.

        Operators that only move or select values hand codes through; Concat does where all
        its inputs have one scale.
        """
        value = node.inputs[index]
        if value is None or (node, index) in self._pairs.get(value, ()):
            return value
        producer = value.producer()
        if producer is not None and commutes(producer):
            return self.carrier(producer, 0)
        if producer is not None and query.is_op(producer, "Concat"):
            return self._joint_carrier(producer)
        return None

    def _joint_carrier(self, join: ir.Node) -> ir.Value | None:
        carriers = [self.carrier(join, index) for index in range(len(join.inputs))]
        scales = {self.scale_of(value) if value else None for value in carriers}
        return carriers[0] if len(scales) == 1 else None

    def wanted_sources(self) -> set[ir.Value]:
        """Tensors that reach a quantizer with nothing but moves between."""
        activations = (site for site in self.sites if not site.weight)
        return {origin(*site.readers[0])[0] for site in activations}

    def settle_superfluous(self) -> None:
        """Of pairs on what arrives quantized, keep those that kernels read, as repeats.

        They share the scale of what arrives: quantizing codes again changes no value. A second
        pair that nobody wants adds nothing but a barrier and goes.
        """
        for key, site in list(self._sites.items()):
            carrier = None if site.weight else self._arriving(site.value)
            if carrier is None:
                continue
            self._join_scales((carrier, site.value))
            del self._sites[key]
            if KEPT.intersection(site.rule.split(", ")):
                self._repeats.append(site)

    def refit(self, schemes: Mapping[ir.Value, QuantScheme]) -> None:
        """Give activations other quantizers, and those the same that repeat their scale."""
        fitted = [
            site
            if site.weight
            else dataclasses.replace(site, scheme=schemes.get(site.value, site.scheme))
            for site in self._sites.values()
        ]
        self._sites = {(site.value, str(site.scheme)): site for site in fitted}
        self._repeats = [
            dataclasses.replace(
                site, scheme=schemes.get(self.scale_of(site.value), site.scheme)
            )
            for site in self._repeats
        ]

    def _arriving(self, value: ir.Value) -> ir.Value | None:
        """The tensor whose codes a tensor holds, moved or joined; None where it is float."""
        producer = value.producer()
        if producer is None:
            return None
        if commutes(producer):
            return self.carrier(producer, 0)
        return self._joint_carrier(producer) if query.is_op(producer, "Concat") else None

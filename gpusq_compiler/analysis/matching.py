"""Which tensors of two models are the same: by name, and through the renames of quantizers.

    t ──▶ t                                       one name
    t ──▶ DequantizeLinear(QuantizeLinear(t))     where all read t quantized: what they see is
                                                  compared, for a tool may leave a Relu to it
    t.dequantized ──▶ t_DequantizeLinear_Output   both are t, quantized, whatever their names
    t ──▶ t_DequantizeLinear_Output               where the second model has no t

A rename counts only where it leaves one candidate on both sides.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING

from gpusq_compiler.calibration.walk import reads
from gpusq_compiler.ir import query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import onnx_ir as ir

SUFFIXES = (
    ".dequantized",
    "_DequantizeLinear_Output",
    "_QuantizeLinear_Input",
    "_dequantized",
)
"""What quantizing tools put behind the name of a tensor: this one, ONNX Runtime's and those
that are built on it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """One tensor of two models.

    Attributes:
        name: In the first model.
        other: In the second one.
        node: What computes it in the first model.
        operator: Of that node.
        sources: The nearest tensors that it is computed from and that are matched, too, by
            their names in the first model.
    """

    name: str
    other: str
    node: str
    operator: str
    sources: frozenset[str] = frozenset()


def matched(first: ir.Model, second: ir.Model) -> tuple[Pair, ...]:
    """Float tensors that both models compute from their inputs, in the order of the first.

    Bodies of If and Loop and functions are not looked into.
    """
    ours, theirs = _computed(first), _computed(second)
    common = [name for name in ours if name in theirs]
    others = dict(_as_read(ours[name], theirs[name]) for name in common)
    for key in (_quantized, _root):
        known = {*common, *others}
        rest = [value for name, value in ours.items() if name not in known]
        taken = {*common, *others.values()}
        free = [value for name, value in theirs.items() if name not in taken]
        others |= _renamed(rest, free, key)
    return tuple(_pairs(first, others))


def _computed(model: ir.Model) -> dict[str, ir.Value]:
    """Float outputs of nodes that depend on an input."""
    live: set[ir.Value | None] = set(model.graph.inputs)
    live -= set(model.graph.initializers.values())
    found: dict[str, ir.Value] = {}
    for node in model.graph:
        if not live.isdisjoint(reads(node)):
            live.update(node.outputs)
            found |= {
                value.name: value
                for value in node.outputs
                if value.name and (value.dtype is None or value.dtype in query.FLOATS)
            }
    return found


def _as_read(ours: ir.Value, theirs: ir.Value) -> tuple[str, str]:
    """What readers see of a tensor in both models, by name."""
    first, second = (_behind_pair(value) or value for value in (ours, theirs))
    return first.name or "", second.name or ""


def _behind_pair(value: ir.Value) -> ir.Value | None:
    """The one result of the quantizers that everybody reads a tensor through, if so."""
    if value.is_graph_output():
        return None
    seen = value.uses()
    for operator in ("QuantizeLinear", "DequantizeLinear"):
        results = {node.outputs[0] for node, _ in seen}
        if not seen or not all(query.is_op(n, operator) and index == 0 for n, index in seen):
            return None
        if operator == "DequantizeLinear":
            return results.pop() if len(results) == 1 else None
        seen = tuple(use for result in results for use in result.uses())
    return None


def _renamed(
    ours: Iterable[ir.Value],
    theirs: Iterable[ir.Value],
    key: Callable[[ir.Value], str],
) -> dict[str, str]:
    """Names on both sides of what has one key, where it has one holder on each."""
    sides: tuple[dict[str, list[str]], ...] = (defaultdict(list), defaultdict(list))
    for side, values in zip(sides, (ours, theirs), strict=True):
        for value in values:
            side[key(value)].append(value.name or "")
    first, second = sides
    return {
        first[name][0]: second[name][0]
        for name in first.keys() & second.keys()
        if name and len(first[name]) == len(second[name]) == 1
    }


def _quantized(value: ir.Value) -> str:
    """The tensor that a pair of quantizers gives back; empty for anything else."""
    for operator in ("DequantizeLinear", "QuantizeLinear"):
        producer = value.producer()
        if (
            not query.is_op(producer, operator)
            or producer is None
            or producer.inputs[0] is None
        ):
            return ""
        value = producer.inputs[0]
    return _root(value)


def _root(value: ir.Value) -> str:
    """A name without what a quantizing tool put behind it."""
    name = value.name or ""
    ending = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    return name.removesuffix(ending)


def _pairs(model: ir.Model, others: dict[str, str]) -> Iterable[Pair]:
    above: dict[ir.Value, frozenset[str]] = {}
    for node in model.graph:
        sources = frozenset[str]().union(*(above.get(v, frozenset()) for v in reads(node)))
        for value in node.outputs:
            name = value.name or ""
            above[value] = frozenset({name}) if name in others else sources
            if name in others:
                yield Pair(
                    name=name,
                    other=others[name],
                    node=node.name or "",
                    operator=node.op_type,
                    sources=sources,
                )

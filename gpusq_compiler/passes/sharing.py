"""Weights that several layers read: one pattern serves all, or each gets its own copy."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from gpusq_compiler.ir import edit, own, query
from gpusq_compiler.passes.base import Finding

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.ir.query import WeightUse

Key = tuple[int, int]


def separate(model: ir.Model, chosen: list[WeightUse]) -> list[Finding]:
    """Make sure that changing the chosen uses' weights changes nothing else.

    A weight behind layout operators is stored as its layers read it. A weight that layers
    read along the same axis stays one; along another axis, or read by something that is not
    chosen (an embedding's Gather, an excluded layer), the chosen layers get a copy.

    Args:
        model: Edited; ask `query.weight_uses` again afterwards.
        chosen: Uses whose weights are about to change.

    Returns:
        One finding per copy, with the bytes that it costs.
    """
    names, findings = edit.Names(model), []
    wanted = {_key(use) for use in chosen}
    for use in chosen:
        operand = use.node.inputs[use.operand]
        if use.relaid and not use.quantized and operand is not use.value:
            grown = own.straighten(use, names)
            if grown:
                findings.append(_copied(use, grown, "something else reads it in another form"))
    again = [use for use in query.weight_uses(model) if _key(use) in wanted and not use.relaid]
    by_value: dict[ir.Value, list[WeightUse]] = defaultdict(list)
    for use in again:
        by_value[use.value].append(use)
    for value, sharing in by_value.items():
        findings += _split(value, sharing, names)
    return findings


def _split(value: ir.Value, sharing: list[WeightUse], names: edit.Names) -> list[Finding]:
    by_axis: dict[int, list[WeightUse]] = defaultdict(list)
    for use in sharing:
        by_axis[use.reduction].append(use)
    chosen = {use.reader for use in sharing}
    others = set(value.uses()) - chosen
    if value.is_graph_output():
        reason = "it is also an output of the model"
    elif others:
        reason = f"{next(iter(others))[0].name} reads it too"
    else:
        reason = "another layer reduces along another axis"
    groups = list(by_axis.values())
    kept = 0 if others or value.is_graph_output() else 1
    findings = []
    for group in groups[kept:]:
        readers = list(dict.fromkeys(use.reader for use in group))
        twin = own.copy(value, readers, names)
        assert twin.const_value is not None
        findings.append(_copied(group[0], int(twin.const_value.nbytes), reason))
    return findings


def _key(use: WeightUse) -> Key:
    return id(use.node), use.operand


def _copied(use: WeightUse, grown: int, reason: str) -> Finding:
    return Finding(
        rule="copied-weight",
        where=use.node.name or "",
        reason=f"got its own copy of '{use.value.name}', {grown} bytes more: {reason}",
    )

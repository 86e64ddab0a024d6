"""The outputs of sparse layers: a sparse INT8 kernel reads and writes INT8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.ir import claims
from gpusq_compiler.quant.placement.attention import float_attentions
from gpusq_compiler.quant.placement.sites import Refusal, Site
from gpusq_compiler.quant.placement.topology import float_reader, readers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from gpusq_compiler.quant.placement.draft import Draft
    from gpusq_compiler.quant.placement.scene import Scene

RULE = "sparse-output"


def sparse_output(scene: Scene, draft: Draft) -> Iterator[Site | Refusal]:
    """One pair at the end of the epilogue of a layer whose weight is sparse.

    GEMM ─▶ bias ─▶ activation ─▶ Q ─▶ DQ ─▶
    GEMM ─▶ bias ─▶ Q ─▶ DQ ─▶ Add ◀─ residual stream, which stays float
    """
    del draft
    left = float_attentions(scene)
    for use in scene.layers:
        end = scene.ends.get(use.node)
        if end is None or end in scene.fused or claims.sparsity_of(use.value) is None:
            continue
        if end in left:
            reason = f"the output goes into attention, which stays float: {left[end]}"
            yield Refusal(rule="float-attention", where=use.node.name or "", reason=reason)
            continue
        refusal = float_end(end)
        yield refusal or output_site(scene, end, RULE)


def output_site(scene: Scene, value: ir.Value, rule: str) -> Site:
    """A pair that everyone reads."""
    scheme, readers = scene.scheme_of(value), readers_of(value)
    return Site(value=value, scheme=scheme, readers=readers, rule=rule)


def float_end(value: ir.Value) -> Refusal | None:
    """Why the output of a layer stays float, if it has to."""
    where = value.name or ""
    if value.is_graph_output():
        reason = "is an output of the model and stays float"
        return Refusal(rule="graph-output", where=where, reason=reason)
    reader = float_reader(value)
    if reader is not None:
        reason = f"goes into {reader.op_type} '{reader.name}', which wants float"
        return Refusal(rule="float-reader", where=where, reason=reason)
    if not readers_of(value):
        return Refusal(rule="unread", where=where, reason="nobody reads the output")
    return None

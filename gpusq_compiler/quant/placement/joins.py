"""Where branches meet: residual Adds of convolutions, Concat, average pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.ir import query
from gpusq_compiler.quant.placement.outputs import float_end, output_site
from gpusq_compiler.quant.placement.sites import Refusal, SharedScale, Site
from gpusq_compiler.quant.placement.topology import end_of, is_computed, origin

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from gpusq_compiler.quant.placement.draft import Draft
    from gpusq_compiler.quant.placement.scene import Scene


def residual_add(scene: Scene, draft: Draft) -> Iterator[Site | Refusal]:
    """A pair on the skip side and one behind the sum, none between convolution and Add.

        skip ─▶ Q ─▶ DQ ─┐
        conv ───────────▶ Add ─▶ Relu ─▶ Q ─▶ DQ ─▶

    A float skip makes the fused kernel write float; a pair between splits conv and Add.
    """
    del draft
    for join in scene.joins.values():
        yield output_site(scene, join.skip, "residual-skip")
        end = end_of(join.add.outputs[0])
        yield float_end(end) or output_site(scene, end, "residual-sum")


def average_pooling(scene: Scene, draft: Draft) -> Iterator[Site | Refusal]:
    """An average between quantized layers reads and writes INT8; maxima just hand it on."""
    wanted = draft.wanted_sources()
    for node in scene.graph:
        if not query.is_op(node, "AveragePool", "GlobalAveragePool"):
            continue
        carrier = draft.carrier(node, 0)
        if carrier is None and node.outputs[0] not in wanted:
            continue
        refusal = float_end(node.outputs[0])
        if refusal is not None:
            yield refusal
            continue
        if carrier is None:
            yield _site_above(scene, node, 0, "average-pooling")
        yield output_site(scene, node.outputs[0], "average-pooling")


def concat(scene: Scene, draft: Draft) -> Iterator[Site | SharedScale]:
    """The inputs of a Concat share one scale, so that joining moves codes.

    a ─▶ Q(s) ─▶ DQ(s) ─┐
    b ─▶ Q(s) ─▶ DQ(s) ─▶ Concat ─▶ conv
    """
    wanted = draft.wanted_sources()
    for node in scene.graph:
        if not query.is_op(node, "Concat") or not all(map(is_computed, node.inputs)):
            continue
        carriers: list[ir.Value] = []
        sites: list[Site] = []
        for index in range(len(node.inputs)):
            carrier = draft.carrier(node, index)
            if carrier is None:
                sites.append(_site_above(scene, node, index, "concat"))
                carrier = sites[-1].value
            carriers.append(carrier)
        if sites and node.outputs[0] not in wanted:
            continue
        yield from sites
        yield SharedScale(values=tuple(dict.fromkeys(carriers)))


def _site_above(scene: Scene, node: ir.Node, index: int, rule: str) -> Site:
    value, reader = origin(node, index)
    return Site(value=value, scheme=scene.activation, readers=(reader,), rule=rule)

"""Attention: queries, keys, values and softmax are quantized together or not at all."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.ir import query
from gpusq_compiler.quant.placement.sites import Refusal, Site
from gpusq_compiler.quant.placement.topology import (
    commutes,
    is_computed,
    is_scalar,
    layers_above,
    readers_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from gpusq_compiler.quant.placement.draft import Draft
    from gpusq_compiler.quant.placement.scene import Scene
    from gpusq_compiler.quant.placement.sites import Reader

RULE = "attention"
SCORES = ("Add", "Cast", "Clip", "Div", "Identity", "Mul", "Reshape", "Sub", "Tanh", "Where")
"""Operators between the product of queries and keys and the softmax: scale, mask, bias."""
HANDED_ON = ("Cast", "Dropout", "Identity", "Reshape")
_FARTHEST = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """``softmax(q k^T) v``.

    Attributes:
        softmax: The node.
        scoring: The product of queries and keys.
        mixing: The product with the values.
        sources: Where q, k and v come from, and who reads them first on the way.
    """

    softmax: ir.Node
    scoring: ir.Node
    mixing: ir.Node
    sources: tuple[tuple[ir.Value, Reader], ...]


def attention(scene: Scene, draft: Draft) -> Iterator[Site | Refusal]:
    """Pairs on what q, k and v come from, before split and reshape, and on the softmax.

    x ─▶ QKV ─▶ Q ─▶ DQ ─▶ split ─▶ q, k, v          one scale for all three
    softmax ─▶ Q ─▶ DQ                               scale 1/127, as its range is known
    """
    del draft
    ends = set(scene.ends.values())
    for found in attentions(scene.graph):
        where = found.softmax.name or ""
        why = _why_float(found, scene)
        if why is not None:
            yield Refusal(rule="float-attention", where=where, reason=why)
            continue
        for value, reader in found.sources:
            readers = readers_of(value) if value in ends else (reader,)
            yield Site(value=value, scheme=scene.activation, readers=readers, rule=RULE)
        weights = found.softmax.outputs[0]
        scheme = scene.activation
        yield Site(
            value=weights,
            scheme=scheme,
            readers=readers_of(weights),
            rule=RULE,
            fixed=1 / scheme.high,
        )


def float_attentions(scene: Scene) -> dict[ir.Value, str]:
    """Sources of q, k, v of every attention that stays float, and why."""
    return {
        value: why
        for found in attentions(scene.graph)
        if (why := _why_float(found, scene)) is not None
        for value, _ in found.sources
    }


def attentions(graph: ir.Graph) -> list[Attention]:
    """Every attention that is spelled with two products around a softmax."""
    found = (_attention_around(node) for node in graph if query.is_op(node, "Softmax"))
    return [one for one in found if one is not None]


def _why_float(found: Attention, scene: Scene) -> str | None:
    if scene.attention == "none":
        return "attention=none leaves q, k, v and softmax float"
    for value, _ in found.sources:
        if query.is_op(value.producer(), "DequantizeLinear"):
            return f"'{value.name}' has a quantizer already"
        feeding = list(layers_above(value))
        left = [node.name for node in feeding if node not in scene.nodes]
        if left:
            return f"it is fed by '{left[0]}', which is not quantized"
        if not feeding:
            return f"'{value.name}' comes from no quantized layer"
    return None


def _attention_around(softmax: ir.Node) -> Attention | None:
    mixing = _product_below(softmax.outputs[0])
    scoring = _product_above(softmax)
    if mixing is None or scoring is None:
        return None
    node, index = mixing
    factors: tuple[Reader, ...] = ((scoring, 0), (scoring, 1), (node, 1 - index))
    sources = tuple(_source(*factor) for factor in factors)
    return Attention(softmax=softmax, scoring=scoring, mixing=node, sources=sources)


def _product_below(value: ir.Value) -> Reader | None:
    """The product with the values, which alone reads the softmax."""
    for _ in range(_FARTHEST):
        readers = readers_of(value)
        if len(readers) != 1:
            return None
        node, index = readers[0]
        if _is_product(node):
            return node, index
        if not query.is_op(node, *HANDED_ON):
            return None
        value = node.outputs[0]
    return None


def _product_above(softmax: ir.Node) -> ir.Node | None:
    """The product of queries and keys, above scale and mask."""
    pending = [softmax.inputs[0]]
    for _ in range(_FARTHEST):
        value = pending.pop(0) if pending else None
        node = None if value is None else value.producer()
        if node is not None and _is_product(node):
            return node
        if node is not None and query.is_op(node, *SCORES):
            pending += [read for read in node.inputs if read is not None]
    return None


def _is_product(node: ir.Node) -> bool:
    return query.is_op(node, "MatMul") and all(
        query.constant_behind(read) is None for read in node.inputs
    )


def _source(node: ir.Node, index: int) -> tuple[ir.Value, Reader]:
    """Where a factor comes from, up through moves and the scaling by one number."""
    value = node.inputs[index]
    assert value is not None, "a product has two factors"
    reader = (node, index)
    while (step := _step_up(value)) is not None:
        reader = step
        above = step[0].inputs[step[1]]
        assert above is not None
        value = above
    return value, reader


def _step_up(value: ir.Value) -> Reader | None:
    producer = value.producer()
    if producer is None:
        return None
    if commutes(producer):
        return producer, 0
    if query.is_op(producer, "Mul", "Div"):
        computed = [i for i, read in enumerate(producer.inputs) if is_computed(read)]
        others = [producer.inputs[i] for i in (0, 1) if i not in computed]
        if len(computed) == 1 and is_scalar(others[0]):
            return producer, computed[0]
    return None

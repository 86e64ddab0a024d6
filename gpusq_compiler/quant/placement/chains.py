"""Chains that run on ONNX Runtime's integer kernels from one end to the other.

A convolution runs in INT8 where its output is quantized too, for there is no kernel with a
float one. So a pair stands behind every convolution, and what lies between two of them (sums,
averages, what only moves) hands codes on. Matrix products have a kernel with a float output:
they need nothing behind them. Layers without an integer kernel keep the pairs of
`gemm-inputs`, which save bytes, and are named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.ir import query
from gpusq_compiler.quant.placement.attention import Attention, attentions
from gpusq_compiler.quant.placement.draft import MOVE
from gpusq_compiler.quant.placement.sites import Refusal, Site
from gpusq_compiler.quant.placement.topology import (
    AVERAGES,
    commutes,
    cuts_at_zero,
    is_computed,
    readers_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.quant.placement.draft import Draft
    from gpusq_compiler.quant.placement.scene import Scene

ATTENTION, AVERAGE, CONVOLUTION, JOIN = (
    "attention-product",
    "integer-average",
    "conv-output",
    "integer-join",
)
FUSING = (CONVOLUTION, JOIN)
"""Of these a Relu behind them is part."""
JOINS = ("Add", "Mul")
EXPONENTIALS = ("LogSoftmax", "Softmax")
FEW_TOKENS = 64
FLOAT = frozenset({None, ir.DataType.FLOAT})
"""Types around pairs that kernels take; half precision has casts there, and nothing fuses."""


def integer_chain(scene: Scene, draft: Draft) -> Iterator[Site]:
    """Pairs behind convolutions, and behind sums and averages of what is quantized.

    conv ─▶ Relu ─▶ Q ─▶ DQ ─▶ conv             the Relu is what unsigned codes cut off
    conv ─▶ Q ─▶ DQ ─▶ Add ─▶ Relu ─▶ Q ─▶ DQ    one integer sum, of DQ and DQ
    DQ ─▶ MaxPool ─▶ Q ─▶ DQ                    moves, with the scale of what arrives
    """
    for node in scene.graph:
        rule = _rule(node, scene, draft)
        ends = [integer_end(node.outputs[0])] if rule in FUSING else node.outputs
        for end in ends if rule else ():
            wanted = rule == CONVOLUTION or _is_wanted(end)
            if wanted and end.dtype in FLOAT and not end.is_graph_output():
                # Who asks for its shape reads it too: a second reader would keep the float.
                scheme, readers = scene.scheme_of(end), tuple((n, i) for n, i in end.uses())
                yield Site(value=end, scheme=scheme, readers=readers, rule=rule)


def _rule(node: ir.Node, scene: Scene, draft: Draft) -> str:
    """The rule that wants the outputs of a node quantized; empty where none does."""
    if query.is_op(node, "Conv"):
        return CONVOLUTION if node in scene.nodes and not _why_float(scene, node) else ""
    if query.is_op(node, *JOINS):
        return JOIN if _all_arrive(node, draft) else ""
    if query.is_op(node, *AVERAGES) or commutes(node):
        moved = MOVE if commutes(node) else AVERAGE
        return moved if draft.carrier(node, 0) is not None else ""
    return ""


def attention_products(scene: Scene, draft: Draft) -> Iterator[Site | Refusal]:
    """Both factors of q kᵀ and of softmax v, each with a range of its own.

    q ─▶ scale ─▶ Q ─▶ DQ ─▶ MatMul ◀─ DQ ◀─ Q ◀─ kᵀ
    """
    del draft
    for found in attentions(scene.graph):
        reason = _why_float_products(scene, found)
        if reason is not None:
            where = found.softmax.name or ""
            yield Refusal(rule="float-attention", where=where, reason=reason)
            continue
        for node in (found.scoring, found.mixing):
            for index, value in enumerate(node.inputs):
                if value is not None and value.dtype in FLOAT:
                    scheme, readers = scene.scheme_of(value), ((node, index),)
                    yield Site(value=value, scheme=scheme, readers=readers, rule=ATTENTION)


def _why_float_products(scene: Scene, found: Attention) -> str | None:
    if scene.attention == "none":
        return "attention=none leaves q, k, v and softmax float"
    shape = found.softmax.outputs[0].shape
    tokens = None if shape is None else shape[-1]
    if isinstance(tokens, int) and tokens < FEW_TOKENS:
        return f"with {tokens} tokens, quantizing the factors takes longer than it saves"
    return None


def integer_end(value: ir.Value) -> ir.Value:
    """Where a kernel's integer output stands: behind a Relu, which saturation does."""
    readers = readers_of(value)
    if value.is_graph_output() or len(readers) != 1:
        return value
    node = readers[0][0]
    fuses = cuts_at_zero(node) and node.graph is value.graph
    return node.outputs[0] if fuses else value


def float_kernels(scene: Scene, draft: Draft) -> Iterator[Refusal]:
    """Layers that run in float for all their pairs: the file is smaller, and no faster."""
    del draft
    for use in scene.layers:
        reason = _why_float(scene, use.node)
        if reason is not None:
            where, reason = use.node.name or "", f"runs in float on a CPU: {reason}"
            yield Refusal(rule="no-integer-kernel", where=where, reason=reason)


def _why_float(scene: Scene, node: ir.Node) -> str | None:
    if query.is_op(node, "ConvTranspose"):
        return "ONNX Runtime has no integer kernel for ConvTranspose"
    return _why_not_codes(scene, node) if query.is_op(node, "Conv") else None


def _why_not_codes(scene: Scene, node: ir.Node) -> str | None:
    """Why a convolution may not write codes, as its kernel would."""
    end = integer_end(node.outputs[0])
    if end.dtype not in FLOAT:
        return "half precision has casts around its pairs"
    if node.graph is not scene.graph:
        return "in the body of If or Loop nothing calibrates its output"
    if end.is_graph_output():
        return "its kernel would write codes, and an output of the model stays float"
    if any(query.is_op(reader, *EXPONENTIALS) for reader, _ in readers_of(end)):
        return "its kernel would write codes, and what goes into a softmax stays float"
    return None


def _all_arrive(node: ir.Node, draft: Draft) -> bool:
    return all(map(is_computed, node.inputs)) and all(
        draft.carrier(node, index) is not None for index in range(len(node.inputs))
    )


def _is_wanted(value: ir.Value) -> bool:
    """Whether an integer kernel may read a tensor, behind moves or at once."""
    return any(
        query.is_op(node, *query.WEIGHTED, *AVERAGES)
        or (query.is_op(node, *JOINS) and all(map(is_computed, node.inputs)))
        or (commutes(node) and any(_is_wanted(output) for output in node.outputs))
        for node, _ in readers_of(value)
    )

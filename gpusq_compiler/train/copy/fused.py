"""Rewrites of the runtime's own fused operators; see `rewrites`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper

from gpusq_compiler.train.protograph import attribute, number_of, word_of

if TYPE_CHECKING:
    import onnx

    from gpusq_compiler.train.copy.copygraph import CopyGraph

PLAIN = frozenset({"Relu", "Sigmoid", "Tanh"})


def skip_layer_normalization(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """Add, then LayerNormalization; the sum is the fourth output."""
    x, skip, scale, *rest = node.input
    bias, offset = [*rest, "", ""][:2]
    total = graph.node("Add", x, skip)
    if offset:
        total = graph.node("Add", total, offset)
    if len(node.output) > 3 and node.output[3]:
        graph.name(total, node.output[3])
    inputs = [total, scale, bias or graph.node("Mul", scale, graph.constant(0.0))]
    outputs = [graph.fresh("LayerNormalization") for _ in range(3)]
    graph.add(
        helper.make_node(
            "LayerNormalization",
            inputs,
            outputs,
            name=outputs[0],
            axis=-1,
            epsilon=number_of(node, "epsilon", 1e-12),
        )
    )
    return outputs[0]


def fused_conv(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Conv, the addend, the activation."""
    x, weight, *rest = node.input
    bias, addend = [*rest, "", ""][:2]
    activation = word_of(node, "activation", "")
    if activation and activation not in PLAIN:
        return None
    kept = {
        entry.name: helper.get_attribute_value(entry)
        for entry in node.attribute
        if not entry.name.startswith("activation")
    }
    y = graph.node("Conv", x, weight, *filter(None, [bias]), **kept)
    if addend:
        y = graph.node("Add", y, addend)
    return graph.node(activation, y) if activation else y


def fused_gemm(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Gemm, then the activation."""
    activation = word_of(node, "activation", "")
    if activation not in PLAIN or attribute(node, "activation_alpha"):
        return None
    kept = {
        entry.name: helper.get_attribute_value(entry)
        for entry in node.attribute
        if not entry.name.startswith("activation")
    }
    return graph.node(activation, graph.node("Gemm", *node.input, **kept))

"""Rewrites of functions of one element; see `rewrites`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from gpusq_compiler.train.protograph import number_of

if TYPE_CHECKING:
    import onnx

    from gpusq_compiler.train.copy.copygraph import CopyGraph


def identity(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """Dropout outside training does nothing."""
    del graph
    return str(node.input[0])


def cast_like(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Cast to the type of the second input."""
    kind = graph.kinds.get(node.input[1], 0)
    return graph.node("Cast", node.input[0], to=kind) if kind else None


def clip(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Max and Min where a bound is computed: such a bound has a gradient too."""
    bounds = [*node.input[1:], "", ""][:2]
    if all(not bound or graph.value(bound) is not None for bound in bounds):
        return None
    x = str(node.input[0])
    for op_type, bound in zip(("Max", "Min"), bounds, strict=True):
        x = graph.node(op_type, x, bound) if bound else x
    return x


def hard_sigmoid(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``clip(alpha * x + beta, 0, 1)``."""
    alpha, beta = number_of(node, "alpha", 0.2), number_of(node, "beta", 0.5)
    return _hard_gate(graph, node.input[0], alpha, beta)


def hard_swish(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``x * clip(x / 6 + 1 / 2, 0, 1)``."""
    x = node.input[0]
    return graph.node("Mul", x, _hard_gate(graph, x, 1 / 6, 0.5))


def _hard_gate(graph: CopyGraph, x: str, slope: float, offset: float) -> str:
    line = graph.node("Mul", x, graph.constant(slope))
    line = graph.node("Add", line, graph.constant(offset))
    return graph.node("Clip", line, graph.constant(0.0), graph.constant(1.0))


def mish(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``x * tanh(softplus(x))``."""
    x = node.input[0]
    return graph.node("Mul", x, graph.node("Tanh", graph.node("Softplus", x)))


def softsign(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``x / (1 + abs(x))``."""
    x = node.input[0]
    return graph.node("Div", x, graph.node("Add", graph.node("Abs", x), graph.constant(1.0)))


def thresholded_relu(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``x`` where it exceeds the threshold, else 0."""
    x = node.input[0]
    return graph.node("Mul", x, _hit(graph, "Greater", x, number_of(node, "alpha", 1.0)))


def shrink(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """Shift towards zero what lies outside the threshold, the rest is 0."""
    x, bias, reach = node.input[0], number_of(node, "bias", 0.0), number_of(node, "lambd", 0.5)
    raised = graph.node("Add", x, graph.constant(bias))
    lowered = graph.node("Sub", x, graph.constant(bias))
    below = graph.node("Mul", raised, _hit(graph, "Less", x, -reach))
    above = graph.node("Mul", lowered, _hit(graph, "Greater", x, reach))
    return graph.node("Add", below, above)


def _hit(graph: CopyGraph, op_type: str, x: str, threshold: float) -> str:
    """1 where the comparison holds, else 0."""
    found = graph.node(op_type, x, graph.constant(threshold))
    return graph.node("Cast", found, to=TensorProto.FLOAT)


def prelu(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``relu(x) - slope * relu(-x)``."""
    x, slope = node.input
    below = graph.node("Mul", slope, graph.node("Relu", graph.node("Neg", x)))
    return graph.node("Sub", graph.node("Relu", x), below)


def elu(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``relu(x) + alpha * (exp(-relu(-x)) - 1)``."""
    return _elu(graph, node.input[0], number_of(node, "alpha", 1.0), 1.0)


def celu(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``relu(x) + alpha * (exp(-relu(-x) / alpha) - 1)``."""
    alpha = number_of(node, "alpha", 1.0)
    return _elu(graph, node.input[0], alpha, 1.0 / alpha)


def selu(graph: CopyGraph, node: onnx.NodeProto) -> str:
    """``gamma * elu(x, alpha)``."""
    alpha = number_of(node, "alpha", 1.67326319217681884765625)
    gamma = number_of(node, "gamma", 1.05070102214813232421875)
    unit = _elu(graph, node.input[0], alpha, 1.0)
    return graph.node("Mul", unit, graph.constant(gamma))


def _elu(graph: CopyGraph, x: str, alpha: float, inner: float) -> str:
    below = graph.node("Neg", graph.node("Relu", graph.node("Neg", x)))
    power = graph.node("Exp", graph.node("Mul", below, graph.constant(inner)))
    bent = graph.node("Sub", power, graph.constant(1.0))
    return graph.node(
        "Add", graph.node("Relu", x), graph.node("Mul", bent, graph.constant(alpha))
    )

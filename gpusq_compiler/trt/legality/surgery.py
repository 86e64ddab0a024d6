"""Surgery for TensorRT, in the language of GraphSurgeon.

second outputs      dropped where nobody reads them: the indices of a MaxPool, the statistics
                    of a LayerNormalization, which exporters write by habit
GELU of a runtime   com.microsoft.BiasGelu, FastGelu and QuickGelu, which ONNX Runtime's
                    optimizer leaves, in operators that TensorRT knows
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpusq_compiler.trt.legality.graphs import ONE_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpusq_compiler.ir.surgeon import Graph

Node: TypeAlias = Any
"""Of GraphSurgeon, which does not say its types."""

RUNTIME = "com.microsoft"


def drop_dead_outputs(graph: Graph) -> list[str]:
    """Take outputs that nobody reads off operators of which TensorRT imports only the first.

    Returns:
        Names of the nodes.
    """
    returned = {id(tensor) for inner in _graphs(graph) for tensor in inner.outputs}
    changed = []
    for inner in _graphs(graph):
        for node in inner.nodes:
            others = [tensor for tensor in node.outputs[1:] if not tensor.is_empty()]
            read = any(tensor.outputs or id(tensor) in returned for tensor in others)
            if node.op in ONE_OUTPUT and others and not read:
                for tensor in others:
                    node.outputs.remove(tensor)
                changed.append(node.name)
    return changed


def spell_out(graph: Graph) -> list[str]:
    """Write the runtime's own GELU in operators of the standard.

    Returns:
        Names of the nodes that went; what replaces each begins with its name.
    """
    changed = []
    for inner in _graphs(graph):
        for node in list(inner.nodes):
            form = FORMS.get(node.op) if node.domain == RUNTIME else None
            if form is not None and isinstance(node.inputs[0].dtype, np.dtype | type):
                form(_Pen(inner, node), node)
                changed.append(node.name)
    return changed


class _Pen:
    """Writes operators in the place of a node; the last of them writes its output."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self._graph = graph
        self._node = node
        self._kind = np.dtype(node.inputs[0].dtype)

    def number(self, value: float) -> Any:
        """A constant of the node's type."""
        return np.asarray(value, self._kind)

    def write(self, op: str, *inputs: Any) -> Any:
        """One operator; its result."""
        name = f"{self._node.name}.{len(self._graph.nodes)}.{op}"
        (result,) = self._graph.layer(
            op=op, name=name, inputs=list(inputs), outputs=[f"{name}.result"]
        )
        result.dtype = self._kind
        return result

    def end(self, op: str, *inputs: Any) -> None:
        """The last operator: it takes over the node's output."""
        outputs = list(self._node.outputs)
        self._node.outputs.clear()
        name = f"{self._node.name}.{op}"
        self._graph.layer(op=op, name=name, inputs=list(inputs), outputs=outputs)


def _bias_gelu(pen: _Pen, node: Node) -> None:
    """``x Φ(x)`` with ``Φ(x) = (1 + erf(x / √2)) / 2``, of the input and a bias."""
    x = pen.write("Add", *node.inputs)
    erf = pen.write("Erf", pen.write("Div", x, pen.number(math.sqrt(2))))
    raised = pen.write("Add", erf, pen.number(1))
    pen.end("Mul", pen.write("Mul", x, raised), pen.number(0.5))


def _fast_gelu(pen: _Pen, node: Node) -> None:
    """``x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2``, with or without a bias."""
    inputs = [tensor for tensor in node.inputs if not tensor.is_empty()]
    x = pen.write("Add", *inputs) if len(inputs) > 1 else inputs[0]
    cube = pen.write("Mul", pen.write("Mul", x, x), x)
    inner = pen.write("Add", x, pen.write("Mul", cube, pen.number(0.044715)))
    tanh = pen.write("Tanh", pen.write("Mul", inner, pen.number(math.sqrt(2 / math.pi))))
    raised = pen.write("Add", tanh, pen.number(1))
    pen.end("Mul", pen.write("Mul", x, raised), pen.number(0.5))


def _quick_gelu(pen: _Pen, node: Node) -> None:
    """``x sigmoid(alpha x)``."""
    x, alpha = node.inputs[0], node.attrs.get("alpha", 1.702)
    pen.end("Mul", x, pen.write("Sigmoid", pen.write("Mul", x, pen.number(alpha))))


FORMS: dict[str, Callable[[_Pen, Node], None]] = {
    "BiasGelu": _bias_gelu,
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
}


def _graphs(graph: Graph) -> list[Graph]:
    return [graph, *graph.subgraphs(recursive=True)]

"""Which parameters a gradient can reach, and which operator stands in the way of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx

FLOATS = {TensorProto.UNDEFINED, TensorProto.FLOAT, TensorProto.DOUBLE}


class Reach:
    """Paths of floating-point tensors through a graph.

    Args:
        graph: The loss graph.
        kinds: Element types where known; a tensor of unknown type may be float.
    """

    def __init__(self, graph: onnx.GraphProto, kinds: Mapping[str, int]) -> None:
        self._kinds = kinds
        self._nodes = list(graph.node)
        self._producers = {name: node for node in graph.node for name in node.output if name}

    def above(self, tensors: Iterable[str]) -> set[str]:
        """These tensors and every float tensor that they depend on."""
        seen: set[str] = set()
        waiting = list(tensors)
        while waiting:
            name = waiting.pop()
            if name in seen or self._kinds.get(name, TensorProto.UNDEFINED) not in FLOATS:
                continue
            seen.add(name)
            if name in self._producers:
                waiting.extend(self._producers[name].input)
        return seen

    def blocked(self, op_type: str, loss: str, parameters: Iterable[str]) -> dict[str, str]:
        """Parameters whose way to the loss crosses this operator → the first such node."""
        useful = self.above([loss])
        found: dict[str, str] = {}
        wanted = set(parameters)
        for node in self._nodes:
            if node.op_type == op_type and useful & set(node.output):
                for name in sorted(wanted & self.above(node.input)):
                    found.setdefault(name, node.name)
        return found

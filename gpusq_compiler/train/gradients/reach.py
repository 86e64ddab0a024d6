"""Which parameters a gradient can reach, and which operator stands in the way of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

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
                waiting.extend(inputs_of(self._producers[name]))
        return seen

    def blocked(
        self, stops: Callable[[onnx.NodeProto], bool], loss: str, parameters: Iterable[str]
    ) -> dict[str, str]:
        """Parameters whose way to the loss crosses such a node → the first one crossed."""
        useful = self.above([loss])
        found: dict[str, str] = {}
        wanted = set(parameters)
        for node in self._nodes:
            if stops(node) and useful & set(node.output):
                for name in sorted(wanted & self.above(inputs_of(node))):
                    found.setdefault(name, f"{node.op_type} {node.name}")
        return found

    def by_depth(self, parameters: Iterable[str]) -> list[tuple[str, str]]:
        """Parameters in the order of their first use, each with the node that uses it."""
        first: dict[str, str] = {}
        wanted = set(parameters)
        for node in self._nodes:
            for name in inputs_of(node):
                if name in wanted:
                    first.setdefault(name, f"{node.op_type} {node.name}")
        return list(first.items())


def has_body(node: onnx.NodeProto) -> bool:
    """Whether the node is an If, a Loop, a Scan or another one that holds graphs."""
    return any(entry.HasField("g") for entry in node.attribute)


def inputs_of(node: onnx.NodeProto) -> list[str]:
    """A node's inputs, those included that its bodies take from the graph around them."""
    return [*node.input, *taken_by_bodies(node)]


def taken_by_bodies(node: onnx.NodeProto) -> list[str]:
    """Names that a node's bodies, nested ones included, take from the graph around them."""
    names: list[str] = []
    for entry in node.attribute:
        if entry.HasField("g"):
            own = {value.name for value in (*entry.g.input, *entry.g.initializer)}
            for inner in entry.g.node:
                names.extend(name for name in inputs_of(inner) if name not in own)
                own.update(inner.output)
            names.extend(v.name for v in entry.g.output if v.name not in own)
    return names

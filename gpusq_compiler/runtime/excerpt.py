"""The part of a graph that some of its tensors are computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx


def cut(graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
    """Keep the wanted outputs and the nodes above them, in place.

    What is not wanted costs no time then, and need not be known to the runtime.
    """
    wanted = set(outputs)
    kept = [value for value in graph.output if value.name in wanted]
    needed = set(wanted)
    nodes = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_reads(node))
            nodes.append(node)
    del graph.output[:]
    graph.output.extend(kept)
    if len(nodes) < len(graph.node):
        nodes = list(reversed(nodes))
        del graph.node[:]
        graph.node.extend(nodes)
        _drop_unread(graph, needed)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node and the bodies in it read; those of a body's own do no harm."""
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            yield from (value.name for value in body.output)
            for inner in body.node:
                yield from _reads(inner)


def _drop_unread(graph: onnx.GraphProto, needed: set[str]) -> None:
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]  # one by one: a new list would copy the weights

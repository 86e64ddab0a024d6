"""In which order nodes run: what a result needs right before it, results one after the other.

The runtime's own order computes what a gradient graph keeps for late users early, and all
gradients of activations before those of weights. Told to prefer the first node that is ready,
it runs a graph as it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.train.gradients.reach import inputs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx


def in_order(graph: onnx.GraphProto, last: str | None = None) -> None:
    """Sort the nodes; outputs with the shortest way to them come first.

    Args:
        graph: Edited in place; nodes on which no output depends go.
        last: Ending of the names of outputs that come after all others, None without any.
    """
    nodes = list(graph.node)
    place = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    results = [value.name for value in graph.output if value.name in place]
    depths = _depths(_order(results, nodes, place), nodes, place)
    results.sort(key=lambda name: (bool(last and name.endswith(last)), depths[place[name]]))
    kept = [nodes[index] for index in _order(results, nodes, place)]
    del graph.node[:]
    graph.node.extend(kept)


def _order(
    results: Sequence[str], nodes: Sequence[onnx.NodeProto], place: Mapping[str, int]
) -> Iterable[int]:
    order: dict[int, None] = {}
    for name in results:
        _visit(place[name], nodes, place, order)
    return order


def _depths(
    order: Iterable[int], nodes: Sequence[onnx.NodeProto], place: Mapping[str, int]
) -> dict[int, int]:
    """Nodes on the longest way to each node."""
    depths: dict[int, int] = {}
    for index in order:
        before = (depths[place[name]] for name in inputs_of(nodes[index]) if name in place)
        depths[index] = 1 + max(before, default=0)
    return depths


def _visit(
    node: int,
    nodes: Sequence[onnx.NodeProto],
    place: Mapping[str, int],
    order: dict[int, None],
) -> None:
    """Append a node behind all that it needs, earlier ones first."""
    waiting = [(node, False)]
    while waiting:
        index, ready = waiting.pop()
        if index in order:
            continue
        if ready:
            order[index] = None
            continue
        waiting.append((index, True))
        needed = {place[name] for name in inputs_of(nodes[index]) if name in place}
        waiting.extend((before, False) for before in sorted(needed, reverse=True))

"""Surgery for TensorRT, in the language of GraphSurgeon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.trt.graphs import ONE_OUTPUT

if TYPE_CHECKING:
    from gpusq_compiler.ir.surgeon import Graph


def drop_dead_outputs(graph: Graph) -> list[str]:
    """Take outputs that nobody reads off operators of which TensorRT imports only the first.

    Exporters write them by habit: the indices of a MaxPool, mean and deviation of a
    LayerNormalization. TensorRT refuses the file for them.

    Returns:
        Names of the nodes.
    """
    returned = {id(tensor) for inner in _graphs(graph) for tensor in inner.outputs}
    changed = []
    for inner in _graphs(graph):
        for node in inner.nodes:
            if node.op not in ONE_OUTPUT or len(node.outputs) < 2:
                continue
            others = [tensor for tensor in node.outputs[1:] if not tensor.is_empty()]
            if others and not any(t.outputs or id(t) in returned for t in others):
                for tensor in others:
                    node.outputs.remove(tensor)
                changed.append(node.name)
    return changed


def _graphs(graph: Graph) -> list[Graph]:
    return [graph, *graph.subgraphs(recursive=True)]

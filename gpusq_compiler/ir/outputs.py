"""What a model's outputs are: class scores or vectors, and what they join."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.ir.query import is_op

if TYPE_CHECKING:
    import onnx_ir as ir

SAME_VALUES = (
    "Identity",
    "Cast",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Gather",
    "Slice",
)
POOLS = ("LayerNormalization", "LpNormalization", "ReduceMean", "ReduceSum", "Tanh")


def embeddings(model: ir.Model) -> set[str]:
    """Outputs that are pooled or normalised vectors: their values matter, not their ranking.

    An output ``[samples, width]`` looks like class scores by its shape alone; class scores
    come from a weighted layer.
    """
    return {value.name or "" for value in model.graph.outputs if _is_embedding(value)}


def joined(model: ir.Model) -> dict[str, tuple[str, ...]]:
    """Outputs that join computed tensors, by name: these tensors' names, in order."""
    found = {value.name or "": _parts(value) for value in model.graph.outputs}
    return {output: parts for output, parts in found.items() if len(parts) > 1}


def _parts(value: ir.Value) -> tuple[str, ...]:
    node = value.producer()
    if node is None:
        return ()
    if not is_op(node, "Concat"):
        return (value.name or "",)
    return tuple(
        part for source in node.inputs if source is not None for part in _parts(source)
    )


def _is_embedding(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and is_op(node, *SAME_VALUES) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None:
        return False
    if is_op(node, "Div"):
        divisor = node.inputs[1]
        return divisor is not None and divisor.producer() is not None
    return is_op(node, *POOLS)

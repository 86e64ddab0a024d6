"""The bridge to GraphSurgeon: a graph for it to edit, and the way back into the same model.

GraphSurgeon's own import and export drop metadata, doc strings and whole kinds of attributes,
and copy every weight. Here nothing is exported but what is new: each of its objects stands for
a node, tensor or graph of the model (`origins`), and what is unchanged comes from it (`back`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import onnx_graphsurgeon as gs
import onnx_ir as ir
from onnx_graphsurgeon.logger import G_LOGGER

from gpusq_compiler.errors import GpusqError, ModelError, PassBug, first_line
from gpusq_compiler.ir import edit
from gpusq_compiler.ir.surgeon.back import Back, new_functions
from gpusq_compiler.ir.surgeon.origins import Graph, Origins

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Graph", "surgery"]

LONGEST = 200
HARMLESS = "original ONNX type will be preserved"
CROSSING = frozenset(
    ir.AttributeType[kind]
    for kind in ("FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS")
)


@contextlib.contextmanager
def surgery(model: ir.Model, *, author: str) -> Iterator[Graph]:
    """Open a model for GraphSurgeon; where the block ends well, the model becomes its graph.

    Unused nodes go, the others keep their order as far as the edits allow. Functions of the
    model do not cross and stay as they are; new ones are added.

    Args:
        model: Stays as it is until the block has ended well.
        author: Whom new nodes are stamped with.

    Raises:
        ModelError: The model holds something that GraphSurgeon cannot.
        PreconditionError: The block reads the values of a large constant.
        PassBug: GraphSurgeon warned of something, or what it left is no graph.
    """
    _require_expressible(model)
    with _quiet(ModelError, "model"):
        origins = Origins(model)
    twin = origins.twin
    with _quiet(PassBug, author):
        yield twin
        _detach_inputs(twin)
        twin.cleanup()
        back = Back(origins, author)
        graph, functions = back.graph(twin), new_functions(twin)
    try:
        graph.sort()
    except ValueError as error:
        raise PassBug("left a graph with a cycle", where=author) from error
    model.graph = graph
    model.functions.update(functions)
    if back.untyped:
        edit.infer_shapes(model)


def _require_expressible(model: ir.Model) -> None:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        reason = ""
        if node.overload:
            reason = f"calls the overload '{node.overload}' of a function"
        for attribute in node.attributes.values():
            if attribute.type not in CROSSING or isinstance(attribute.value, bytes):
                reason = f"has an attribute '{attribute.name}' of a kind that is lost there"
        if reason:
            raise ModelError(
                f"GraphSurgeon cannot hold the model: the node {reason}",
                where=f"node '{node.name}'",
                remedy="Run canonicalize first, or leave out the passes that use GraphSurgeon",
            )


@contextlib.contextmanager
def _quiet(error: type[GpusqError], where: str) -> Iterator[None]:
    """Nothing on stdout: what GraphSurgeon warns of is an error."""

    def record(message: Any, severity: int, *_: Any, **__: Any) -> None:
        if severity == G_LOGGER.WARNING and HARMLESS not in str(message):
            raise error(f"GraphSurgeon warns: {message}"[:LONGEST], where=where)

    spoken = G_LOGGER.log
    G_LOGGER.log = record
    try:
        yield
    except gs.OnnxGraphSurgeonException as failure:
        raise error(f"GraphSurgeon: {first_line(failure)}", where=where) from failure
    finally:
        G_LOGGER.log = spoken


def _detach_inputs(twin: Graph) -> None:
    """Put another output where an input is computed: `cleanup` would shift those behind it."""
    for tensor in twin.inputs:
        for node in list(tensor.inputs):
            for index, output in enumerate(node.outputs):
                if output is tensor:
                    node.outputs[index] = gs.Variable(f"{tensor.name}.unused")

"""Rules about a graph as a whole: operators, functions, opset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.ir import query
from gpusq_compiler.trt.legality import operators
from gpusq_compiler.trt.legality.constants import nodes_of
from gpusq_compiler.trt.legality.rules import Place, Version, at_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

OPSETS = {8: 17, 10: 24}
"""The newest opset that NVIDIA's table of each major version names; the parser of 11 takes
what there is (27 seen)."""

ONE_OUTPUT = ("LayerNormalization", "MaxPool")


def functions(model: ir.Model, version: Version) -> Iterator[Place]:
    """Functions that the model brings along."""
    del version
    for function in model.functions.values():
        yield Place(where=f"function '{function.name}'", what="the model defines a function")


def newer_opset(model: ir.Model, version: Version) -> Iterator[Place]:
    """An opset beyond what the version documents."""
    opset, newest = model.opset_imports.get("", 0), OPSETS[version.major]
    if opset > newest:
        yield Place(where="model", what=f"opset {opset} is newer than {newest}")


def unknown_operator(model: ir.Model, version: Version) -> Iterator[Place]:
    """An operator that the importer does not know by its name."""
    op_types = {node.op_type for node in nodes_of(model, *_used(model))}
    unknown = {op for op in op_types if not _imports(op, version)}
    for node in nodes_of(model, *unknown):
        if operators.is_plugin(node.domain, node.op_type):
            continue
        first = operators.first_version(node.op_type)
        since = f"; it is imported since {first[0]}.{first[1]}" if first else ""
        domain = "" if node.domain in query.DEFAULT_DOMAIN else f" of {node.domain}"
        what = f"TensorRT {version} has no {node.op_type}{domain}{since}"
        yield at_node(node, what, operators.REFUSED.get(node.op_type, ""))


def _used(model: ir.Model) -> set[str]:
    return {node.op_type for graph in model.graphs() for node in graph}


def _imports(op_type: str, version: Version) -> bool:
    first = operators.first_version(op_type)
    return first is not None and version.pair >= first


def second_output(model: ir.Model, version: Version) -> Iterator[Place]:
    """A second output of operators of which only the first is imported."""
    del version
    for node in nodes_of(model, *ONE_OUTPUT):
        if any(value.name for value in node.outputs[1:]):
            yield at_node(node, "it has a second output")


def dilated_pool(model: ir.Model, version: Version) -> Iterator[Place]:
    """Pooling with gaps."""
    del version
    for node in nodes_of(model, "MaxPool", "AveragePool", "LpPool"):
        given = node.attributes.get("dilations")
        if given is not None and any(step != 1 for step in given.as_ints()):
            yield at_node(node, f"its dilations are {list(given.as_ints())}")

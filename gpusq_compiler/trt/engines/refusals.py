"""Why TensorRT refuses a model, in one line for a person."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from gpusq_compiler.errors import ModelError
from gpusq_compiler.trt.legality.legal import lint
from gpusq_compiler.trt.legality.rules import Severity, at_node

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.trt.engines.bindings import Bindings
    from gpusq_compiler.trt.engines.messages import Messages

REMEDY = "Export the model without it, or report that gpusq lint does not know it"
GRAPH = ir.AttributeType.GRAPH
_QUOTED = re.compile(r'"([^"]+)"')
_ERROR = re.compile(r"Error Code \d+: [\w ]+ \((.*)\)", re.DOTALL)


def parser_refusal(bindings: Bindings, parser: Any, path: Path, model: ir.Model) -> ModelError:
    """What the parser found first."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = _said(errors[0]) if errors else "no reason given"
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    node = _node_of(errors[0], model) if errors else None
    return _refusal(bindings, path, model, said + more, node)


def builder_refusal(
    bindings: Bindings, heard: Messages, path: Path, model: ir.Model
) -> ModelError:
    """What the builder said before it gave up."""
    return _refusal(bindings, path, model, reason_of(heard), None)


def _refusal(
    bindings: Bindings, path: Path, model: ir.Model, said: str, node: ir.Node | None
) -> ModelError:
    """In the words of `lint` where that knows the mistake: NVIDIA's are about its source."""
    place = None if node is None else at_node(node, "").where
    found = [d for d in lint(model, bindings.rules) if d.severity is Severity.REFUSED]
    if node is not None and not any(a.type == GRAPH for a in node.attributes.values()):
        found = [d for d in found if d.place.where == place]
    for diagnosis in found:
        remedy = diagnosis.place.remedy or diagnosis.rule.remedy
        return ModelError(
            f"{bindings} refuses it: {diagnosis.place.what}",
            where=f"{path}, {diagnosis.place.where}",
            remedy=remedy.replace("--fix", "gpusq lint --fix"),
        )
    return ModelError(
        f"{bindings} refuses it: {said}",
        where=f"{path}, {place}" if place else str(path),
        remedy=REMEDY,
    )


def _node_of(error: Any, model: ir.Model) -> ir.Node | None:
    """By its name where the version tells it, else by its number in the main graph."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    nodes = list(model.graph)
    if name:
        every = ir.traversal.RecursiveGraphIterator(model.graph)
        return next((node for node in every if node.name == name), None)
    number = error.node()
    return nodes[number] if 0 <= number < len(nodes) else None


def _said(error: Any) -> str:
    """What a parser's error says, without the expression in NVIDIA's source that failed."""
    words = error.desc()
    quoted = _QUOTED.search(words)
    code = str(getattr(error.code(), "name", "")).lower().replace("_", " ")
    if quoted:
        return quoted[1]
    return f"{code}: {words}" if words not in {"", "false"} else code


def reason_of(heard: Messages) -> str:
    """The first error of a build, without its place in NVIDIA's source."""
    line = heard.first_error
    found = _ERROR.search(line)
    return (found[1] if found else line).split(". In ")[0] or "no reason given"

"""Why TensorRT refuses a model, in one line for a person."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from gpusq_compiler.errors import ModelError
from gpusq_compiler.trt.legal import lint
from gpusq_compiler.trt.rules import Severity, at_node

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.trt.bindings import Bindings, Messages

LINT = "gpusq lint MODEL says what TensorRT refuses, and repairs some of it"
_QUOTED = re.compile(r'"([^"]+)"')
_ERROR = re.compile(r"Error Code \d+: [\w ]+ \((.*)\)", re.DOTALL)


def refusal_of(bindings: Bindings, parser: Any, path: Path, model: ir.Model) -> ModelError:
    """The parser's first error, in the words of `lint` where that knows the node's mistake."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return ModelError(f"{bindings} cannot read it", where=str(path), remedy=LINT)
    nodes = [_node_of(error, model) for error in errors]
    more = f" ({len(errors) - 1} more refusals)" if len(errors) > 1 else ""
    node, said = nodes[0], _said(errors[0])
    place = None if node is None else at_node(node, "").where
    for diagnosis in lint(model, bindings.rules):
        if diagnosis.severity is Severity.REFUSED and diagnosis.place.where == place:
            return ModelError(
                f"{bindings} refuses it: {diagnosis.place.what}{more}",
                where=f"{path}, {place}",
                remedy=diagnosis.place.remedy or diagnosis.rule.remedy,
            )
    return ModelError(
        f"{bindings} refuses it: {said}{more}",
        where=f"{path}, {place}" if place else str(path),
        remedy=LINT,
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

"""Cutting a part out of a model: to find where two models part, or to time one block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.errors import OptionError
from gpusq_compiler.ir import edit, io
from gpusq_compiler.ir.surgeon import surgery
from gpusq_compiler.passes.options import near

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

AUTHOR = "extract"
LONGEST = 300
"""Characters of a list of names that a person still reads."""


def extract(model: ir.Model, *, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Reduce a model, in place, to what computes some of its tensors from others.

    Args:
        model: Tensors without a type have it inferred.
        inputs: Tensors of the main graph that become its inputs.
        outputs: Tensors of the main graph that become its outputs.

    Raises:
        OptionError: A tensor is unknown or a weight, the outputs depend on an input that is
            not given, or not on one that is, or a type cannot be inferred.
        ModelError: GraphSurgeon cannot hold the model.
    """
    starts = {name: _computed(model, name, "inputs") for name in inputs}
    ends = {name: _computed(model, name, "outputs") for name in outputs}
    _require_closed(model, starts, ends)
    _require_typed(model, {**starts, **ends})
    with surgery(model, author=AUTHOR) as graph:
        tensors = graph.tensors()
        graph.inputs = [tensors[name] for name in starts]
        graph.outputs = [tensors[name] for name in ends]
    io.check(model, author=AUTHOR)


def tensors_of(model: ir.Model) -> dict[str, ir.Value]:
    """Inputs of the main graph and what its nodes compute, by name."""
    known = {value.name or "": value for value in model.graph.inputs}
    known.update((value.name or "", value) for node in model.graph for value in node.outputs)
    return known


def _computed(model: ir.Model, name: str, option: str) -> ir.Value:
    weights = model.graph.initializers
    known = tensors_of(model)
    if name in weights:
        raise OptionError(
            f"'{name}' is a weight",
            where=f"--{option}",
            remedy="Name a tensor that is computed, or an input of the model",
        )
    if not name or name not in known:
        hint = near(name, [key for key in known if key and key not in weights])
        raise OptionError(
            f"there is no tensor '{name}' in the main graph",
            where=f"--{option}",
            remedy=hint if len(hint) <= LONGEST else "A viewer such as Netron shows the names",
        )
    return known[name]


def _require_closed(
    model: ir.Model, starts: dict[str, ir.Value], ends: dict[str, ir.Value]
) -> None:
    """The outputs follow from all of the inputs and from nothing else."""
    seen = _above(ends.values(), set(starts.values()))
    missing = [
        value.name
        for value in model.graph.inputs
        if value in seen and value.name not in {*starts, *model.graph.initializers}
    ]
    if missing:
        raise OptionError(
            f"the outputs also depend on '{missing[0]}'",
            where="--inputs",
            remedy="Add it, or a tensor between it and the outputs",
        )
    for name, value in starts.items():
        if value not in seen or name in ends:
            reason = "is an output too" if name in ends else "takes no part in the outputs"
            raise OptionError(f"'{name}' {reason}", where="--inputs", remedy="Leave it out")


def _above(values: Iterable[ir.Value], stops: set[ir.Value]) -> set[ir.Value]:
    """All tensors that these are computed from, up to and with the ``stops``."""
    seen: set[ir.Value] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is not None and value not in stops:
            pending.extend(_reads(producer))
    return seen


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node and the bodies in it read."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield from _reads(inner)


def _require_typed(model: ir.Model, values: dict[str, ir.Value]) -> None:
    if any(value.dtype is None or value.shape is None for value in values.values()):
        edit.infer_shapes(model)
    for name, value in values.items():
        if value.type is None:
            raise OptionError(
                f"the type of '{name}' is not in the file and cannot be inferred",
                where="--inputs or --outputs",
                remedy="Name a tensor before or behind it",
            )

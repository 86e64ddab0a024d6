"""What a user named: by node or tensor name, regular expression, or operator."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, TypeVar

from gpusq_compiler.errors import OptionError
from gpusq_compiler.ir import query
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.options import near
from gpusq_compiler.passes.registry import PASSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import onnx_ir as ir

    from gpusq_compiler.ir.query import WeightUse
    from gpusq_compiler.passes.base import Pass

Named = TypeVar("Named")


class Selection:
    """Include and exclude lists over the layers of one model.

    An entry is the name of a node or of its weight, an operator (``Conv``), or a regular
    expression that matches a whole name.

    Args:
        include: Only these layers; empty means all.
        exclude: But not these.
        layers: Every layer that could be named.
        owner: The pass, for errors.

    Raises:
        OptionError: An entry is no regular expression or matches nothing.
    """

    def __init__(
        self,
        include: Sequence[str],
        exclude: Sequence[str],
        layers: Iterable[WeightUse],
        *,
        owner: str,
    ) -> None:
        known = [_names(use) for use in layers]
        self._include = [_compiled(entry, known, f"{owner}.include") for entry in include]
        self._exclude = [_compiled(entry, known, f"{owner}.exclude") for entry in exclude]

    def refusal(self, use: WeightUse) -> str | None:
        """Why the user does not want this layer, or None."""
        names = _names(use)
        if self._include and not any(_matches(entry, names) for entry in self._include):
            return "not named in include"
        matching = next((entry for entry in self._exclude if _matches(entry, names)), None)
        return None if matching is None else f"excluded by '{matching.pattern}'"


def require_layers(passes: Iterable[Pass], model: ir.Model) -> None:
    """Refuse include and exclude lists that name no layer, before anything is read or run.

    A pass of somebody else may make layers: nothing is asked of those behind it.

    Raises:
        OptionError: An entry matches nothing.
    """
    own = itertools.takewhile(lambda step: step.name in PASSES, passes)
    lists = {
        step.name: (getattr(step, "include", ()), getattr(step, "exclude", ())) for step in own
    }
    if any(map(any, lists.values())):
        layers = list(query.weight_uses(Canonicalize()(model)))
        for name, (include, exclude) in lists.items():
            Selection(include, exclude, layers, owner=name)


def matching(
    entries: Sequence[str], names: Mapping[Named, Sequence[str]], *, where: str
) -> Iterator[tuple[Named, str]]:
    """Everything that an entry names, with the entry.

    Args:
        entries: As for `Selection`.
        names: The names that each thing goes by.
        where: The option, for errors.

    Raises:
        OptionError: An entry matches nothing.
    """
    for entry in entries:
        pattern = _compiled(entry, list(names.values()), where, "node")
        for thing, called in names.items():
            if _matches(pattern, called):
                yield thing, entry


def _names(use: WeightUse) -> tuple[str, str, str]:
    return use.node.name or "", use.value.name or "", use.node.op_type


def _matches(entry: re.Pattern[str], names: Sequence[str]) -> bool:
    return any(entry.pattern == name or entry.fullmatch(name) for name in names)


def _compiled(
    entry: str, known: Sequence[Sequence[str]], where: str, kind: str = "layer"
) -> re.Pattern[str]:
    try:
        pattern = re.compile(entry)
    except re.error:
        pattern = re.compile(re.escape(entry))
    if not any(_matches(pattern, names) for names in known):
        everything = [name for names in known for name in names if name]
        raise OptionError(
            f"'{entry}' matches no {kind}", where=where, remedy=near(entry, everything)
        )
    return pattern

"""A plan in the making: names and plain values, before anything is built."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from gpusq_compiler.passes import options, registry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpusq_compiler.passes.base import Pass


@dataclasses.dataclass
class Entry:
    """One pass by name, with the options that differ from its defaults.

    Attributes:
        name: The pass.
        values: Its options.
        needed: Whether it stands there because of another one.
    """

    name: str
    values: dict[str, Any]
    needed: bool = False

    def build(self) -> Pass:
        """The pass itself.

        Raises:
            OptionError: An unknown option, or a value that does not fit.
        """
        return options.build(
            registry.find(self.name),
            self.values,
            find=registry.find_component,
            where=self.name,
        )


@dataclasses.dataclass
class Draft:
    """Passes, image options and seed, all as plain values."""

    entries: list[Entry]
    images: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0


def completed(asked: Iterable[Entry], target: str = "onnxruntime") -> list[Entry]:
    """Put before each pass the built-in ones that it needs, and freeze behind quantizers.

    Behind that, for TensorRT, lower: a plan that freezes ends in a file that it can build.
    """
    entries = list(asked)
    named = {entry.name for entry in entries}
    result: list[Entry] = []
    for entry in entries:
        for helper in _helpers(registry.find(entry.name), named):
            if helper not in {done.name for done in result}:
                result.append(Entry(helper, {}, needed=True))
        result.append(entry)
    planned = [entry.name for entry in result]
    if "freeze" not in planned and "quantize" in planned:
        result.append(Entry("freeze", {}, needed=True))
    if target == "tensorrt" and result[-1].name == "freeze":
        result.append(Entry("lower", {}))
    return result


def _helpers(step: type[Pass], named: set[str]) -> list[str]:
    """Names of built-in passes that give what this one needs and nobody named, in order."""
    found: list[str] = []
    for name in registry.PASSES:  # in pipeline order: what is needed stands before
        if name == step.name:
            break
        giver = registry.find(name)
        if giver.gives & step.needs and name not in named:
            found += [*_helpers(giver, named), name]
    return list(dict.fromkeys(found))

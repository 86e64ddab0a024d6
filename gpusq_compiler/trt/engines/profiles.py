"""Shapes for inputs with free dimensions: read from text, held against the model.

An engine is built for a range of shapes and timed at one of them, so TensorRT wants three
shapes for every such input: the smallest, the typical and the largest.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, TypeAlias

from gpusq_compiler.errors import ModelError, OptionError
from gpusq_compiler.ir import sizes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

Shape: TypeAlias = tuple[int, ...]

MINIMUM, OPTIMUM, MAXIMUM = "--min-shapes", "--opt-shapes", "--max-shapes"
_ONE = re.compile(r"\s*(?P<name>.+?)\s*:\s*(?P<dims>\d+(?:x\d+)*)\s*(?:,|$)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """The shapes that one input of an engine may have.

    Attributes:
        name: The input.
        smallest: Every dimension at its least.
        typical: The shape at which kernels are timed.
        largest: Every dimension at its most.
    """

    name: str
    smallest: Shape
    typical: Shape
    largest: Shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """Shapes by input name, as a user gives them; what is left out equals ``optimum``."""

    minimum: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    optimum: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    maximum: Mapping[str, Shape] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(
        cls, minimum: str | None = None, optimum: str | None = None, maximum: str | None = None
    ) -> Shapes:
        """Read three texts like ``ids:1x128,mask:1x128``.

        Raises:
            OptionError: A text is something else.
        """
        return cls(
            minimum=_read(minimum, MINIMUM),
            optimum=_read(optimum, OPTIMUM),
            maximum=_read(maximum, MAXIMUM),
        )

    @property
    def by_option(self) -> Mapping[str, Mapping[str, Shape]]:
        """The three of them, by the option that gives them."""
        return {MINIMUM: self.minimum, OPTIMUM: self.optimum, MAXIMUM: self.maximum}


def text_of(shapes: Mapping[str, Shape]) -> str:
    """What `Shapes.parse` reads, which is also how trtexec and ONNX Runtime want it."""
    return ",".join(f"{name}:{_times(shape)}" for name, shape in shapes.items())


def profiles_of(model: ir.Model, shapes: Shapes) -> tuple[Profile, ...]:
    """A profile for every input with free dimensions, in the model's order.

    Raises:
        OptionError: One has no shapes, or given shapes do not fit the model or each other.
        ModelError: An input has no known rank.
    """
    inputs = _inputs(model)
    for option, given in shapes.by_option.items():
        for name, shape in given.items():
            _require_fit(inputs, name, shape, option)
    free = {name: value for name, value in inputs.items() if _is_free(value)}
    lacking = [name for name in free if name not in shapes.optimum]
    if lacking:
        raise OptionError(
            f"dimensions are free in {', '.join(_described(free[name]) for name in lacking)}",
            where=f"input '{lacking[0]}'",
            remedy=f"Give {OPTIMUM} {_example(free)} with the sizes that you use, and "
            f"{MINIMUM} and {MAXIMUM} for a range",
        )
    return tuple(_profile(name, shapes) for name in free)


def usual_profiles(model: ir.Model, shapes: Shapes) -> tuple[Profile, ...]:
    """The same, with sizes guessed from names for inputs without shapes.

    Raises:
        OptionError: Given shapes do not fit the model or each other.
        ModelError: An input has no known rank.
    """
    guessed = {
        name: sizes.usual_shape(value)
        for name, value in _inputs(model).items()
        if _is_free(value) and name not in shapes.optimum
    }
    # A name with only a smallest or largest shape is told as missing its typical one.
    half = {name for name in guessed if name in shapes.minimum or name in shapes.maximum}
    filled = {name: shape for name, shape in guessed.items() if name not in half}
    optimum = {**shapes.optimum, **filled}
    return profiles_of(model, dataclasses.replace(shapes, optimum=optimum))


def _read(text: str | None, option: str) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    rest = text or ""
    while rest:
        one = _ONE.match(rest)
        if one is None:
            raise OptionError(
                f"'{rest}' is no list of shapes",
                where=option,
                remedy="Write NAME:1x3x224x224, with commas between inputs",
            )
        if one["name"] in found:
            raise OptionError(
                f"input '{one['name']}' stands twice in it",
                where=option,
                remedy="Give it once",
            )
        found[one["name"]] = tuple(int(size) for size in one["dims"].split("x"))
        rest = rest[one.end() :]
    return found


def _inputs(model: ir.Model) -> dict[str, ir.Value]:
    """Inputs that have to be fed; those with a default are constants to TensorRT."""
    found = {}
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        if value.shape is None:
            raise ModelError(
                "the number of its dimensions is not known",
                where=f"input '{value.name}'",
                remedy="Export the model with typed inputs",
            )
        found[value.name or ""] = value
    return found


def _is_free(value: ir.Value) -> bool:
    return value.shape is not None and not value.shape.is_static()


def _require_fit(inputs: Mapping[str, ir.Value], name: str, shape: Shape, option: str) -> None:
    if name not in inputs:
        raise OptionError(
            f"the model has no input '{name}'",
            where=option,
            remedy=f"Its inputs: {', '.join(map(_described, inputs.values()))}",
        )
    prescribed = inputs[name].shape
    assert prescribed is not None
    fits = len(prescribed) == len(shape) and all(
        size > 0 and (size == wanted or not isinstance(wanted, int))
        for size, wanted in zip(shape, prescribed, strict=True)
    )
    if not fits:
        raise OptionError(
            f"{_times(shape)} does not fit input {_described(inputs[name])}",
            where=option,
            remedy="Give a size above 0 for every free dimension and the model's for others",
        )


def _profile(name: str, shapes: Shapes) -> Profile:
    typical = shapes.optimum[name]
    smallest = shapes.minimum.get(name, typical)
    largest = shapes.maximum.get(name, typical)
    for option, low, high in ((MINIMUM, smallest, typical), (MAXIMUM, typical, largest)):
        if any(less > more for less, more in zip(low, high, strict=True)):
            raise OptionError(
                f"for input '{name}', {_times(low)} does not lie below {_times(high)}",
                where=option,
                remedy=f"{OPTIMUM} has to lie between {MINIMUM} and {MAXIMUM}",
            )
    return Profile(name=name, smallest=smallest, typical=typical, largest=largest)


def _described(value: ir.Value) -> str:
    return f"'{value.name}' [{', '.join(str(size) for size in value.shape or ())}]"


def _example(free: Mapping[str, ir.Value]) -> str:
    return text_of({name: sizes.usual_shape(value) for name, value in free.items()})


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))

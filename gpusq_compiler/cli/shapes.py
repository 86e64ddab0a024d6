"""The three options that give shapes to inputs with free dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpusq_compiler.trt.engines.profiles import Shapes

Command = TypeVar("Command", bound="Callable[..., Any]")
_SPEC = "NAME:1x3x224x224,..."


def shape_options(command: Command) -> Command:
    """Add them to a command, which gets them by the names that `shapes_of` reads."""
    for option, text in (
        ("--max-shapes", "The largest; default as --opt-shapes"),
        ("--min-shapes", "The smallest; default as --opt-shapes"),
        ("--opt-shapes", "Shapes of inputs with free dimensions, kernels are timed there"),
    ):
        command = click.option(option, metavar=_SPEC, help=text)(command)
    return command


def shapes_of(given: Mapping[str, Any]) -> Shapes:
    """What a command was given."""
    from gpusq_compiler.trt.engines.profiles import Shapes

    return Shapes.parse(given["min_shapes"], given["opt_shapes"], given["max_shapes"])

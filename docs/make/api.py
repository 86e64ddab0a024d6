"""The page of the public Python names, from their signatures and docstrings."""

from __future__ import annotations

import enum
import importlib
import inspect
from typing import TYPE_CHECKING

import gpusq_compiler
from docs.make.prose import markdown

if TYPE_CHECKING:
    from collections.abc import Iterator

BEYOND = {
    "Passes of other kinds": (
        "gpusq_compiler.passes.adapters:SurgeonPass",
        "gpusq_compiler.passes.adapters:IrPass",
        "gpusq_compiler.passes.pack:unpack",
        "gpusq_compiler.passes.extract:extract",
    ),
    "Components": (
        "gpusq_compiler.components:Component",
        "gpusq_compiler.sparsity.scores:Score",
        "gpusq_compiler.quant.observers:Observer",
        "gpusq_compiler.train.quantizers:Quantizer",
        "gpusq_compiler.train.job:Loss",
        "gpusq_compiler.train.job:LossGraph",
    ),
    "What a compile answers": (
        "gpusq_compiler.report:CompileReport",
        "gpusq_compiler.runtime.events:Events",
        "gpusq_compiler.runtime.events:Silent",
    ),
    "Engines": (
        "gpusq_compiler.trt.engines.build:build",
        "gpusq_compiler.trt.engines.options:EngineOptions",
        "gpusq_compiler.trt.legality.legal:lint",
    ),
    "Errors": ("gpusq_compiler.errors:GpusqError",),
}
"""What people need beside the names of the package itself, to extend it or to go deeper."""
LONGEST = 24
"""Characters of a default that is shown."""
HEAD = """# Python

What `from gpusq_compiler import ...` gives, and what else people need to extend it.
Importing the package costs nothing: each name is loaded on first use. The passes as classes
are on [their pages](passes/index.md), errors under [Messages](messages.md). This page is made
from the docstrings, which `help()` shows as well.
"""


def names() -> Iterator[tuple[str, str, object]]:
    """Section, import path and object of every public name."""
    for name in gpusq_compiler.__all__:
        yield "gpusq_compiler", f"gpusq_compiler.{name}", getattr(gpusq_compiler, name)
    for section, places in BEYOND.items():
        for place in places:
            module, _, name = place.partition(":")
            yield section, f"{module}.{name}", getattr(importlib.import_module(module), name)


def page() -> str:
    """The whole page."""
    text, last = HEAD, ""
    for section, path, thing in names():
        if section != last:
            text += f"\n## {section}\n"
        last = section
        text += _entry(path, thing)
    return text


def _entry(path: str, thing: object) -> str:
    home, _, name = path.rpartition(".")
    shown = f"from {home} import {name}"
    text = f"\n### {name}\n\n```text\n{shown}\n\n{_signature(name, thing)}\n```\n"
    text += f"\n{markdown(inspect.getdoc(thing) or '')}\n"
    if isinstance(thing, type) and issubclass(thing, enum.Enum):
        text += f"\nAs text: {', '.join(f'`{one.value}`' for one in thing)}.\n"
    elif isinstance(thing, type):
        text += _methods(thing)
    return text


def _signature(name: str, thing: object) -> str:
    """Name and parameters, one a line; a class that is not called is its name."""
    if not callable(thing) or inspect.isabstract(thing) or _is_no_call(thing):
        return f"class {name}"
    signature = inspect.signature(thing)
    parameters = list(signature.parameters.values())
    answer = f" -> {signature.return_annotation}" if inspect.isfunction(thing) else ""
    if not parameters:
        return f"{name}(){answer}"
    star = next((i for i, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), -1)
    lines = [f"    {_parameter(one)},\n" for one in parameters]
    if star >= 0:
        lines.insert(star, "    *,\n")
    return f"{name}(\n{''.join(lines)}){answer}"


def _is_no_call(thing: object) -> bool:
    """Enumerations and protocols are classes that nobody calls."""
    return _is_enum(thing) or getattr(thing, "_is_protocol", False)


def _is_enum(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, enum.Enum)


def _parameter(one: inspect.Parameter) -> str:
    kind = one.annotation if isinstance(one.annotation, str) else ""
    text = f"{one.name}: {kind}" if kind else one.name
    if one.default is one.empty:
        return text
    default = repr(one.default)
    told = "..." if "<" in default or len(default) > LONGEST else default
    return f"{text} = {told}"


def _methods(thing: type) -> str:
    """The public methods and properties of a class's own, each with its first sentence."""
    lines = []
    for name, member in vars(thing).items():
        inner = getattr(member, "__func__", member)
        if name.startswith("_") and name != "__call__":
            continue
        if inspect.isfunction(inner) or isinstance(inner, property):
            first = markdown((inspect.getdoc(inner) or "").split("\n\n")[0])
            lines.append(f"- `{_call(name, inner)}`: {' '.join(first.split())}\n")
    return "\n" + "".join(lines) if lines else ""


def _call(name: str, inner: object) -> str:
    if isinstance(inner, property) or not callable(inner):
        return name
    words = [one for one in inspect.signature(inner).parameters if one not in {"self", "cls"}]
    return f"{name}({', '.join(words)})"

"""One page for each command, from what it tells click."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import click

from docs.make import table
from gpusq_compiler.cli import gpusq
from gpusq_compiler.cli.terminal import EPILOG

if TYPE_CHECKING:
    from collections.abc import Iterator

MORE = {
    "bench": "[Bench](../bench.md)",
    "build": "[TensorRT: build](../trt.md#build)",
    "check": "[Look at a model](../look.md)",
    "compare": "[Look at a model](../look.md#two-files-compare)",
    "compile": "[Quick start](../quickstart.md), [Data](../data.md), [Recipes](../recipe.md), "
    "[The report](../report.md)",
    "doctor": "[Troubleshooting](../troubleshooting.md)",
    "extract": "[Troubleshooting](../troubleshooting.md)",
    "inspect": "[Look at a model](../look.md#any-file-inspect)",
    "lint": "[TensorRT: lint](../trt.md#lint), [its rules](../lint.md)",
    "pack": "[Packed files](../pack.md)",
    "passes": "[Passes](../passes/index.md)",
    "plan": "[Look at a model](../look.md#before-a-compile-plan)",
    "report": "[The report](../report.md)",
    "unpack": "[Packed files](../pack.md)",
}
"""Where each command is told of at length."""


def pages() -> dict[str, str]:
    """The pages and their list, by file."""
    commands = dict(gpusq.commands)
    made = {f"commands/{name}.md": _page(name, command) for name, command in commands.items()}
    rows = [(f"[gpusq {name}]({name}.md)", _help(one)) for name, one in commands.items()]
    codes = EPILOG.partition("Exit codes: ")[2]
    text = "# Commands\n\n" + table(("command", "what it does"), rows)
    text += "\n`gpusq-compile` is `gpusq compile`; `python -m gpusq_compiler` is `gpusq`. "
    text += "Results go to stdout, progress and errors to stderr.\n\n"
    text += f"Exit codes: {codes}\n\nThis section is made from the code.\n"
    return {"commands/index.md": text, **made}


def _page(name: str, command: click.Command) -> str:
    text = f"# gpusq {name}\n\n{_help(command)}\n\nMore: {MORE[name]}.\n"
    text += _usage(f"gpusq {name}", command)
    for verb, inner in getattr(command, "commands", {}).items():
        text += f"\n## gpusq {name} {verb}\n\n{_help(inner)}\n"
        text += _usage(f"gpusq {name} {verb}", inner)
    return text


def _usage(name: str, command: click.Command) -> str:
    arguments = [_metavar(one) for one in command.params if isinstance(one, click.Argument)]
    words = [name, *arguments, *(["[OPTIONS]"] if _options(command) else [])]
    text = f"\n```text\n{' '.join(words)}\n```\n"
    rows = [_row(option) for option in _options(command)]
    return text + (f"\n{table(('option', 'meaning', 'default'), rows)}" if rows else "")


def _options(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option) and not one.hidden]


def _row(option: click.Option) -> tuple[str, str, str]:
    names = " ".join(_names(option))
    meaning = option.help or ""
    if option.multiple:
        meaning += "; may be given several times"
    return names, meaning, _default(option)


def _names(option: click.Option) -> Iterator[str]:
    for names in (option.opts, option.secondary_opts):
        if names:
            value = "" if option.is_flag else f" {_metavar(option)}"
            yield ", ".join(f"`{name}{value}`" for name in names)


def _default(option: click.Option) -> str:
    value = option.default
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return (option.opts[0] if value is True else "") and f"`{option.opts[0]}`"
    return f"`{value}`"


def _metavar(one: click.Parameter) -> str:
    """What stands for a value; click's own word for it differs between its versions."""
    if one.metavar:
        return one.metavar.replace("|", "/")  # a bar in code in a table is read in two ways
    if isinstance(one.type, click.Choice):
        return "/".join(map(str, one.type.choices))
    if isinstance(one, click.Argument):
        return f"{(one.name or '').upper()}{'...' if one.nargs == -1 else ''}"
    return "N" if isinstance(one.type, click.types.IntParamType) else "F"


def _help(command: click.Command) -> str:
    return " ".join(inspect.cleandoc(command.help or "").split("\f")[0].split())

"""``gpusq passes`` and ``gpusq passes show NAME``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gpusq_compiler.cli.terminal import print_table

if TYPE_CHECKING:
    from collections.abc import Callable


@click.group("passes", invoke_without_command=True)
@click.pass_context
def passes_command(ctx: click.Context) -> None:
    """List the passes, or show one: gpusq passes show NAME."""
    if ctx.invoked_subcommand is not None:
        return
    from gpusq_compiler.passes import registry

    rows = [
        (name, _first_paragraph(registry.find(name)), owner)
        for name, owner in registry.names().items()
    ]
    print_table(("pass", "what it does", "from"), rows)


@passes_command.command("show")
@click.argument("name")
def show_command(name: str) -> None:
    """Options, defaults and facts of one pass."""
    from gpusq_compiler.passes import options, registry

    step = registry.find(name)
    click.echo(f"{step.name}: {_first_paragraph(step)}")
    for word, facts in (
        ("needs", step.needs),
        ("refuses", step.refuses),
        ("gives", step.gives),
        ("breaks", step.breaks),
    ):
        if facts:
            click.echo(f"  {word}: {', '.join(sorted(fact.value for fact in facts))}")
    rows = [
        (
            option.name,
            option.type_name,
            _default(options.dump_value(option.default)),
            option.help,
        )
        for option in options.options_of(step)
    ]
    print_table(("option", "type", "default", "meaning"), rows)


def _first_paragraph(thing: Callable[..., object]) -> str:
    return (thing.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def _default(value: object) -> str:
    if isinstance(value, dict):
        rest = ", ".join(f"{k}={v}" for k, v in value.items() if k != "use")
        return f"{value['use']}({rest})" if rest else str(value["use"])
    if isinstance(value, list):
        return ", ".join(map(_default, value)) or "empty"
    return "none" if value is None else str(value)

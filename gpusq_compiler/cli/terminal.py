"""What all verbs share of the terminal: tables, progress, logs, common settings."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gpusq_compiler.runtime.events import Events

UNBROKEN = 1000
"""Columns of a line where no terminal bounds them."""
LOG_FORMAT = "--log-format"
HELP = {"help_option_names": ["-h", "--help"]}
EPILOG = (
    "Exit codes: 0 done; 1 model, data or recipe refused; 2 usage; 3 a promise was broken or "
    "training failed; 4 a runtime is missing; 5 a check did not hold; 6 cannot read or "
    "write; 130 interrupted. --traceback shows where an error comes from."
)


def events_for(*, quiet: bool) -> Events:
    """Progress, until the command ends; whatever happens, the terminal is left as it was."""
    from gpusq_compiler.progress import watching

    return click.get_current_context().with_resource(watching(quiet=quiet))


def typed() -> tuple[str, ...]:
    """The command line, word by word."""
    root = click.get_current_context().find_root()
    return (root.info_name or "gpusq", *(root.obj or ()))


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether what goes to stderr is read by a program; asked before anything is parsed."""
    return f"{LOG_FORMAT}=json" in arguments or (LOG_FORMAT, "json") in itertools.pairwise(
        arguments
    )


def set_up_logs(*, verbose: bool, log_format: str = "text") -> None:
    """Logs go to stderr: decisions when verbose, else only errors."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    if log_format == "json":
        from gpusq_compiler.progress import JsonFormatter

        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, handlers=[handler])


def console() -> Any:
    """Standard output, as wide as the terminal; elsewhere as wide as it takes.

    A name that is broken over two lines cannot be searched for, nor given to ``--set``.
    """
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else UNBROKEN)


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, figures: Collection[str] = ()
) -> None:
    """Print rows under headings; figures stand right."""
    from rich.table import Table

    table = Table()
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading in figures else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table, markup=False)


def print_json(content: object) -> None:
    """Print plain values as JSON, and nothing else."""
    import json

    click.echo(json.dumps(content, indent=1, allow_nan=False))

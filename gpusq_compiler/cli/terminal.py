"""What all verbs share of the terminal: tables, progress, logs, common settings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gpusq_compiler.runtime.events import Events

HELP = {"help_option_names": ["-h", "--help"]}
EPILOG = (
    "Exit codes: 0 done; 1 model, data or recipe refused; 2 usage; 3 a promise was broken or "
    "training failed; 4 a runtime is missing; 5 a check did not hold; 6 cannot read or "
    "write; 130 interrupted. --traceback shows where an error comes from."
)


def events_for(*, quiet: bool) -> Events:
    """A watcher that draws progress, or one that stays silent."""
    from gpusq_compiler.progress import TerminalEvents
    from gpusq_compiler.runtime.events import Silent

    return Silent() if quiet else TerminalEvents()


def set_up_logs(*, verbose: bool) -> None:
    """Logs go to stderr: decisions when verbose, else only errors."""
    import logging

    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)


def console() -> Any:
    """Standard output, as wide as the terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


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

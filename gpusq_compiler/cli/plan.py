"""``gpusq plan MODEL``, which is also what ``--dry-run`` of compile prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gpusq_compiler.cli.compile import asked, compile_command
from gpusq_compiler.cli.terminal import (
    EPILOG,
    HELP,
    events_for,
    print_json,
    print_table,
    set_up_logs,
)

if TYPE_CHECKING:
    from gpusq_compiler.analysis.plan import ModelPlan

OF_A_RUN = ("dry_run", "resume", "measure", "quiet", "verbose", "log_format")
"""Options of compile that change nothing about what it would do."""
SHARED = [one for one in compile_command.params if one.name not in OF_A_RUN]


@click.command("plan", epilog=EPILOG, context_settings=HELP, params=SHARED)
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON")
def plan_command(**given: Any) -> None:
    """What compile would do to MODEL, layer by layer.

    It takes what compile takes; without passes or a recipe it plans prune,qat.
    """
    from gpusq_compiler import compile as compiler
    from gpusq_compiler.runtime import flavour

    set_up_logs(verbose=False)
    if given["passes"] is None and given["recipe"] is None:
        given["passes"] = "prune,qat" if flavour.can_train() else "prune,quantize"
    events = events_for(quiet=given["as_json"])
    found = compiler.preview(*asked({**given, "resume": False, "measure": None}, events))
    if given["as_json"]:
        print_json({**found.as_json(), "model": str(given["model"])})
    else:
        show(found)


def show(found: ModelPlan) -> None:
    """Print a plan for people."""
    from gpusq_compiler.analysis.plan import FIGURES, HEADINGS

    for line in (*found.notes, *map(str, found.passes)):
        click.echo(line)
    print_table(HEADINGS, found.rows(), figures=FIGURES)
    for line in found.summary():
        click.echo(line)

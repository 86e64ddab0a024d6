"""``gpusq doctor``."""

from __future__ import annotations

import click

from gpusq_compiler.cli.terminal import print_table


@click.command("doctor")
def doctor_command() -> None:
    """What this machine can do, what is missing, and the line that installs it."""
    from gpusq_compiler.doctor import examine

    print_table(("feature", "state", "to get it"), examine())

"""``gpusq report FILE.json``."""

from __future__ import annotations

from pathlib import Path

import click

from gpusq_compiler.errors import FileError, OptionError


@click.command("report")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT.html",
    help="Default beside FILE",
)
def report_command(file: Path, out: Path | None) -> None:
    """Draw the page of a compile from FILE, its report as JSON."""
    from gpusq_compiler import page
    from gpusq_compiler.ir import io
    from gpusq_compiler.page.reading import load
    from gpusq_compiler.request import is_page

    target = file.with_suffix(".html") if out is None else out
    if target.resolve() == file.resolve():
        raise FileError(
            "is the input and would be overwritten",
            where=str(target),
            remedy="Choose another output with -o",
        )
    if not is_page(target):
        raise OptionError(
            f"'{target}' is no page's name", where="-o", remedy="End it in .html or .htm"
        )
    io.require_writable(target)
    io.write_whole(target, page.draw(load(file)).encode(), option="-o")
    click.echo(str(target))

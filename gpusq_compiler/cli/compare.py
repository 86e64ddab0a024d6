"""``gpusq compare FIRST SECOND``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpusq_compiler.cli.terminal import events_for, print_json, print_table, set_up_logs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.analysis.comparison import Comparison


@click.command("compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--data", metavar="D", help="As for compile; none: synthesised inputs")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of synthesised inputs")
@click.option("--layers", is_flag=True, help="Every tensor that both compute, too")
@click.option("--samples", type=click.IntRange(1), default=16, help="Of --layers; default 16")
@click.option("--part-at", type=float, default=20.0, metavar="DB",
              help="SQNR below which tensors count as parted; default 20")  # fmt: skip
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE",
              help=".svg or .png of --layers")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Default: the runtime chooses")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON")
def compare_command(first: Path, second: Path, **given: Any) -> None:
    """How far SECOND is from FIRST, and where they part."""
    from gpusq_compiler.analysis import comparison, picture

    set_up_logs(verbose=False)
    if given["picture"] is not None:
        picture.require_drawable(given["picture"])
    found = _compared(first, second, given)
    if given["picture"] is not None and found.tensors is not None:
        picture.draw(found.tensors, given["picture"], f"{first} and {second}")
    if given["as_json"]:
        print_json({**found.as_json(), "first": str(first), "second": str(second)})
        return
    print_table(comparison.OUTPUTS, found.output_rows(), figures=comparison.FIGURES)
    if found.tensors is not None:
        print_table(comparison.TENSORS, found.tensor_rows(), figures=comparison.FIGURES)
    for line in found.summary():
        click.echo(line)


def _compared(first: Path, second: Path, given: Mapping[str, Any]) -> Comparison:
    import tempfile

    from gpusq_compiler.analysis.comparison import Comparison
    from gpusq_compiler.analysis.divergence import diverge
    from gpusq_compiler.context import samples_of
    from gpusq_compiler.ir import io
    from gpusq_compiler.runtime.compare import compare

    reference, model = io.load(first), io.load(second)
    events, threads = events_for(quiet=given["as_json"]), given["threads"]
    with tempfile.TemporaryDirectory(prefix="gpusq-") as folder:
        samples = samples_of(given["data"], reference, Path(folder), given["seed"])
        outputs = compare(reference, model, samples, threads=threads, events=events)
        tensors = None
        if given["layers"] or given["picture"] is not None:
            tensors = diverge(
                reference,
                model,
                samples,
                count=given["samples"],
                limit=given["part_at"],
                threads=threads,
                events=events,
            )
        return Comparison(samples=samples.count, outputs=outputs, tensors=tensors)

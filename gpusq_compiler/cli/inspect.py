"""``gpusq inspect MODEL``."""

from __future__ import annotations

from pathlib import Path

import click

from gpusq_compiler.cli.terminal import print_json, print_table, set_up_logs


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--tensorrt", default="11", metavar="V", help="8.6, 10 or 11  [default: 11]")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON")
def inspect_command(model: Path, tensorrt: str, as_json: bool) -> None:
    """What MODEL is, whoever wrote it, and what blocks its speed.

    Contents, layers with sparsity and quantizers, claims of gpusq, rules of TensorRT.
    """
    from gpusq_compiler.analysis.inspection import FIGURES, HEADINGS, inspect
    from gpusq_compiler.ir import io, soundness
    from gpusq_compiler.trt.legality.rules import Version

    set_up_logs(verbose=False)
    version = Version.parse(tensorrt)
    loaded = io.load(model, strict=False)
    found = inspect(loaded, complaint=soundness.complaint(loaded, model), version=version)
    if as_json:
        print_json({**found.as_json(), "model": str(model)})
        return
    for line in found.head():
        click.echo(line)
    if found.layers:
        print_table(HEADINGS, found.rows(), figures=FIGURES)
    for line in found.tail():
        click.echo(line)

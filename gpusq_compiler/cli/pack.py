"""``gpusq pack MODEL``."""

from __future__ import annotations

from pathlib import Path

import click

from gpusq_compiler.errors import PreconditionError


@click.command("pack")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT.onnx",
    help="Default ./<stem>.packed.onnx",
)
def pack_command(model: Path, out: Path | None) -> None:
    """Store the sparse weights of a compiled MODEL without their zeros."""
    import tempfile

    from gpusq_compiler.ir import io
    from gpusq_compiler.passes import facts
    from gpusq_compiler.passes.base import Context, Fact
    from gpusq_compiler.passes.pack import Pack
    from gpusq_compiler.passes.pipeline import Pipeline

    out = out or Path(f"{model.stem}.packed.onnx")
    loaded = io.load(model)
    io.require_writable(out, loaded)
    if Fact.FROZEN not in facts.present(loaded):
        raise PreconditionError(
            "holds no integer weights of ours",
            where=str(model),
            remedy="Compile it: gpusq-compile MODEL --passes prune,qat,pack",
        )
    with tempfile.TemporaryDirectory(prefix="gpusq-") as folder:
        (report,) = Pipeline(passes=(Pack(),)).run(loaded, Context(workdir=Path(folder)))
    for finding in report.result.skipped:
        click.echo(f"left as it is: {finding}")
    if not report.result.changed:
        raise PreconditionError(
            "holds no weight that packing makes smaller",
            where=str(model),
            remedy="Prune before you quantize: --passes prune,qat,pack",
        )
    before, written = io.source_size(loaded), io.save(loaded, out)
    count = len(report.result.changed)
    click.echo(
        f"{count} weight{'s' * (count > 1)} packed: {before / 1e6:.3f} MB → "
        f"{written.size / 1e6:.3f} MB"
    )
    click.echo(written.path)

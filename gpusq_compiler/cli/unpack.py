"""``gpusq unpack MODEL``."""

from __future__ import annotations

from pathlib import Path

import click

from gpusq_compiler.errors import PreconditionError


@click.command("unpack")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT.onnx",
    help="Default ./<stem>.unpacked.onnx",
)
def unpack_command(model: Path, out: Path | None) -> None:
    """Write a packed MODEL as it was before, for readers such as TensorRT."""
    from gpusq_compiler.ir import io

    loaded = io.load(model)
    names = io.packed_weights(loaded)
    if not names:
        raise PreconditionError(
            "holds nothing packed", where=str(model), remedy="Use the file as it is"
        )
    written = io.save(
        loaded, out or Path(f"{model.stem.removesuffix('.packed')}.unpacked.onnx")
    )
    click.echo(f"{len(names)} weight{'s' * (len(names) > 1)} unpacked")
    click.echo(written.path)

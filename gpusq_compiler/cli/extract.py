"""``gpusq extract MODEL``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("extract")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--inputs", required=True, metavar="A,B", help="Tensors that become its inputs")
@click.option("--outputs", required=True, metavar="C", help="Tensors that become its outputs")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT.onnx",
    help="Default ./<stem>.extract.onnx",
)
def extract_command(model: Path, inputs: str, outputs: str, out: Path | None) -> None:
    """Cut out of MODEL what computes some of its tensors from others."""
    from gpusq_compiler.ir import io
    from gpusq_compiler.passes.extract import extract

    loaded = io.load(model)
    extract(loaded, inputs=_names(inputs), outputs=_names(outputs))
    click.echo(io.save(loaded, out or Path(f"{model.stem}.extract.onnx")).path)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]

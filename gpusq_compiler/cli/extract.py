"""``gpusq extract MODEL``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence


@click.command("extract")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--inputs", multiple=True, required=True, metavar="A,B",
              help="Tensors that become its inputs; a name with commas alone")  # fmt: skip
@click.option("--outputs", multiple=True, required=True, metavar="C",
              help="Tensors that become its outputs; likewise")  # fmt: skip
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT.onnx",
    help="Default ./<stem>.extract.onnx",
)
def extract_command(
    model: Path, inputs: Sequence[str], outputs: Sequence[str], out: Path | None
) -> None:
    """Cut out of MODEL what computes some of its tensors from others."""
    from gpusq_compiler.ir import io
    from gpusq_compiler.passes.extract import extract, tensors_of

    loaded = io.load(model)
    known = tensors_of(loaded)
    extract(loaded, inputs=list(_names(inputs, known)), outputs=list(_names(outputs, known)))
    click.echo(io.save(loaded, out or Path(f"{model.stem}.extract.onnx")).path)


def _names(texts: Sequence[str], known: Container[str]) -> Iterator[str]:
    for text in texts:
        yield from [text] if text in known else (name.strip() for name in text.split(","))

"""``gpusq compare FIRST SECOND``."""

from __future__ import annotations

from pathlib import Path

import click

from gpusq_compiler.cli.terminal import events_for, print_table


@click.command("compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--data", metavar="D", help="As for compile; none: synthesised inputs")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of synthesised inputs")
def compare_command(first: Path, second: Path, data: str | None, seed: int) -> None:
    """How far the outputs of SECOND are from those of FIRST."""
    import tempfile

    from gpusq_compiler.context import samples_of
    from gpusq_compiler.ir import io
    from gpusq_compiler.runtime.compare import compare

    reference, model = io.load(first), io.load(second)
    with tempfile.TemporaryDirectory(prefix="gpusq-") as folder:
        samples = samples_of(data, reference, Path(folder), seed)
        found = compare(reference, model, samples, events=events_for(quiet=False))
    rows = [
        (
            name,
            f"{d.cosine:.6f}",
            f"{d.sqnr:.1f} dB",
            f"{d.max_error:.3g}",
            "" if d.agreement is None else f"{100 * d.agreement:.1f} %",
        )
        for name, d in found.items()
    ]
    print_table(("output", "cosine", "SQNR", "max error", "same argmax"), rows)

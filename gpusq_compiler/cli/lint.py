"""``gpusq lint MODEL``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpusq_compiler.errors import GateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from gpusq_compiler.trt.rules import Diagnosis, Version


@click.command("lint")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--tensorrt", default="11", metavar="V", help="8.6, 10 or 11  [default: 11]")
@click.option("--fix", type=click.Path(path_type=Path), metavar="OUT", help="Repaired copy")
def lint_command(model: Path, tensorrt: str, fix: Path | None) -> None:
    """What TensorRT would refuse in MODEL, run in float, or not run sparse."""
    from gpusq_compiler.ir import io
    from gpusq_compiler.trt.legal import lint
    from gpusq_compiler.trt.rules import Severity, Version

    version = Version.parse(tensorrt)
    loaded = io.load(model)
    if fix is not None:
        loaded = _repaired(loaded, fix)
    found = lint(loaded, version)
    for diagnosis in found:
        click.echo(str(diagnosis))
    click.echo(_counts(found, version))
    refused = sum(one.severity is Severity.REFUSED for one in found)
    if refused:
        raise GateError(
            f"TensorRT {version} refuses it: {refused} finding{'s' * (refused > 1)}",
            where=str(fix or model),
            remedy="The lines above say what to do"
            if fix
            else "Try --fix OUT, or do what the lines above say",
        )


def _repaired(model: ir.Model, out: Path) -> ir.Model:
    """Write the repaired copy and say what was done."""
    from gpusq_compiler.ir import io
    from gpusq_compiler.trt.repair import repair

    io.require_writable(out, model)
    repaired = repair(model)
    for place in repaired.places:
        click.echo(f"repaired {place.where}: {place.what}")
    written = io.save(repaired.model, out)
    click.echo(f"{len(repaired.places)} repairs, written to {written.path}; left in it:")
    return repaired.model


def _counts(found: Sequence[Diagnosis], version: Version) -> str:
    from gpusq_compiler.trt.rules import Severity

    counts = (
        f"{sum(one.severity is severity for one in found)} {severity.value}"
        for severity in Severity
    )
    return f"TensorRT {version}: {', '.join(counts)}"

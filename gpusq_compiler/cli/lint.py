"""``gpusq lint MODEL``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpusq_compiler.cli.terminal import print_json
from gpusq_compiler.errors import GateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from gpusq_compiler.trt.legality.rules import Diagnosis, Place, Version


FORM = (
    "It is in ONNX Runtime's form, uint8 and int32. gpusq build and lower give TensorRT "
    "another, which is meant here; for its own tools --fix OUT writes that"
)


@click.command("lint")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--tensorrt", default="11", metavar="V", help="8.6, 10 or 11  [default: 11]")
@click.option("--fix", type=click.Path(path_type=Path), metavar="OUT", help="Repaired copy")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON")
def lint_command(model: Path, tensorrt: str, fix: Path | None, as_json: bool) -> None:
    """What TensorRT would refuse in MODEL, run in float, or not run sparse."""
    from gpusq_compiler.ir import io
    from gpusq_compiler.trt.legality.legal import lint
    from gpusq_compiler.trt.legality.rules import Severity, Version
    from gpusq_compiler.trt.legality.taken import as_taken, differs

    version = Version.parse(tensorrt)
    loaded, places = io.load(model), None
    if fix is not None:
        loaded, places = _repaired(loaded, fix)
    taken = as_taken(loaded)
    found = lint(taken, version)
    if as_json:
        _print_json(model, version, found, places, repairs=differs(taken))
    else:
        _print(version, found, fix, places)
        if differs(taken):
            click.echo(FORM)
    refused = sum(one.severity is Severity.REFUSED for one in found)
    if refused:
        raise GateError(
            f"TensorRT {version} refuses it: {refused} finding{'s' * (refused > 1)}",
            where=str(fix or model),
            remedy="The lines above say what to do"
            if fix
            else "Try --fix OUT, or do what the lines above say",
        )


def _repaired(model: ir.Model, out: Path) -> tuple[ir.Model, Sequence[Place]]:
    """Write the repaired copy; it and what was repaired."""
    from gpusq_compiler.ir import io
    from gpusq_compiler.trt.legality.repair import repair

    io.require_writable(out, model)
    repaired = repair(model)
    io.save(repaired.model, out)
    return repaired.model, repaired.places


def _print(
    version: Version,
    found: Sequence[Diagnosis],
    out: Path | None,
    places: Sequence[Place] | None,
) -> None:
    if places is not None:
        for place in places:
            click.echo(f"repaired {place.where}: {place.what}")
        click.echo(f"{len(places)} repairs, written to {out}; left in it:")
    for diagnosis in found:
        click.echo(str(diagnosis))
    counts = (f"{number} {severity}" for severity, number in _counts(found).items())
    click.echo(f"TensorRT {version}: {', '.join(counts)}")


def _print_json(
    model: Path,
    version: Version,
    found: Sequence[Diagnosis],
    places: Sequence[Place] | None,
    *,
    repairs: bool,
) -> None:
    from gpusq_compiler.plain import FORMAT

    repaired = [{"where": place.where, "what": place.what} for place in places or ()]
    print_json(
        {
            "format": FORMAT,
            "model": str(model),
            "tensorrt": str(version),
            "counts": _counts(found),
            "findings": [one.as_json() for one in found],
            "repaired": None if places is None else repaired,
            "form": "onnxruntime" if repairs else "plain",
        }
    )


def _counts(found: Sequence[Diagnosis]) -> dict[str, int]:
    from gpusq_compiler.trt.legality.rules import Severity

    return {
        severity.value: sum(one.severity is severity for one in found) for severity in Severity
    }

"""``gpusq check MODEL``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpusq_compiler.cli.terminal import print_json
from gpusq_compiler.errors import PostconditionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.passes.base import Finding


@click.command("check")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON")
def check_command(model: Path, as_json: bool) -> None:
    """Verify everything that MODEL claims about itself, on its values."""
    from gpusq_compiler.ir import claims, io
    from gpusq_compiler.passes import facts
    from gpusq_compiler.passes.base import Fact
    from gpusq_compiler.plain import FORMAT, plain

    loaded = io.load(model)
    broken = facts.broken_claims(loaded)
    if broken and not as_json:
        _fail_with(broken, model)
    present = facts.present(loaded)
    if io.packed_weights(loaded):
        present |= {Fact.PACKED}
    claimed = len(list(claims.sparse_values(loaded)))
    if as_json:
        print_json(
            {
                "format": FORMAT,
                "model": str(model),
                "facts": {fact.value: fact in present for fact in Fact},
                "claims": claimed,
                "broken": [plain(finding) for finding in broken],
            }
        )
        if broken:
            _fail_with(broken, model)
        return
    for fact in Fact:
        click.echo(f"{fact.value:10} {'holds' if fact in present else 'not claimed'}")
    click.echo(f"{claimed} tensors hold the pattern that they claim; ONNX checker: valid")


def _fail_with(broken: Sequence[Finding], model: Path) -> None:
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    raise PostconditionError(
        f"{broken[0].where}: {broken[0].reason}{more}",
        where=str(model),
        remedy="Compile the dense model again",
    )

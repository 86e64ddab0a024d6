"""Tools side by side: each round runs every one of them once, in an order drawn anew."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import random
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import pages
from benchmarks.rivals.environments import versions_in
from benchmarks.turns import ROOT, ran
from gpusq_compiler.manifest import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PAGE = ROOT / "docs" / "rivals.md"
RESULTS = ROOT / "benchmarks" / "results"
FLOOR = "floor"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entrant:
    """A tool and what it is asked.

    Attributes:
        title: As the table calls it.
        command: Makes the command line for a folder that is its own.
        product: The file in that folder which it has to write.
    """

    title: str
    command: Callable[[Path], Sequence[str]]
    product: str = "out.onnx"


def contest(
    entrants: Mapping[str, Entrant],
    *,
    rounds: int,
    limit: float,
    judge: Callable[[Path], Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Medians of all rounds, and what the judge makes of each product.

    Args:
        entrants: Where one is called `FLOOR`, it prints what it took, imports not counted.
        rounds: Of each; who fails or is too slow is out after the first.
        limit: Seconds that a run may take.
        judge: Looks at the file of the first round.
    """
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in entrants}
    verdicts: dict[str, Mapping[str, Any]] = {}
    out: dict[str, str] = {}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(entrants), len(entrants)):
            if name in out:
                continue
            with tempfile.TemporaryDirectory() as folder:
                entrant = entrants[name]
                found = ran(entrant.command(Path(folder)), limit=limit, folder=Path(folder))
                if name == FLOOR:
                    found |= json.loads(found["output"].strip().splitlines()[-1])
                product = Path(folder) / entrant.product
                if "failed" not in found and not product.exists():
                    found["failed"] = "no file"
                if "failed" in found:
                    out[name] = found["failed"]
                elif name not in verdicts:
                    verdicts[name] = judge(product)
                print(name, {k: v for k, v in found.items() if k != "output"}, flush=True)
                taken[name].append(found)
    return {
        name: {
            **_medians(rows, taken.get(FLOOR, rows)),
            **verdicts.get(name, {}),
            **_failure(out, name),
        }
        for name, rows in taken.items()
    }


def _failure(out: Mapping[str, str], name: str) -> dict[str, str]:
    return {"failed": out[name]} if name in out else {}


def _medians(
    rows: Sequence[Mapping[str, Any]], floor: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Medians; ratios are those of the same round."""
    found: dict[str, float] = {"gigabytes": max(row["gigabytes"] for row in rows)}
    for clock in ("wall", "cpu"):
        found[clock] = statistics.median(row[clock] for row in rows)
        ratios = [row[clock] / base[clock] for row, base in zip(rows, floor, strict=False)]
        found[f"{clock}_floors"] = statistics.median(ratios)
    return {name: round(value, 4) for name, value in found.items()}


def record(
    command: str, pythons: Mapping[str, str], models: Mapping[str, Any]
) -> dict[str, Any]:
    """What a result file holds."""
    return {
        "command": command,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "tools": {name: versions_in(python) for name, python in pythons.items()},
        "models": models,
    }


def publish(name: str, found: Mapping[str, Any], table: str) -> None:
    """Write the result file, and the table between the page's marks of that name."""
    file = RESULTS / f"{name}.json"
    known_tools = json.loads(file.read_text())["tools"] if file.exists() else {}
    whole = {**found, "tools": {**known_tools, **found["tools"]}}
    file.write_text(json.dumps(whole, indent=1) + "\n")
    pages.fill(PAGE, name, table)


def known(name: str) -> dict[str, Any]:
    """The models of a result file that is there."""
    file = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text())["models"] if file.exists() else {}
    return found


def times(row: Mapping[str, Any]) -> str:
    """The columns of time and memory."""
    return (
        f"{row['wall']:.1f} | {row['wall_floors']:.2f} | {row['cpu']:.1f} "
        f"| {row['cpu_floors']:.2f} | {row['gigabytes']:.2f}"
    )

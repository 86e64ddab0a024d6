"""2:4 pruning by magnitude: time and memory against the bare work and other tools.

usage: python -m benchmarks.prune [--only MODEL] [--rounds N] [--limit SECONDS]
           [--without TOOL] [--cache FOLDER]

The floor reads, ranks and writes the same weights and does nothing else. Tools are installed
from PyPI into FOLDER (build/rivals). Leaves benchmarks/results/prune.json and the table in
docs/rivals.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from benchmarks.contest import FLOOR, Entrant, contest, known, publish, record, times
from benchmarks.rivals.environments import CACHE, python_of
from gpusq_compiler.errors import GpusqError
from gpusq_compiler.ir import io, query
from gpusq_compiler.sparsity.nm import has_pattern
from tests import zoo_models
from tests.train import nets

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMAND = "python -m benchmarks.prune"
LARGE = "transformer"
MODELS = {"deit_small_patch16_224": "DeiT-S, 88 MB", LARGE: "transformer, 1.2 GB beside it"}
TOOLS = ("polygraphy", "onnxsim")
TITLES = {
    FLOOR: "floor: read, rank, write",
    "ours": "gpusq-compile --passes prune",
    "onnxsim": "onnxsim, apply_magnitude_pruning",
    "polygraphy": "polygraphy surgeon prune",
}


def source(name: str, folder: Path) -> Path:
    """The model as a file; the large one has its weights in another."""
    if name != LARGE:
        return zoo_models.path(name)
    path = folder / "transformer.onnx"
    model = nets.transformer(
        width=2048, depth=6, tokens=25, heads=16, inputs=2048, classes=1000
    )
    ir.save(model, path, external_data="transformer.data")
    return path


def entrants(model: Path, pythons: Mapping[str, str]) -> dict[str, Entrant]:
    """Everybody with a command line."""
    ours = [sys.executable, "-m", "gpusq_compiler", "compile", str(model), "--passes", "prune"]
    found = {
        FLOOR: Entrant(
            title=TITLES[FLOOR],
            command=lambda folder: [
                sys.executable,
                *("-m", "benchmarks.rivals.floors", "prune", str(model)),
                str(folder / "out.onnx"),
            ],
        ),
        "ours": Entrant(
            title=TITLES["ours"],
            command=lambda folder: [
                *ours,
                *("-o", str(folder / "out.onnx"), "--workdir", str(folder / "work")),
            ],
        ),
    }
    if "onnxsim" in pythons:
        found["onnxsim"] = Entrant(
            title=TITLES["onnxsim"],
            command=lambda folder: [
                pythons["onnxsim"],
                *("-m", "benchmarks.rivals.tools", "onnxsim-prune", str(model)),
                str(folder / "out.onnx"),
            ],
        )
    if "polygraphy" in pythons:
        tool = str(Path(pythons["polygraphy"]).with_name("polygraphy"))
        found["polygraphy"] = Entrant(
            title=TITLES["polygraphy"],
            command=lambda folder: [
                tool,
                *("surgeon", "prune", str(model), "-o", str(folder / "out.onnx")),
            ],
        )
    return found


def judged(file: Path) -> dict[str, Any]:
    """How many of the layers that can have the pattern do, on the axis that they sum over."""
    try:
        model = io.load(file, strict=False)
    except GpusqError as error:
        return {"layers": error.what}
    uses = [use for use in query.weight_uses(model) if use.reduction_length % 4 == 0]
    sparse = 0
    for use in uses:
        tensor = use.value.const_value
        assert tensor is not None
        sparse += has_pattern(tensor.numpy(), axis=use.reduction)
    return {"layers": f"{sparse} of {len(uses)}"}


def table(found: Mapping[str, Any]) -> str:
    """One row per tool and model."""
    lines = [
        "| model | | s | x floor | CPU s | x floor | peak GB | sparse layers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in found["models"].items():
        for who, row in rows.items():
            layers = row.get("failed") or row.get("layers", "")
            title = f"| {MODELS[name]} | {TITLES[who]} |"
            lines.append(f"{title} {times(row)} | {layers} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is asked; keep what is there of other models and tools."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=120, help="seconds of a run")
    parser.add_argument("--without", action="append", choices=TOOLS, default=[])
    parser.add_argument("--cache", type=Path, default=CACHE)
    asked = parser.parse_args()
    pythons = {n: python_of(n, asked.cache) for n in TOOLS if n not in asked.without}
    models = known("prune")
    for name in asked.only or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            running = entrants(source(name, Path(folder)), pythons)
            measured = contest(running, rounds=asked.rounds, limit=asked.limit, judge=judged)
            rows = {**models.get(name, {}), **measured}
            models[name] = {who: rows[who] for who in TITLES if who in rows}
        found = record(COMMAND, pythons, {n: models[n] for n in MODELS if n in models})
        publish("prune", found, table(found))
    print(table(found))


if __name__ == "__main__":
    main()

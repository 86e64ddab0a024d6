"""Compile every model of the zoo for both targets and tabulate what came of it.

usage: python -m benchmarks.compatibility [--only NAME] [--target TARGET] [--again]

Each cell runs in a process of its own, so that its memory can be told, and leaves one JSON
file in the cache folder; a cell that is there is not run again. Every call writes the table
anew from all cells that are there: docs/compatibility.md and
benchmarks/results/compatibility.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gpusq_compiler.manifest import versions
from gpusq_compiler.request import TARGETS
from tests import zoo_models
from tests.zoo_cell import failings

ROOT = Path(__file__).parent.parent
CACHE = ROOT / "build" / "compatibility"
RESULT = ROOT / "benchmarks" / "results" / "compatibility.json"
PAGE = ROOT / "docs" / "compatibility.md"
COMMAND = "python -m benchmarks.compatibility"

ONE_CELL = """
import json, pathlib, sys, tempfile
from tests.zoo_cell import measure
source, target, out = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    found = measure(pathlib.Path(source), target, pathlib.Path(folder))
pathlib.Path(out).write_text(json.dumps(found, indent=1))
"""

HEAD = """# Compatibility

Real exports, compiled with `--passes prune,qat --set qat.steps=2`, without data and without
any other option. Weights are random and the inputs synthesised: the table is about graphs, not
about accuracy. Everything is judged on the written file by `tests/judge.py`, which knows ONNX
and NumPy alone; training is judged on the graphs before and after it.

- **2:4**: of the weight values whose reduction length is a multiple of 4 (depthwise and stem
  aside), the share in tensors whose integer codes hold at most two non-zeros in every four.
  ResNet's stem counts for ONNX Runtime, where it is given a fourth channel of zeros.
- **Q/DQ**: of all MatMul, Gemm and convolutions with a constant weight, the share that reads
  weight and activation through DequantizeLinear; in brackets where nothing may stand between
  it and the layer, not even an operator that only moves values.
- **moved**: trained tensors (weights, biases, norms, scales) that two steps changed, of all
  that have a gradient; those without one are listed as frozen, and a learned tensor that is
  neither trained nor listed fails the bar.
- **copy**: cosine of the Q/DQ graph to the graph that was trained, nothing fused. Next-ViT: a
  code at a tie, rounded up in one graph and down in the other, of which the layers behind it
  make more.
- **dense**: cosine to the dense model on held-out synthesised inputs.
- **seconds**: of a shared machine with other work beside it, so no measure of speed.

"""
COLUMNS = (
    "| model | target | layers | 2:4 | Q/DQ | moved | frozen | finite | copy | dense "
    "| file | seconds | peak GB | passes the bar |\n" + "| --- " * 14 + "|\n"
)


def main() -> None:
    """Run what is asked and not there yet, smallest files first; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=zoo_models.NAMES)
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--again", action="store_true", help="run cells that are there, too")
    parser.add_argument("--cache", type=Path, default=CACHE)
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    names = sorted(
        asked.only or zoo_models.NAMES, key=lambda n: zoo_models.path(n).stat().st_size
    )
    for name in names:
        for target in asked.target or TARGETS:
            cell = asked.cache / f"{name}.{target}.json"
            if asked.again or not cell.exists():
                print(f"{name} {target}: {run(name, target, cell)}", flush=True)
    write(asked.cache)


def run(name: str, target: str, cell: Path) -> str:
    """One cell in a process of its own; in one line, how it went."""
    command = [sys.executable, "-c", ONE_CELL, str(zoo_models.path(name))]
    command += [target, str(cell)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        error = str((done.stderr.strip().splitlines() or ["no message"])[-1])
        cell.write_text(json.dumps({"error": f"exit {done.returncode}: {error}"}))
        return error
    found = json.loads(cell.read_text())
    return f"{found['seconds']} s, {'; '.join(failings(found)) or 'passes'}"


def write(cache: Path) -> None:
    """The table of all cells that are there, for people and for machines."""
    cells = {
        (name, target): json.loads(file.read_text())
        for name in zoo_models.NAMES
        for target in TARGETS
        if (file := cache / f"{name}.{target}.json").exists()
    }
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    record = {
        "command": COMMAND,
        "machine": machine,
        "versions": versions(),
        "rows": [{"model": n, "target": t, **cell} for (n, t), cell in cells.items()],
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    rows = "".join(_row(name, target, cell) for (name, target), cell in cells.items())
    frozen = _frozen(cells)
    PAGE.write_text(
        f"{HEAD}{COLUMNS}{rows}\n{frozen}Made by `{COMMAND}` on {machine}, with {known}.\n"
    )


def _row(name: str, target: str, cell: dict[str, Any]) -> str:
    verdict = "; ".join(failings(cell)) or "yes"
    if "error" in cell:
        return f"| {name} | {target} {'| ' * 12}| {verdict} |\n"
    before, after = cell["bytes"]
    trained = cell["moved"] + len(cell["still"])
    dense = "" if cell["dense_cosine"] is None else f"{cell['dense_cosine']:.3f}"
    covered = f"{cell['coverage']:.1%}"
    if cell["coverage_direct"] < cell["coverage"]:
        covered += f" ({cell['coverage_direct']:.1%})"
    return (
        f"| {name} | {target} | {cell['layers']} | {cell['pattern_share']:.1%} "
        f"| {covered} | {cell['moved']} of {trained} | {len(cell['frozen'])} "
        f"| {'yes' if cell['finite'] else 'no'} | {cell['copy_cosine']:.6f} | {dense} "
        f"| {before / after:.2f}x | {cell['seconds']:.0f} | {cell['peak_gb']:.1f} "
        f"| {verdict} |\n"
    )


def _frozen(cells: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Which reasons froze how many tensors of which model."""
    lines = []
    for (name, target), cell in cells.items():
        reasons = list(cell.get("frozen", {}).values())
        lines += [
            f"- {name}, {target}: {reasons.count(reason)} tensors, {reason}\n"
            for reason in dict.fromkeys(reasons)
        ]
    return "Frozen:\n\n" + "".join(lines) + "\n" if lines else ""


if __name__ == "__main__":
    main()

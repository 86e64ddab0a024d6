"""Time and memory of one training step with fake quantization, against its floor and rivals.

usage: python -m benchmarks.qat_step [--only MODEL] [--rounds N] [--threads N]
           [--torch PYTHON | --without-torch]

A step is forward, backward, AdamW and mask on one batch, the teacher not counted. The floor is
three float forward passes of the dense model: the backward pass has two products where the
forward pass has one. Contenders step in turn, each in a process of its own; PyTorch and timm
are installed into build/torch for it, or PYTHON has them. Leaves
benchmarks/results/qat_step.json and the table in docs/training.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from benchmarks import environments, pages, qat_step_ours
from benchmarks.turns import ROOT, Contender
from gpusq_compiler.manifest import versions
from tests import zoo_models
from tests.train import nets

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULT = ROOT / "benchmarks" / "results" / "qat_step.json"
PAGE = ROOT / "docs" / "training.md"
ENVIRONMENT = ROOT / "build" / "torch"
COMMAND = "python -m benchmarks.qat_step"
PASSES = 3
TITLES = {
    "ours": "gpusq-compiler",
    "bare": "bare gradient graph",
    "eager": "PyTorch eager",
    "compiled": "PyTorch compiled",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and how many samples a step has."""

    title: str
    batch: int


CASES = {
    "deit_small_patch16_224": Case("DeiT-S", 8),
    "resnet18": Case("ResNet-18", 8),
    "encoder": Case("encoder, 6 layers, width 384, 25 tokens", 16),
}


def source(name: str, folder: Path) -> Path:
    """The dense model as a file."""
    if name != "encoder":
        return zoo_models.path(name)
    path = folder / "encoder.onnx"
    model = nets.transformer(width=384, depth=6, tokens=25, heads=12, inputs=384, classes=1000)
    ir.save(model, path)
    return path


def torch_python(asked: argparse.Namespace) -> str | None:
    """The interpreter of the rivals, installed if need be; None without them."""
    if asked.without_torch:
        return None
    if asked.torch:
        return str(asked.torch)
    return environments.made(ENVIRONMENT, ("torch", "timm"))


def contenders(
    name: str, folder: Path, threads: int, rival: str | None
) -> Iterator[tuple[str, Contender]]:
    """All of them, warm."""
    batch = str(CASES[name].batch)
    for who in qat_step_ours.CONTENDERS:
        module = [sys.executable, "-m", "benchmarks.qat_step_ours"]
        yield who, Contender([*module, who, str(folder), batch, str(threads)])
    for mode in ("eager", "compiled") if rival else ():
        module = [str(rival), "-m", "benchmarks.qat_step_torch"]
        yield mode, Contender([*module, name, mode, batch, str(threads)])


def measure(name: str, rounds: int, threads: int, rival: str | None) -> dict[str, Any]:
    """Median seconds and peak of each contender, and its ratio to the floor of its round."""
    with tempfile.TemporaryDirectory() as folder:
        qat_step_ours.make(source(name, Path(folder)), Path(folder))
        running = dict(contenders(name, Path(folder), threads, rival))
        turns = [{who: one.step() for who, one in running.items()} for _ in range(rounds)]
        for one in running.values():
            one.end()
    found = {}
    for who in running:
        times = PASSES if who == "floor" else 1
        row: dict[str, float] = {"gigabytes": max(turn[who]["gigabytes"] for turn in turns)}
        for clock in ("wall", "cpu"):
            row[clock] = times * statistics.median(turn[who][clock] for turn in turns)
            row[f"{clock}_floors"] = statistics.median(
                times * turn[who][clock] / (PASSES * turn["floor"][clock]) for turn in turns
            )
        found[who] = {key: round(value, 4) for key, value in row.items()}
    return found


def packages_of(rival: str | None) -> dict[str, str]:
    """Versions in the environment of the rivals."""
    return {} if rival is None else environments.versions_in(rival, ("torch", "timm"))


def table(record: dict[str, Any]) -> str:
    """One row per contender and model."""
    lines = [
        "| | | s per step | x floor | x floor, CPU time | peak GB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in record["models"].items():
        for who, title in {"floor": "floor: three forward passes", **TITLES}.items():
            if who in found:
                row = found[who]
                lines.append(
                    f"| {CASES[name].title} | {title} | {row['wall']:.3f} "
                    f"| {row['wall_floors']:.2f} | {row['cpu_floors']:.2f} "
                    f"| {row['gigabytes']:.2f} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is asked; keep what is there of other models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=CASES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--torch", type=Path, help="an interpreter that has torch and timm")
    parser.add_argument("--without-torch", action="store_true")
    asked = parser.parse_args()
    rival = torch_python(asked)
    models = json.loads(RESULT.read_text())["models"] if RESULT.exists() else {}
    for name in asked.only or CASES:
        models[name] = measure(name, asked.rounds, asked.threads, rival)
        record = {
            "command": COMMAND,
            "machine": f"{platform.machine()}, {asked.threads} threads",
            "versions": {**versions(), **packages_of(rival)},
            "models": {known: models[known] for known in CASES if known in models},
        }
        RESULT.write_text(json.dumps(record, indent=1) + "\n")
    text = table(record)
    print(text)
    pages.fill(PAGE, "qat_step", text)


if __name__ == "__main__":
    main()

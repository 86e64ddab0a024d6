"""From a dense file to a sparse INT8 one: time and accuracy against chains of other tools.

usage: python -m benchmarks.chain [--only MODEL] [--rounds N] [--limit SECONDS]
           [--cache FOLDER]

The networks of digits that this repository trains, calibrated and trained on their training
samples without labels, judged on ten disturbed copies of every test sample. A chain counts as
sparse where every layer that can have the 2:4 pattern has it in its integer codes, on the axis
that it sums over. Leaves benchmarks/results/chain.json and the table in docs/rivals.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import prune, quantize
from benchmarks.contest import Entrant, contest, known, publish, record
from benchmarks.rivals.environments import CACHE, python_of
from benchmarks.turns import ROOT
from models.tasks import disturbed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

COMMAND = "python -m benchmarks.chain"
MODELS = ("vit_digits", "resnet_digits")
TOOLS = ("onnxsim", "onnxruntime", "nncf", "polygraphy")
COPIES = 10
BATCH = "32"
PARTS = ("train", "test")
NAMES = {
    "polygraphy": "polygraphy prune",
    "onnxsim": "onnxsim",
    "onnxruntime": "ONNX Runtime quantize_static",
    "nncf": "NNCF",
}


def data(folder: Path) -> tuple[Path, Path]:
    """Samples to work with, and samples to judge by."""
    stored = {
        part: dict(np.load(ROOT / "models" / "digits" / f"{part}.npz")) for part in PARTS
    }
    given, test = folder / "given.npz", folder / "test.npz"
    np.savez(given, x=stored["train"]["x"])
    more = disturbed(stored["test"], COPIES, np.random.default_rng(0))
    np.savez(test, **more)
    return given, test


def of_dense(name: str, python: str) -> float:
    """What there is to lose."""
    dense = ROOT / "models" / f"{name}.onnx"
    with tempfile.TemporaryDirectory() as folder:
        _, test = data(Path(folder))
        found: float = quantize.judged(python, dense, dense, test)["accuracy"]
    return found


def chains(model: Path, given: Path, pythons: Mapping[str, str]) -> dict[str, Entrant]:
    """Everybody's command lines, one after the other."""

    def ours(passes: str, *more: str) -> Callable[[Path], Sequence[str]]:
        words = ("compile", str(model), "--passes", passes, "--data", str(given), *more)
        return lambda folder: [
            sys.executable,
            *("-m", "gpusq_compiler", *words, "--no-measure"),
            *("-o", str(folder / "out.onnx"), "--workdir", str(folder / "work")),
        ]

    def tool(name: str, task: str, source: Path, out: Path, *samples: str) -> list[str]:
        return [
            *(pythons[name], "-m", "benchmarks.rivals.tools", task, str(source), str(out)),
            *samples,
        ]

    def polygraphy(out: Path) -> list[str]:
        command = str(Path(pythons["polygraphy"]).with_name("polygraphy"))
        return [command, "surgeon", "prune", str(model), "-o", str(out)]

    fed = (str(given), BATCH)

    def two(first: str, second: str, task: str) -> Callable[[Path], Sequence[str]]:
        def command(folder: Path) -> Sequence[str]:
            between, out = folder / "pruned.onnx", folder / "out.onnx"
            pruned = (
                polygraphy(between)
                if first == "polygraphy"
                else tool("onnxsim", "onnxsim-sparsegpt", model, between, *fed)
            )
            then = tool(second, task, between, out, *fed)
            return ["sh", "-c", f"{shlex.join(pruned)} && {shlex.join(then)}"]

        return command

    rivals = {
        ("polygraphy", "onnxruntime"): "quantize-static",
        ("polygraphy", "nncf"): "nncf-quantize",
        ("onnxsim", "onnxsim"): "onnxsim-quantize",
        ("onnxsim", "onnxruntime"): "quantize-static",
        ("onnxsim", "nncf"): "nncf-quantize",
    }
    found = {
        "one-shot": Entrant(title="--passes prune,quantize", command=ours("prune,quantize")),
        "short": Entrant(
            title="--passes prune,qat --steps 100", command=ours("prune,qat", "--steps", "100")
        ),
        "trained": Entrant(title="--passes prune,qat", command=ours("prune,qat")),
    }
    for (first, second), task in rivals.items():
        title = f"{NAMES[first]}, then {NAMES[second]}"
        found[f"{first}+{second}"] = Entrant(title=title, command=two(first, second, task))
    found["onnxsim-train"] = Entrant(
        title="onnxsim sparsegpt, quantize_static, apply_qat_all_blocks",
        command=lambda folder: tool(
            "onnxsim", "onnxsim-train", model, folder / "out.onnx", *fed
        ),
    )
    return found


def table(found: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """One row per chain and model."""
    lines = [
        "| model | | s | CPU s | peak GB | accuracy | sparse layers | INT8 products | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in found["models"].items():
        lines.append(f"| {name} | dense | | | | {found['dense'][name]:.2%} | | | |")
        for who, row in rows.items():
            start = f"| {name} | {titles[who]} | {row['wall']:.1f} | {row['cpu']:.1f} "
            start += f"| {row['gigabytes']:.2f} |"
            if "failed" in row:
                lines.append(f"{start} {row['failed']} | | | |")
                continue
            lines.append(
                f"{start} {row['accuracy']:.2%} | {row['layers']} | {row['products']} "
                f"| {row['megabytes']:.2f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is asked; keep what is there of other models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=MODELS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300, help="seconds of a chain")
    parser.add_argument("--cache", type=Path, default=CACHE)
    asked = parser.parse_args()
    pythons = {name: python_of(name, asked.cache) for name in TOOLS}
    models = known("chain")
    titles: dict[str, str] = {}
    for name in asked.only or MODELS:
        dense = ROOT / "models" / f"{name}.onnx"
        with tempfile.TemporaryDirectory() as folder:
            given, test = data(Path(folder))

            def judged(file: Path, dense: Path = dense, test: Path = test) -> dict[str, Any]:
                outputs = quantize.judged(pythons["onnxruntime"], dense, file, test)
                return {**outputs, **prune.judged(file)}

            running = chains(dense, given, pythons)
            titles = {who: one.title for who, one in running.items()}
            models[name] = contest(
                running, rounds=asked.rounds, limit=asked.limit, judge=judged
            )
        found = record(COMMAND, pythons, {n: models[n] for n in MODELS if n in models})
        found["dense"] = {n: of_dense(n, pythons["onnxruntime"]) for n in found["models"]}
        publish("chain", found, table(found, titles))
    print(table(found, titles))


if __name__ == "__main__":
    main()

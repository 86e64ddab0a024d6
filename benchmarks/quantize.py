"""INT8 quantization after training: time, memory and error against other tools.

usage: python -m benchmarks.quantize [--rounds N] [--limit SECONDS] [--without TOOL]
           [--cache FOLDER]

DeiT-S with random weights, 32 random images to calibrate on and 32 others for the error. The
floor loads the model, runs it once in float over the images, and saves it. Tools are
installed from PyPI into FOLDER (build/rivals); one ONNX Runtime there judges all files. Leaves
benchmarks/results/quantize.json and the table in docs/rivals.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from benchmarks.contest import FLOOR, Entrant, contest, publish, record, times
from benchmarks.rivals.environments import CACHE, python_of
from benchmarks.turns import ROOT
from tests import zoo_models

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

COMMAND = "python -m benchmarks.quantize"
MODEL = "deit_small_patch16_224"
SAMPLES = 32
TOOLS = ("onnxsim", "onnxruntime", "nncf", "modelopt")
RELAID = ("Transpose", "Reshape", "Cast")


def images(path: Path, seed: int) -> Path:
    """Random images."""
    shape = (SAMPLES, 3, 224, 224)
    np.savez(path, x=np.random.default_rng(seed).standard_normal(shape, np.float32))
    return path


def entrants(model: Path, data: Path, pythons: Mapping[str, str]) -> dict[str, Entrant]:
    """Everybody with a command line."""

    def ours(*more: str) -> Callable[[Path], Sequence[str]]:
        given = ("compile", str(model), "--passes", "quantize", "--data", str(data), *more)
        return lambda folder: [
            sys.executable,
            *("-m", "gpusq_compiler", *given, "-o", str(folder / "out.onnx")),
            *("--workdir", str(folder / "work")),
        ]

    def module(python: str, name: str, task: str) -> Callable[[Path], Sequence[str]]:
        return lambda folder: [
            *(python, "-m", f"benchmarks.rivals.{name}", task, str(model)),
            *(str(folder / "out.onnx"), str(data)),
        ]

    floor = module(sys.executable, "floors", "forward")
    found = {
        FLOOR: Entrant(title="floor: load, one float pass, save", command=floor),
        "ours": Entrant(title="--passes quantize --no-measure", command=ours("--no-measure")),
        "measured": Entrant(title="--passes quantize, figures included", command=ours()),
    }
    rivals = {
        "onnxsim": ("onnxsim, quantize_static", "onnxsim-quantize"),
        "onnxruntime": ("ONNX Runtime, quantize_static", "quantize-static"),
        "nncf": ("NNCF", "nncf-quantize"),
        "modelopt": ("ModelOpt", "modelopt-quantize"),
    }
    for tool, (title, task) in rivals.items():
        if tool in pythons:
            found[tool] = Entrant(title=title, command=module(pythons[tool], "tools", task))
    return found


def in_int8(file: Path) -> str:
    """How many products read codes on both sides."""
    model = onnx.load(file)
    made = {name: node for node in model.graph.node for name in node.output}

    def is_code(name: str) -> bool:
        while name in made and made[name].op_type in RELAID:
            name = made[name].input[0]
        return name in made and made[name].op_type == "DequantizeLinear"

    products = [n for n in model.graph.node if n.op_type in {"MatMul", "Gemm", "Conv"}]
    counted = sum(is_code(n.input[0]) and is_code(n.input[1]) for n in products)
    return f"{counted} of {len(products)}"


def judged(python: str, dense: Path, file: Path, data: Path) -> dict[str, Any]:
    """The error of a file's outputs on images that nobody calibrated on."""
    module = ["-m", "benchmarks.rivals.judge", str(dense), str(file), str(data)]
    done = subprocess.run(
        [python, *module], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "products": in_int8(file), "megabytes": file.stat().st_size / 1e6}


def table(found: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """One row per tool."""
    lines = [
        "| | s | x floor | CPU s | x floor | peak GB | SQNR | cosine | INT8 products | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for who, row in found["models"][MODEL].items():
        if "failed" in row:
            verdict = f"{row['failed']} | | | "
        elif who == FLOOR:
            verdict = " | | | "
        else:
            verdict = (
                f"{row['sqnr']:.2f} dB | {row['cosine']:.5f} | {row['products']} "
                f"| {row['megabytes']:.0f}"
            )
        lines.append(f"| {titles[who]} | {times(row)} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=300, help="seconds of a run")
    parser.add_argument("--without", action="append", choices=TOOLS, default=[])
    parser.add_argument("--cache", type=Path, default=CACHE)
    asked = parser.parse_args()
    judge = python_of("onnxruntime", asked.cache)
    pythons = {n: python_of(n, asked.cache) for n in TOOLS if n not in asked.without}
    dense = zoo_models.path(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        data = images(Path(folder) / "data.npz", seed=0)
        others = images(Path(folder) / "others.npz", seed=1)
        running = entrants(dense, data, pythons)
        rows = contest(
            running,
            rounds=asked.rounds,
            limit=asked.limit,
            judge=lambda file: judged(judge, dense, file, others),
        )
    found = record(COMMAND, pythons, {MODEL: rows})
    text = table(found, {who: one.title for who, one in running.items()})
    publish("quantize", found, text)
    print(text)


if __name__ == "__main__":
    main()

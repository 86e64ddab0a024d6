"""Latency of INT8 files on ONNX Runtime's CPU, ours and those of other tools, and their error.

usage: python -m benchmarks.cpu_latency [--only MODEL] [--threads N] [--rounds N]

Every tool quantizes the same float model on the same samples. Then all files run in turn, one
sample at a time, each in a process of its own, in an order drawn anew for each round; what is
told is the ratio of the means of the three fastest turns, for other work on the machine only
adds. Rivals are installed into build/rivals/, two versions of ONNX Runtime into
build/cpu-latency/.
All but the two digit models have random weights: their error says how near an INT8 file stays
to its float model, and accuracy is that of the digit models.
Leaves benchmarks/results/cpu_latency.json and the table in docs/bench.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import environments, pages
from benchmarks.rivals import environments as rivals
from benchmarks.turns import ROOT, Contender
from gpusq_compiler import compile_model
from gpusq_compiler.manifest import versions
from gpusq_compiler.recipe import Overrides
from tests import zoo_models

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

RESULT = ROOT / "benchmarks" / "results" / "cpu_latency.json"
PAGE = ROOT / "docs" / "bench.md"
BUILD = ROOT / "build" / "cpu-latency"
COMMAND = "python -m benchmarks.cpu_latency"
ENVIRONMENTS = {
    "1.19": ("onnxruntime==1.19.2", "numpy"),
    "current": ("onnxruntime", "numpy"),
}
RUNTIMES = ("1.19", "current")
PLACEMENTS = {"ours": "onnxruntime-integer", "ours, gemm-inputs": "gemm-inputs"}
TITLES = {
    "float": "float",
    "ours": "gpusq-compiler",
    "ours, gemm-inputs": "gpusq-compiler, `placement=gemm-inputs`",
    "nncf": "NNCF",
    "nncf-transformer": "NNCF, `model_type=TRANSFORMER`",
    "quantize-static": "`onnxruntime.quantization.quantize_static`",
    "onnxsim": "onnxsim `quantize_static`",
    "modelopt": "ModelOpt",
}
TASKS = {
    "nncf": ("nncf", "nncf-defaults"),
    "nncf-transformer": ("nncf", "nncf-transformer"),
    "quantize-static": ("onnxruntime", "quantize-static-cpu"),
    "onnxsim": ("onnxsim", "onnxsim-quantize"),
    "modelopt": ("modelopt", "modelopt-quantize"),
}
"""Whose environment makes the files of others, and what `rivals.tools` calls it."""
CALIBRATION, HELD_OUT, PIXELS, SEED = 32, 16, 224, 7
FASTEST = 3
REST = 0.005
"""Seconds after which the threads of the last file have ceased to look for work."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, and whether real samples and labels are there for it."""

    title: str
    transformer: bool = False
    digits: bool = False


CASES = {
    "deit_small_patch16_224": Case("DeiT-S", transformer=True),
    "resnet18": Case("ResNet-18"),
    "mobilenetv2_050": Case("MobileNetV2 0.5"),
    "swin_tiny_patch4_window7_224": Case("Swin-T", transformer=True),
    "nextvit_small": Case("Next-ViT-S", transformer=True),
    "vit_digits": Case("vit_digits", transformer=True, digits=True),
    "resnet_digits": Case("resnet_digits", digits=True),
}


def main() -> None:
    """Measure what is asked; keep what is there of other models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=CASES)
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=40)
    asked = parser.parse_args()
    models = json.loads(RESULT.read_text())["models"] if RESULT.exists() else {}
    tools = sorted({tool for tool, _ in TASKS.values()})
    for name in asked.only or CASES:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(name, Path(folder), asked.rounds)
            models[name] = bench.measure(asked.threads or [1, 2])
        record = {
            "command": COMMAND,
            "machine": f"{platform.machine()}, {processor()}, {os.cpu_count()} cores, shared",
            "versions": versions(),
            "tools": {tool: rivals.versions_in(rivals.python_of(tool)) for tool in tools},
            "runtimes": {runtime: installed(runtime) for runtime in RUNTIMES},
            "models": {known: models[known] for known in CASES if known in models},
        }
        RESULT.write_text(json.dumps(record, indent=1) + "\n")
    text = table(record)
    print(text)
    pages.fill(PAGE, "cpu_latency", text)


class Bench:
    """The files of one model, and what is measured of them.

    Args:
        name: Of the model.
        folder: For everything that is made.
        rounds: Turns of every file.
    """

    def __init__(self, name: str, folder: Path, rounds: int) -> None:
        self._case, self._folder, self._rounds = CASES[name], folder, rounds
        trained = ROOT / "models" / f"{name}.onnx"
        self._float = trained if self._case.digits else zoo_models.path(name)
        self._labels = self._write_samples()
        self._files = {"float": self._float, **dict(self._ours()), **dict(self._theirs())}

    def measure(self, threads: Sequence[int]) -> dict[str, Any]:
        """Bytes and error of every file, and its latency by runtime and threads."""
        found: dict[str, Any] = {
            who: {"bytes": file.stat().st_size, "latency": {}}
            for who, file in self._files.items()
        }
        for runtime in RUNTIMES:
            for count in threads:
                turns = self._turns(runtime, count)
                for who, row in found.items():
                    row["latency"][f"{runtime}, {count}"] = _figures(turns, who)
                    row[f"error {runtime}"] = self._error(who)
        return found

    def _write_samples(self) -> NDArray[Any] | None:
        if not self._case.digits:
            rng = np.random.default_rng(SEED)
            parts = {"calibrate": CALIBRATION, "held": HELD_OUT}
            for part, count in parts.items():
                np.savez(self._folder / f"{part}.npz", x=pictures(rng, count))
            return None
        digits = ROOT / "models" / "digits"
        train, test = np.load(digits / "train.npz"), np.load(digits / "test.npz")
        np.savez(self._folder / "calibrate.npz", x=train["x"][: 8 * CALIBRATION])
        np.savez(self._folder / "held.npz", x=test["x"])
        labels: NDArray[Any] = test["labels"]
        return labels

    def _ours(self) -> Iterator[tuple[str, Path]]:
        for who, placement in PLACEMENTS.items():
            out = self._folder / f"{placement}.onnx"
            settings = (f"quantize.placement={placement}", "quantize.batch_size=4")
            compile_model(
                self._float,
                passes="quantize",
                data=self._folder / "calibrate.npz",
                out=out,
                threads=1,
                overrides=Overrides(settings=settings),
            )
            yield who, out

    def _theirs(self) -> Iterator[tuple[str, Path]]:
        for way, (tool, task) in TASKS.items():
            if way == "nncf-transformer" and not self._case.transformer:
                continue
            out = self._folder / f"{way}.onnx"
            asked = [self._float, out, self._folder / "calibrate.npz"]
            module = [rivals.python_of(tool), "-m", "benchmarks.rivals.tools", task]
            subprocess.run(
                [*module, *asked],
                cwd=self._folder,  # some leave files where they run
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                check=True,
            )
            yield way, out

    def _turns(self, runtime: str, threads: int) -> list[dict[str, dict[str, float]]]:
        module = [python_of(runtime), "-m", "benchmarks.cpu_latency_step"]
        held, rng = self._folder / "held.npz", np.random.default_rng(0)
        running = {
            who: Contender(
                [*module, str(file), str(held), str(threads), str(self._outputs(who))]
            )
            for who, file in self._files.items()
        }
        turns = []
        for _ in range(self._rounds):
            turn = {}
            for who in rng.permutation(list(running)):
                turn[who] = running[who].step()
                time.sleep(REST)
            turns.append(turn)
        for one in running.values():
            one.end()
        return turns

    def _outputs(self, who: str) -> Path:
        return self._folder / f"{who}.npy"

    def _error(self, who: str) -> dict[str, float]:
        wanted, found = (np.load(self._outputs(name)) for name in ("float", who))
        noise = float(np.sum((found - wanted) ** 2))
        lengths = float(np.linalg.norm(found) * np.linalg.norm(wanted))
        row = {"cosine": float(np.sum(found * wanted)) / lengths}
        if noise:
            row["sqnr"] = 10 * np.log10(float(np.sum(wanted**2)) / noise)
        if self._labels is not None:
            row["accuracy"] = float(np.mean(found.argmax(-1) == self._labels))
        return {name: round(value, 5) for name, value in row.items()}


def _figures(turns: list[dict[str, dict[str, float]]], who: str) -> dict[str, float]:
    found = {}
    for clock in ("wall", "cpu"):
        taken, wanted = (
            statistics.mean(sorted(turn[name][clock] for turn in turns)[:FASTEST])
            for name in (who, "float")
        )
        found |= {f"{clock}_ms": 1e3 * taken, f"{clock}_times": wanted / taken}
    return {name: round(value, 4) for name, value in found.items()}


def pictures(rng: np.random.Generator, count: int) -> NDArray[Any]:
    """Patches of several sizes on top of each other, of variance 1."""
    shape = (count, 3, PIXELS, PIXELS)
    total = np.zeros(shape, np.float32)
    for side in (4, 8, 16, 32, 112):
        coarse = rng.standard_normal((count, 3, side, side)) / side**0.5
        block = np.ones((1, 1, PIXELS // side, PIXELS // side))
        total += np.kron(coarse, block).astype(np.float32)
    pictures: NDArray[Any] = total / total.std()
    return pictures


def python_of(environment: str) -> str:
    """The interpreter of an environment, which is made if it is not there."""
    return environments.made(BUILD / environment, ENVIRONMENTS[environment])


def installed(environment: str) -> dict[str, str]:
    """Versions of what was asked for there."""
    names = [package.partition("==")[0] for package in ENVIRONMENTS[environment]]
    return environments.versions_in(python_of(environment), names)


def processor() -> str:
    """Its name, where the system tells one, and whether it has VNNI."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if "model name" in line)
    vnni = any("vnni" in line for line in lines)
    return f"{next(named, platform.processor())}, VNNI {'yes' if vnni else 'not known'}"


def table(record: dict[str, Any]) -> str:
    """One row per model and file."""
    threads = {
        key.partition(", ")[2]
        for rows in record["models"].values()
        for row in rows.values()
        for key in row["latency"]
    }
    cells = [(runtime, count) for runtime in RUNTIMES for count in sorted(threads)]
    heads = [
        f"{record['runtimes'][runtime]['onnxruntime']}, {count} thread{'s'[: count != '1']}"
        for runtime, count in cells
    ]
    lines = [
        f"| | | {' | '.join(heads)} | SQNR, dB | cosine | accuracy | MB |",
        f"|---|---|{'---|' * len(heads)}---|---|---|---|",
    ]
    for name, rows in record["models"].items():
        best = {cell: _best(rows, cell) for cell in cells}
        for who, title in TITLES.items():
            if who in rows:
                row, error = rows[who], rows[who]["error current"]
                times = [_times(row, cell, best[cell]) for cell in cells]
                accuracy = f"{100 * error['accuracy']:.1f} %" if "accuracy" in error else ""
                sqnr = f"{error['sqnr']:.1f}" if "sqnr" in error else ""
                lines.append(
                    f"| {CASES[name].title} | {title} | {' | '.join(times)} | {sqnr} "
                    f"| {error['cosine']:.5f} | {accuracy} | {row['bytes'] / 1e6:.2f} |"
                )
    return "\n".join(lines) + "\n"


def _best(rows: dict[str, Any], cell: tuple[str, str]) -> float:
    return max(_figure(row, cell)["wall_times"] for row in rows.values())


def _figure(row: dict[str, Any], cell: tuple[str, str]) -> dict[str, float]:
    found: dict[str, float] = row["latency"].get(", ".join(cell), {"wall_times": 0.0})
    return found


def _times(row: dict[str, Any], cell: tuple[str, str], best: float) -> str:
    figure = _figure(row, cell)
    if "wall_ms" not in figure:
        return ""
    shown = f"{figure['wall_times']:.2f}x"
    shown = f"**{shown}**" if figure["wall_times"] == best else shown
    cpu = f", CPU {figure['cpu_times']:.2f}x" if cell[1] == "1" else ""
    return f"{shown}{cpu} ({figure['wall_ms']:.1f} ms)"


if __name__ == "__main__":
    sys.exit(main())

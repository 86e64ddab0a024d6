"""Accuracy of sparse INT8 on the two digit networks, over seeds and targets.

Run it with: python benchmarks/digits.py. It prints one row per model, target and seed, and
writes benchmarks/results/digits.json. One-shot (prune and quantize without training) is the
same run before its qat.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

from gpusq_compiler import compile_model
from gpusq_compiler.report import versions

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "models" / "digits"
RESULT = ROOT / "benchmarks" / "results" / "digits.json"
MODELS = ("vit_digits", "resnet_digits")
TARGETS = ("onnxruntime", "tensorrt")


def compiled(model: str, target: str, seed: int, folder: Path) -> dict[str, object]:
    """One compile with all defaults."""
    started = time.perf_counter()
    report = compile_model(
        ROOT / "models" / f"{model}.onnx",
        passes="prune,qat",
        data=str(DIGITS / "train.npz"),
        eval_data=str(DIGITS / "test.npz"),
        target=target,
        seed=seed,
        out=folder / f"{model}.onnx",
        workdir=folder / "work",
    )
    assert report.quality is not None
    after = report.quality.after
    return {
        "model": model,
        "target": target,
        "seed": seed,
        "dense": after["dense"],
        "one_shot": after["quantize"],
        "qat": after["freeze"],
        "seconds": round(time.perf_counter() - started, 1),
        "bytes_dense": report.source.bytes,
        "bytes": report.output.bytes,
    }


def main() -> None:
    """Run all cells and show mean and worst drop per model and target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    arguments = parser.parse_args()
    rows = []
    for model in MODELS:
        for target in arguments.targets:
            with tempfile.TemporaryDirectory() as folder:
                for seed in arguments.seeds:
                    rows.append(compiled(model, target, seed, Path(folder)))
                    print(rows[-1], flush=True)
            drops = [
                100 * (float(str(r["dense"])) - float(str(r["qat"])))
                for r in rows
                if (r["model"], r["target"]) == (model, target)
            ]
            print(
                f"{model} {target}: mean drop {statistics.mean(drops):.2f} points, "
                f"worst {max(drops):.2f}",
                flush=True,
            )
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    command = "python benchmarks/digits.py " + " ".join(sys.argv[1:])
    record = {
        "command": command.strip(),
        "machine": machine,
        "versions": versions(),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

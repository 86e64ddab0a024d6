"""What packing saves and what it costs, on ONNX Runtime: bytes, loading, memory, latency.

usage: python -m benchmarks.packed [--only MODEL] [--runs N] [--python PATH]

Every model is compiled one-shot, with few samples, then packed. Each of its three files
(dense, sparse INT8, packed) is loaded N times, each time by a process of its own, in turn.
Times are of the CPU, on one thread. ``--python`` names an interpreter with another ONNX
Runtime to measure on; figures are kept by its version. Every call writes
benchmarks/results/packed.json and the table in docs/pack.md anew.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import pages
from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.calibration.synthetic import synthesize
from gpusq_compiler.ir import io
from gpusq_compiler.manifest import versions
from gpusq_compiler.passes.base import Context
from gpusq_compiler.passes.pack import Pack
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.recipe import Overrides, plan_of
from tests import zoo_models

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "packed.json"
PAGE = ROOT / "docs" / "pack.md"
COMMAND = "python -m benchmarks.packed"
LARGE, WIDTH = "three_products_4096", 4096
MODELS = ("vit_digits", "resnet_digits", "deit_small_patch16_224", LARGE)
FILES = ("dense", "sparse INT8", "packed")
SETTINGS = ("prune.score=magnitude", "quantize.observer=minmax", "quantize.batch_size=2")
SAMPLES = 4

ONE_LOAD = """
import hashlib, json, sys, time
import numpy as np, onnxruntime
def memory(field):
    with open("/proc/self/status") as lines:
        return next(int(l.split()[1]) for l in lines if l.startswith(field)) / 1000
file, rounds = sys.argv[1], int(sys.argv[2])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
resident, peak = memory("VmRSS") - before, memory("VmHWM") - before
(given,) = session.get_inputs()
shape = [d if isinstance(d, int) else 1 for d in given.shape]
x = np.random.default_rng(0).random(shape, dtype=np.float32)
def latency(session):
    times = []
    for _ in range(rounds):
        start = time.process_time()
        session.run(None, {given.name: x})
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times))
folded = latency(session)
outputs = b"".join(value.tobytes() for value in session.run(None, {given.name: x}))
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
del session
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
print(json.dumps({"runtime": onnxruntime.__version__, "load_ms": 1e3 * cpu,
    "load_wall_ms": 1e3 * wall, "resident_mb": resident, "peak_mb": peak,
    "latency_ms": folded, "latency_unoptimized_ms": latency(session),
    "outputs": hashlib.sha256(outputs).hexdigest()}))
"""
ONE_GRAPH = """
import sys, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level, options.optimized_model_filepath = 4, sys.argv[2]
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""


def main() -> None:
    """Measure what is asked and write result and page anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=MODELS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--python", default=sys.executable)
    asked = parser.parse_args()
    record = json.loads(RESULT.read_text()) if RESULT.exists() else {"runtimes": {}}
    for name in asked.only or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            files = made(name, Path(folder))
            figures = measured(files, asked.python, asked.runs)
            ran = [kernels(files[kind], asked.python) for kind in ("sparse INT8", "packed")]
        version = figures["packed"].pop("runtime")
        outputs = [figures[kind].pop("outputs") for kind in FILES]
        same = {"same_bits": outputs[1] == outputs[2], "same_kernels": ran[0] == ran[1]}
        row = {**figures, **same, "machine": machine()}
        record["runtimes"].setdefault(version, {})[name] = row
        print(name, json.dumps(row), flush=True)
    record |= {"command": COMMAND, "versions": versions()}
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    pages.fill(PAGE, "benchmarks.packed", table(record))


def made(name: str, folder: Path) -> dict[str, Path]:
    """The three files of a model."""
    dense = ROOT / "models" / f"{name}.onnx"
    if name == LARGE:
        dense = products(folder / "dense.onnx")
    elif not dense.exists():
        dense = zoo_models.path(name)
    model = io.load(dense)
    samples = Subset(synthesize(model, seed=0), np.arange(SAMPLES))
    ctx = Context(workdir=folder, data=samples, synthesised=True, threads=1)
    plan = plan_of("prune,quantize", overrides=Overrides(settings=SETTINGS))
    plan.pipeline.run(model, ctx)
    sparse = io.save(model, folder / "sparse.onnx").path
    Pipeline(passes=(Pack(),)).run(model, ctx)
    packed = io.save(model, folder / "packed.onnx").path
    return dict(zip(FILES, (dense, sparse, packed), strict=True))


def products(path: Path) -> Path:
    """Large weights and little else, to see how cost grows with size."""
    rng = np.random.default_rng(0)
    names = ["x", "a", "b", "y"]
    weights = [
        rng.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
        for _ in names[1:]
    ]
    nodes = [
        onnx.helper.make_node("MatMul", [before, f"{after}.weight"], [after], name=after)
        for before, after in itertools.pairwise(names)
    ]
    ends = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", WIDTH])]
        for name in ("x", "y")
    ]
    tensors = [
        onnx.numpy_helper.from_array(weight, f"{name}.weight")
        for name, weight in zip(names[1:], weights, strict=True)
    ]
    graph = onnx.helper.make_graph(nodes, LARGE, *ends, tensors)
    imports = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def measured(files: dict[str, Path], python: str, runs: int) -> dict[str, dict[str, Any]]:
    """Medians over processes that take turns."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in files}
    for _ in range(runs):
        for kind, file in files.items():
            rounds = 200 if file.stat().st_size < 1e6 else 7
            command = [python, "-c", ONE_LOAD, str(file), str(rounds)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[kind].append(json.loads(done.stdout))
    figures: dict[str, dict[str, Any]] = {}
    for kind, taken in found.items():
        figures[kind] = {"bytes": files[kind].stat().st_size}
        for name in sorted(taken[0].keys() - {"runtime", "outputs"}):
            figures[kind][name] = round(statistics.median(one[name] for one in taken), 3)
        (figures[kind]["outputs"],) = {one["outputs"] for one in taken}
    figures["packed"]["runtime"] = found["packed"][0]["runtime"]
    return figures


def kernels(file: Path, python: str) -> dict[str, int]:
    """How often the runtime runs each operator of a file, after its optimizations."""
    ran = file.with_suffix(".ran.onnx")
    subprocess.run([python, "-c", ONE_GRAPH, str(file), str(ran)], check=True)
    nodes = onnx.load(ran).graph.node
    return dict(collections.Counter(f"{node.domain}:{node.op_type}" for node in nodes))


def machine() -> str:
    """What it was measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def table(record: dict[str, Any]) -> str:
    """All figures that are there, for people."""
    headings = (
        "model|ONNX Runtime|file|MB|smaller|load, ms|peak, MB|batch 1, ms|unoptimized, ms"
    )
    lines = [f"| {headings.replace('|', ' | ')} |", f"|{'---|' * (headings.count('|') + 1)}"]
    for version, models in record["runtimes"].items():
        for name in (name for name in MODELS if name in models):
            for kind in FILES:
                one, dense = models[name][kind], models[name]["dense"]["bytes"]
                lines.append(
                    f"| {name} | {version} | {kind} | {one['bytes'] / 1e6:.3f} "
                    f"| {dense / one['bytes']:.2f}x | {one['load_ms']:.0f} "
                    f"| {one['peak_mb']:.0f} | {one['latency_ms']:.2f} "
                    f"| {one['latency_unoptimized_ms']:.2f} |"
                )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

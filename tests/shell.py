"""A folder with a small model and data, and how the tests call the command line in it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gpusq_compiler import cli

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

    from gpusq_compiler.runtime.samples import Array

ROOT = Path(__file__).parents[1]
INPUTS, HIDDEN, CLASSES = 8, 16, 4


def mlp(
    path: Path,
    *,
    inputs: int = INPUTS,
    outputs: int = CLASSES,
    feed: str = "x",
    external: bool = False,
) -> None:
    """Write MatMul, Add, Relu, MatMul, Add with random weights."""
    rng = np.random.default_rng(7)
    weights = {
        "first": rng.normal(0, inputs**-0.5, (inputs, HIDDEN)),
        "first_bias": rng.normal(0, 0.1, HIDDEN),
        "second": rng.normal(0, HIDDEN**-0.5, (HIDDEN, outputs)),
        "second_bias": rng.normal(0, 0.1, outputs),
    }
    nodes = [
        helper.make_node("MatMul", [feed, "first"], ["a"], name="matmul_1"),
        helper.make_node("Add", ["a", "first_bias"], ["b"], name="add_1"),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("MatMul", ["c", "second"], ["d"], name="matmul_2"),
        helper.make_node("Add", ["d", "second_bias"], ["y"], name="add_2"),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info(feed, TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    imports = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    onnx.save(
        model,
        path,
        save_as_external_data=external,
        location=f"{path.stem}.data",
        size_threshold=0,
    )


def arrays(count: int = 64) -> dict[str, Array]:
    """Samples of four classes that a network can tell apart."""
    rng = np.random.default_rng(3)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    x = rng.normal(0, 0.5, (count, INPUTS)).astype(np.float32)
    x[np.arange(count), labels] += 2
    return {"x": x, "labels": labels}


def write(folder: Path) -> Path:
    """Put ``model.onnx`` and ``data.npz`` into a folder."""
    mlp(folder / "model.onnx")
    save(folder / "data.npz", arrays())
    return folder


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write an ``.npz`` file."""
    np.savez(path, **content)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command left behind: its exit code, and the text on stdout and stderr."""

    code: int
    out: str
    err: str


def call(
    arguments: Sequence[str], capture: pytest.CaptureFixture[str], verb: str = "compile"
) -> Outcome:
    """Run a verb of gpusq inside this process; ``compile`` by its own entry point."""
    code: object = 0
    capture.readouterr()
    try:
        if verb == "compile":
            cli.compile_main(list(arguments))
        else:
            cli.main([*verb.split(), *arguments])
    except SystemExit as end:
        code = end.code or 0
    assert isinstance(code, int)
    return Outcome(code, *capture.readouterr())


def good(*arguments: str, capture: pytest.CaptureFixture[str], verb: str = "compile") -> str:
    """Stdout of a command that must succeed."""
    outcome = call(arguments, capture, verb)
    assert outcome.code == 0, outcome.err
    return outcome.out


def report_of(folder: Path, name: str = "model.gpusq.json") -> dict[str, Any]:
    """The report that a compile wrote."""
    found = json.loads((folder / name).read_text())
    assert isinstance(found, dict)
    return found


def passes_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The part of each pass in a report, in order."""
    return {step["pass"]: step for step in report["passes"]}


def words(*arguments: str) -> list[str]:
    """What starts the program as a process of its own."""
    return [sys.executable, "-m", "gpusq_compiler", *arguments]


def environment() -> dict[str, str]:
    """The environment in which such a process finds the checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def spawn(
    command: Sequence[str], folder: Path, stdout: IO[bytes] | int = subprocess.PIPE
) -> Outcome:
    """Run a process to its end in a folder."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    return Outcome(done.returncode, done.stdout or "", done.stderr)


def contents(folder: Path) -> dict[str, str]:
    """Everything in a folder, files with the hash of their bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if "__pycache__" in path.parts:
            continue
        found[str(path.relative_to(folder))] = "not a file"
        with contextlib.suppress(OSError):
            found[str(path.relative_to(folder))] = digest(path)
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

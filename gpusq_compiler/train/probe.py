"""The first step of a gradient graph, in a process of its own: some graphs crash the runtime.

A native crash ends only the child; the parent turns it into an error that names the operators
known to do that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq_compiler.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpusq_compiler.runtime.samples import Feeds

MODEL, FEEDS = "gradient.onnx", "feeds.npz"
SUSPECTS = frozenset(
    {
        "AveragePool",
        "ConvTranspose",
        "GatherND",
        "LpPool",
        "MaxPool",
        "Resize",
        "ScatterElements",
        "ScatterND",
    }
)


def survive(
    gradient: bytes, feeds: Feeds, operators: Iterable[str], workdir: Path, device: str
) -> None:
    """Run one step in a child process.

    An ordinary failure is left for the caller's own first step, which explains it.

    Args:
        gradient: The gradient graph.
        feeds: All of its inputs.
        operators: Operator types of the forward graph.
        workdir: Where the child's files lie while it runs.
        device: As everywhere.

    Raises:
        TrainingError: The child crashed.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workdir) as folder:
        Path(folder, MODEL).write_bytes(gradient)
        with Path(folder, FEEDS).open("wb") as file:
            arrays: dict[str, Any] = {f"feed.{n}": array for n, array in feeds.items()}
            np.savez(file, **arrays)
        code = _child(folder, device)
    if code < 0:
        present = sorted(set(operators))
        suspects = [op for op in present if op in SUSPECTS] or present
        raise TrainingError(
            f"the gradient graph crashes ONNX Runtime (signal {-code}); "
            f"suspected: {', '.join(suspects)}",
            where="first training step",
            remedy="Exclude the layers above these operators from training",
        )


def main(folder: str, device: str) -> None:
    """Be the child."""
    import onnxruntime

    from gpusq_compiler.runtime.session import providers, session_options

    with np.load(Path(folder, FEEDS), allow_pickle=False) as stored:
        feeds = {name.removeprefix("feed."): stored[name] for name in stored.files}
    session = onnxruntime.InferenceSession(
        str(Path(folder, MODEL)), session_options(), providers=providers(device)
    )
    session.run(None, feeds)


def _child(folder: str, device: str) -> int:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", __spec__.name, folder, device],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        check=False,
    ).returncode


if __name__ == "__main__":
    main(*sys.argv[1:3])

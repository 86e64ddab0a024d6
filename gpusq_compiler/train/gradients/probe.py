"""The first step of a gradient graph, in a process of its own: some graphs crash the runtime.

A native crash ends only the child; the parent trains less and lives on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Feeds

MODEL, FEEDS = "gradient.onnx", "feeds.npz"
CHILD = ("-m", "gpusq_compiler.train.gradients.probe")


def fails(gradient: bytes, feeds: Feeds, workdir: Path, device: str) -> bool:
    """Whether a step fails or dies.

    Args:
        gradient: The gradient graph.
        feeds: All of its inputs and more.
        workdir: Where the child's files lie while it runs.
        device: As everywhere.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workdir) as folder:
        Path(folder, MODEL).write_bytes(gradient)
        with Path(folder, FEEDS).open("wb") as file:
            arrays: dict[str, Any] = {f"feed.{n}": array for n, array in feeds.items()}
            np.savez(file, **arrays)
        return _child(folder, device) != 0


def main(folder: str, device: str) -> None:
    """Be the child."""
    import onnxruntime

    from gpusq_compiler.runtime.session import providers
    from gpusq_compiler.train.sessions import on_cpu, training_options

    with np.load(Path(folder, FEEDS), allow_pickle=False) as stored:
        feeds = {name.removeprefix("feed."): stored[name] for name in stored.files}
    session = onnxruntime.InferenceSession(
        str(Path(folder, MODEL)),
        training_options(as_written=on_cpu(device)),
        providers=providers(device),
    )
    session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})


def _child(folder: str, device: str) -> int:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, *CHILD, folder, device],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        check=False,
    ).returncode


if __name__ == "__main__":
    main(*sys.argv[1:3])

"""The first step of a gradient graph, in a process of its own: some graphs crash the runtime.

A native crash ends only the child; the parent trains less and lives on. A child that does not
even come to the step tells nothing about the graph, and is an error.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq_compiler.errors import MissingRuntime

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Feeds

MODEL, FEEDS = "gradient.onnx", "feeds.npz"
READY = "ready"
# The child looks for modules where its parent does, wherever that was started.
PROGRAM = (
    "import sys; sys.path[:] = {path!r}; "
    "from gpusq_compiler.train.gradients.probe import main; main({folder!r}, {device!r})"
)


def fails(gradient: bytes, feeds: Feeds, workdir: Path, device: str) -> bool:
    """Whether a step fails or dies.

    Args:
        gradient: The gradient graph.
        feeds: All of its inputs and more.
        workdir: Where the child's files lie while it runs.
        device: As everywhere.

    Raises:
        MissingRuntime: The process does not come as far as the step.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workdir) as folder:
        Path(folder, MODEL).write_bytes(gradient)
        with Path(folder, FEEDS).open("wb") as file:
            arrays: dict[str, Any] = {f"feed.{n}": array for n, array in feeds.items()}
            np.savez(file, **arrays)
        return _child(folder, device)


def main(folder: str, device: str) -> None:
    """Be the child."""
    import onnxruntime

    from gpusq_compiler.runtime.session import providers
    from gpusq_compiler.train.sessions import on_cpu, training_options

    with np.load(Path(folder, FEEDS), allow_pickle=False) as stored:
        feeds = {name.removeprefix("feed."): stored[name] for name in stored.files}
    print(READY, flush=True)  # noqa: T201  # read by the parent
    session = onnxruntime.InferenceSession(
        str(Path(folder, MODEL)),
        training_options(as_written=on_cpu(device)),
        providers=providers(device),
    )
    session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})


def _child(folder: str, device: str) -> bool:
    program = PROGRAM.format(path=sys.path, folder=folder, device=device)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if READY not in done.stdout.split():
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MissingRuntime(
            f"the process that tries a training step does not start: {reason}",
            where=sys.executable,
            remedy="Check that this Python can import gpusq_compiler and onnxruntime",
        )
    return done.returncode != 0

"""What a run was made of: files and their hashes, versions, the machine, the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import gpusq_compiler
from gpusq_compiler.calibration.functions import split_spec
from gpusq_compiler.ir import io
from gpusq_compiler.request import arrays_hash

if TYPE_CHECKING:
    from gpusq_compiler.request import Request

PACKAGES = ("onnx", "onnx-ir", "onnxscript", "numpy")
IN_MEMORY = "in memory"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSummary:
    """A file, or the files of a folder: where, how large, which content.

    The hash of a folder is that of its files' names and hashes, in order.
    """

    path: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run took place; without it a latency says nothing."""

    system: str
    processor: str
    cores: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What repeats a run, and what it took.

    Attributes:
        command: The command line; empty where Python called.
        seed: Root of all randomness.
        inputs: What was read beside the model, by option.
        machine: Where it ran.
        device: Of ONNX Runtime.
        threads: Of ONNX Runtime; None let it choose.
        seconds: From the start until the report was made.
    """

    command: Sequence[str]
    seed: int
    inputs: Mapping[str, FileSummary]
    machine: Machine
    device: str
    threads: int | None
    seconds: float


def manifest(request: Request, *, seed: int, seconds: float) -> Manifest:
    """Look at everything that the request names."""
    named = {
        "data": request.data,
        "eval-data": request.eval_data,
        "teacher": request.teacher,
        "recipe": request.recipe,
        "metric": request.metric,
    }
    found = {name: _input(source) for name, source in named.items()}
    return Manifest(
        command=request.command,
        seed=seed,
        inputs={name: summary for name, summary in found.items() if summary is not None},
        machine=_machine(),
        device=request.device,
        threads=request.threads,
        seconds=round(seconds, 3),
    )


def file_summary(path: Path, size: int | None = None) -> FileSummary:
    """Measure a model file; ``size`` includes data files where it is known."""
    return FileSummary(
        path=str(path),
        bytes=path.stat().st_size if size is None else size,
        sha256=io.file_hash(path),
    )


def versions() -> dict[str, str]:
    """The program, Python, the runtime and the libraries that shape the result."""
    from gpusq_compiler.runtime import flavour

    found = {"gpusq-compiler": gpusq_compiler.__version__}
    found["python"] = platform.python_version()
    found |= flavour.installed()
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def _input(source: object) -> FileSummary | None:
    """What an option names; None for what is no file and no arrays."""
    if isinstance(source, Mapping):
        size = sum(np.asarray(values).nbytes for values in source.values())
        return FileSummary(path=IN_MEMORY, bytes=size, sha256=arrays_hash(source))
    if not isinstance(source, str | Path):
        return None
    function = split_spec(str(source))
    path = Path(source) if function is None else function[0]
    if path.is_dir():
        return _folder(path)
    return file_summary(path) if path.is_file() else None


def _folder(path: Path) -> FileSummary:
    digest, size = hashlib.sha256(), 0
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {io.file_hash(file)}\n".encode())
        size += file.stat().st_size
    return FileSummary(path=str(path), bytes=size, sha256=digest.hexdigest())


def _machine() -> Machine:
    return Machine(
        system=platform.system(),
        processor=platform.processor() or platform.machine(),
        cores=os.cpu_count(),
    )

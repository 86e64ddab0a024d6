"""The models of ``tests/zoo`` with their weights filled in, made once per process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import onnx

from tests.zoo.materialize import fill

ZOO = Path(__file__).parent / "zoo"
NAMES = tuple(sorted(path.stem for path in ZOO.glob("*.onnx")))
SMALL = ("cyclegan_g", "disc")
"""Those that train in a second or two."""


@functools.cache
def path(name: str) -> Path:
    """The model as a file that lives as long as this process."""
    file = Path(_folder().name) / f"{name}.onnx"
    onnx.save(fill(onnx.load(ZOO / f"{name}.onnx")), file)
    return file


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="gpusq-zoo-")

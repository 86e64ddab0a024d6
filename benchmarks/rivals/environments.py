"""The other tools, and the environments that they are installed into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import environments
from benchmarks.turns import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CACHE = ROOT / "build" / "rivals"
PACKAGES = {
    "onnxsim": ("onnxsim==0.8.*", "onnxruntime"),
    "polygraphy": ("polygraphy", "onnx", "onnx-graphsurgeon", "numpy", "onnxruntime"),
    "onnxruntime": ("onnxruntime", "onnx", "sympy"),
    "nncf": ("nncf", "onnx", "onnxruntime"),
    "modelopt": ("nvidia-modelopt[onnx]",),
}
SHOWN = ("onnxsim", "polygraphy", "onnxruntime", "onnxruntime-gpu", "nncf", "nvidia-modelopt")


def python_of(name: str, cache: Path = CACHE) -> str:
    """The interpreter of a tool's environment, which is made if it is not there."""
    return environments.made(cache / name, PACKAGES[name])


def versions_in(python: str) -> dict[str, str]:
    """What of interest is installed there."""
    return environments.versions_in(python, (*SHOWN, "onnx", "numpy"))

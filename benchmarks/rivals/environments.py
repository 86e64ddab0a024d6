"""Environments of other tools: installed once, from PyPI, each in a folder of its own."""

from __future__ import annotations

import json
import subprocess
import venv
from typing import TYPE_CHECKING

from benchmarks.turns import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable
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
WHICH = """
import importlib.metadata as m, json, sys
known = {d.metadata["Name"].lower(): d.version for d in m.distributions()}
print(json.dumps({n: known[n] for n in sys.argv[1:] if n in known}))
"""


def python_of(name: str, cache: Path = CACHE) -> str:
    """The interpreter of an environment, which is made if it is not there."""
    folder = (cache / name).resolve()
    python = folder / "bin" / "python"
    done = folder / "complete"
    if not done.exists():
        print(f"installing {', '.join(PACKAGES[name])}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--no-cache-dir"]
        subprocess.run([*pip, *PACKAGES[name]], check=True)
        done.touch()
    return str(python)


def versions_in(python: str, extra: Iterable[str] = ()) -> dict[str, str]:
    """What of interest is installed there."""
    asked = [python, "-c", WHICH, *SHOWN, "onnx", "numpy", *extra]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found

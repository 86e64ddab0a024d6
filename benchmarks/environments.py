"""Environments of other tools: installed once, from PyPI, each in a folder of its own."""

from __future__ import annotations

import json
import subprocess
import venv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

WHICH = """
import importlib.metadata as m, json, sys
known = {d.metadata["Name"].lower(): d.version for d in m.distributions()}
print(json.dumps({n: known[n] for n in sys.argv[1:] if n in known}))
"""


def made(folder: Path, packages: Sequence[str]) -> str:
    """The interpreter of an environment, which is made if it is not there."""
    folder = folder.resolve()
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        print(f"installing {', '.join(packages)}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--no-cache-dir"]
        subprocess.run([*pip, *packages], check=True)
        done.touch()
    return str(python)


def versions_in(python: str, names: Iterable[str]) -> dict[str, str]:
    """Versions of those of these packages that are installed there."""
    done = subprocess.run(
        [python, "-c", WHICH, *names], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found

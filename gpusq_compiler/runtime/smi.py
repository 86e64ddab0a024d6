"""Asking nvidia-smi, which comes with the NVIDIA driver."""

from __future__ import annotations

import shutil
import subprocess


def asked(*fields: str) -> list[list[str]] | None:
    """The values of the fields for each GPU; None without nvidia-smi, empty without a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        return []
    return [line.split(", ") for line in answer.stdout.strip().splitlines()]

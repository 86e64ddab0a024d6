"""How far the outputs of a file are from those of the dense one, and its accuracy.

Runs in one environment for the files of all tools, so that one runtime judges them.

usage: python -m benchmarks.rivals.judge DENSE FILE DATA
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnxruntime

BATCH = 8


def outputs(file: str, arrays: dict[str, Any]) -> Any:
    """The first output on all samples."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    count = len(arrays[names[0]])
    found = []
    for first in range(0, count, BATCH):
        feeds = {name: arrays[name][first : first + BATCH] for name in names}
        found.append(session.run(None, feeds)[0])
    return np.concatenate(found)


def judged(dense: str, file: str, data: str) -> dict[str, float]:
    """Cosine and signal to error ratio in dB, and accuracy where there are labels."""
    arrays = dict(np.load(data))
    wanted, found = (outputs(name, arrays).astype(np.float64) for name in (dense, file))
    error, energy = found - wanted, float(np.vdot(wanted, wanted))
    norms = np.sqrt(energy * float(np.vdot(found, found)))
    figures = {
        "cosine": float(np.vdot(wanted, found)) / norms if norms else 0.0,
        "sqnr": 10 * float(np.log10(energy / max(float(np.vdot(error, error)), 1e-30))),
    }
    if "labels" in arrays:
        figures["accuracy"] = float(np.mean(found.argmax(-1) == arrays["labels"]))
    return figures


if __name__ == "__main__":
    print(json.dumps(judged(*sys.argv[1:4])))

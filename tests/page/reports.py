"""A report by hand: everything that a page can show, two layers, known numbers."""

from __future__ import annotations

import copy
from typing import Any


def layer(name: str, **other: object) -> dict[str, object]:
    """A row of the layer table."""
    return {
        "layer": name,
        "operator": "MatMul",
        "weight": f"{name}.weight",
        "shape": "64x192",
        "parameters": 12288,
        "pattern": "2:4",
        "axis": 0,
        "zeros": 0.5,
        "kept_magnitude": 0.6718,
        "scale_min": 0.00123,
        "scale_median": 0.00234,
        "scale_max": 0.00345,
        "input": f"{name}.input",
        "input_scale": 0.0321,
        "weight_error": 0.7,
        "weight_sqnr": 3.1,
        "output_cosine": 0.9123,
        "output_sqnr": 17.6,
        **other,
    }


def activation(name: str, scale: float = 0.03) -> dict[str, object]:
    """A row of quantize's table."""
    return {
        "tensor": name,
        "kind": "activation",
        "rule": "gemm-inputs",
        "scheme": "int8 per-tensor",
        "scale": scale,
        "scale_min": scale,
        "scale_median": scale,
        "clip": 127 * scale,
        "clipped": 0.00012,
        "relative_error": None,
    }


def one(name: str, **other: object) -> dict[str, object]:
    """A pass that did nothing."""
    return {
        "pass": name,
        "options": {},
        "seconds": 1.5,
        "peak_memory": 123_400_000,
        "changed": [],
        "left_alone": [],
        "metrics": {},
        "tables": {},
        "series": {},
        "histograms": {},
        **other,
    }


FILE = {"path": "model.onnx", "bytes": 2_000_000, "sha256": "ab" * 32}
TRAINED: dict[str, Any] = {
    "options": {
        "batch_size": 64,
        "learning_rate": 0.000705,
        "losses": [{"use": "soft-logits", "weight": 10.0}],
    },
    "metrics": {"steps": 6, "best_step": 4, "loss_at_start": 0.75, "loss_at_best": 0.25},
    "series": {
        "blocks/loss": [0.1, 0.09],
        "blocks/soft-logits": [0.01, 0.009],
        "loss": [0.6, 0.5, 0.4, 0.3],
        "soft-logits": [0.06, 0.05, 0.04, 0.03],
        "feature/a": [1.0, 1.0, 1.0, 1.0],
        "held_out": [0.75, 0.25, 0.5],
    },
    "tables": {
        "features": [{"tensor": "a", "weight": 1.0, "before": 0.5, "after": 0.125}],
        "looks": [
            {"step": 0, "held_out": 0.75, "soft-logits": 0.07},
            {"step": 4, "held_out": 0.25, "soft-logits": 0.02},
            {"step": 6, "held_out": 0.5, "soft-logits": 0.05},
        ],
    },
}
HISTOGRAM = {"largest": 5.0, "shares": [0.9, 0.09, 0.01, 0.0], "zeros": 0.25}
WHOLE: dict[str, Any] = {
    "format": 1,
    "source": FILE,
    "output": {"path": "model.gpusq.onnx", "bytes": 800_000, "sha256": "cd" * 32},
    "recipe": 'seed = 0\n\n[[pass]]\nuse = "prune"\n',
    "target": "tensorrt",
    "data": {"origin": "given", "training": 1168, "held_out": 129, "labels": True},
    "quality": {
        "metric": "accuracy",
        "measured_on": "eval-data",
        "verified": True,
        "after": {"dense": 0.99, "prune": 0.95, "quantize": 0.948, "qat": 0.9875},
    },
    "latencies": [
        {"batch": 1, "dense": 0.153, "compressed": 0.146},
        {"batch": 32, "dense": 7.452, "compressed": 6.768},
    ],
    "versions": {"gpusq-compiler": "9.8.7", "python": "3.11.7"},
    "facts": ["canonical", "frozen", "qdq", "sparse"],
    "layers": {
        "measured_on": "held-out",
        "samples": 16,
        "rows": [
            layer("stem", pattern=None, axis=None, kept_magnitude=None, output_sqnr=42.2),
            layer("fc1"),
            layer("fc2", output_sqnr=7.8, output_cosine=0.8765),
        ],
    },
    "lint": {
        "tensorrt": "11",
        "findings": [
            {
                "rule": "head-size",
                "severity": "slow",
                "where": "MatMul 'scores'",
                "what": "the head has 17 channels",
                "remedy": "Pad it",
            }
        ],
    },
    "manifest": {
        "command": ["gpusq", "compile", "my model.onnx"],
        "seed": 7,
        "inputs": {"data": {"path": "data.npz", "bytes": 500, "sha256": "ef" * 32}},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
        "device": "cpu",
        "threads": 1,
        "seconds": 12.3,
    },
    "engine": None,
    "twins": [{"name": "dense-int8", "file": FILE, "score": 0.98}],
    "passes": [
        one("canonicalize"),
        one(
            "prune",
            changed=["fc1.weight"],
            options={"pattern": "2:4", "score": {"use": "sparsegpt"}, "include": []},
            metrics={"layers": 2, "share_of_weights": 0.98765},
            tables={"mine": [{"layer": "fc1", "bits": 4, "error": 0.0625, "note": None}]},
            left_alone=[{"rule": "stem", "where": "stem", "reason": "it sees the input"}],
        ),
        one(
            "quantize",
            tables={"tensors": [activation("fc1.input"), activation("fc2.input")]},
            histograms={"fc1.input": HISTOGRAM, "fc2.input": HISTOGRAM},
        ),
        one("qat", **TRAINED),
    ],
}


def whole(**other: object) -> dict[str, Any]:
    """A copy that may be changed."""
    return {**copy.deepcopy(WHOLE), **other}

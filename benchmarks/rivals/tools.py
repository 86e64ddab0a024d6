"""What other tools do with a model, each as its documentation shows it.

Runs in the tool's own environment and imports nothing but the tool.

usage: python -m benchmarks.rivals.tools TASK MODEL OUT [DATA]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LARGE = 1 << 30
BATCH = 1
"""Samples per calibration batch, as the tools' own examples have it."""


def batches(data: str) -> Iterator[dict[str, Any]]:
    """The samples of an archive, as a tool is fed with them."""
    arrays = {name: array for name, array in np.load(data).items() if name != "labels"}
    count = len(next(iter(arrays.values())))
    for first in range(0, count, BATCH):
        yield {name: array[first : first + BATCH] for name, array in arrays.items()}


def save(model: Any, out: str) -> None:
    """Write a model, with its weights beside it where protobuf holds no more."""
    large = model.ByteSize() > LARGE
    onnx.save(model, out, save_as_external_data=large, location=f"{out}.data".split("/")[-1])


def onnxsim_prune(model: str, out: str) -> None:
    """2:4 by magnitude; there is no command for it."""
    from onnxsim import pruning

    save(pruning.apply_magnitude_pruning(model, n=2, m=4), out)


def onnxsim_sparsegpt(model: str, out: str, data: str) -> None:
    """2:4 by SparseGPT on the samples."""
    from onnxsim import pruning

    found = pruning.apply_sparsegpt_pruning(
        onnx.load(model), calibration_data=list(batches(data)), n=2, m=4
    )
    save(found, out)


def onnxsim_quantize(model: str, out: str, data: str) -> None:
    """Static INT8 with its defaults: per channel, min-max."""
    import onnxsim

    save(onnxsim.quantize_static(model, calibration_data=list(batches(data))), out)


def quantize_static(model: str, out: str, data: str) -> None:
    """ONNX Runtime's, symmetric and per channel as its documentation asks for on a GPU."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = batches(data)

        def get_next(self) -> Any:
            return next(self._batches, None)

    quantization.quantize_static(
        model,
        out,
        Reader(),
        per_channel=True,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def nncf_quantize(model: str, out: str, data: str) -> None:
    """NNCF with its defaults; transformers have a setting of their own."""
    import nncf

    loaded = onnx.load(model)
    attends = any(node.op_type == "Softmax" for node in loaded.graph.node[:-1])
    kind = nncf.ModelType.TRANSFORMER if attends else None
    samples = list(batches(data))
    found = nncf.quantize(
        loaded, nncf.Dataset(samples), subset_size=len(samples), model_type=kind
    )
    save(found, out)


TASKS: dict[str, Callable[..., None]] = {
    "onnxsim-prune": onnxsim_prune,
    "onnxsim-sparsegpt": onnxsim_sparsegpt,
    "onnxsim-quantize": onnxsim_quantize,
    "quantize-static": quantize_static,
    "nncf-quantize": nncf_quantize,
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])

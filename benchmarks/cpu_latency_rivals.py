"""INT8 files of other tools for `cpu_latency`, made in an environment that has them.

usage: python -m benchmarks.cpu_latency_rivals WAY MODEL SAMPLES OUTPUT

Every tool quantizes as its documentation says for ONNX Runtime's CPU, on the same samples.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def _name(model: str) -> str:
    graph = onnx.load(model).graph
    stored = {tensor.name for tensor in graph.initializer}
    return next(value.name for value in graph.input if value.name not in stored)


def _samples(samples: str) -> Iterator[NDArray[Any]]:
    yield from (x[None] for x in np.load(samples)["x"])


def nncf(model: str, samples: str, output: str, *, transformer: bool = False) -> None:
    """Its defaults, or those for transformers."""
    import nncf

    name, inputs = _name(model), list(_samples(samples))
    data = nncf.Dataset(inputs, lambda x: {name: x})
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    found = nncf.quantize(onnx.load(model), data, subset_size=len(inputs), model_type=kind)
    onnx.save(found, output)


def nncf_transformer(model: str, samples: str, output: str) -> None:
    """SmoothQuant, asymmetric activations."""
    nncf(model, samples, output, transformer=True)


def quantize_static(model: str, samples: str, output: str) -> None:
    """ONNX Runtime's own: uint8 activations, int8 weights per channel, after preparation."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = _name(model)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._left = _samples(samples)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            x = next(self._left, None)
            return None if x is None else {name: x}

    prepared = str(Path(output).with_suffix(".prepared.onnx"))
    quant_pre_process(model, prepared)
    quantization.quantize_static(
        prepared,
        output,
        Reader(),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def onnxsim(model: str, samples: str, output: str) -> None:
    """Its static quantization, after the simplification that its command does first."""
    import onnxsim

    name = _name(model)
    simple, _ = onnxsim.simplify(onnx.load(model))
    data = [{name: x} for x in _samples(samples)]
    onnx.save(onnxsim.quantize_static(simple, calibration_data=data), output)


WAYS = {
    "nncf": nncf,
    "nncf-transformer": nncf_transformer,
    "quantize-static": quantize_static,
    "onnxsim": onnxsim,
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](*sys.argv[2:])

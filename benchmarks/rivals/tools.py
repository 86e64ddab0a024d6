"""What other tools do with a model, each as its documentation shows it.

Runs in the tool's own environment and imports nothing but the tool.

usage: python -m benchmarks.rivals.tools TASK MODEL OUT [DATA [BATCH]]
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LARGE = 1 << 30


def batches(data: str, batch: str) -> Iterator[dict[str, Any]]:
    """The samples of an archive, as a tool is fed with them."""
    arrays = {name: array for name, array in np.load(data).items() if name != "labels"}
    count, size = len(next(iter(arrays.values()))), int(batch)
    for first in range(0, count, size):
        yield {name: array[first : first + size] for name, array in arrays.items()}


def save(model: Any, out: str) -> None:
    """Write a model, with its weights beside it where protobuf holds no more."""
    large = model.ByteSize() > LARGE
    onnx.save(model, out, save_as_external_data=large, location=f"{out}.data".split("/")[-1])


def onnxsim_prune(model: str, out: str) -> None:
    """2:4 by magnitude; there is no command for it.

    Given a path, it leaves weights in data files out of what it returns.
    """
    from onnxsim import pruning

    save(pruning.apply_magnitude_pruning(onnx.load(model), n=2, m=4), out)


def onnxsim_sparsegpt(model: str, out: str, data: str, batch: str = "1") -> None:
    """2:4 by SparseGPT on the samples."""
    from onnxsim import pruning

    found = pruning.apply_sparsegpt_pruning(
        onnx.load(model), calibration_data=list(batches(data, batch)), n=2, m=4
    )
    save(found, out)


def onnxsim_quantize(model: str, out: str, data: str, batch: str = "1") -> None:
    """Static INT8 with its defaults, after the simplification that its command does first."""
    import onnxsim

    simple, _ = onnxsim.simplify(onnx.load(model))
    save(onnxsim.quantize_static(simple, calibration_data=list(batches(data, batch))), out)


def onnxsim_train(model: str, out: str, data: str, batch: str = "1") -> None:
    """SparseGPT, static INT8, then its training block by block.

    The pruned model is the teacher: with the dense one the zeros do not stay.
    """
    import onnxsim
    from onnxsim import pruning

    samples = list(batches(data, batch))
    simple, _ = onnxsim.simplify(onnx.load(model))
    pruned = pruning.apply_sparsegpt_pruning(simple, calibration_data=samples, n=2, m=4)
    quantized = onnxsim.quantize_static(pruned, calibration_data=samples)
    trained, _ = onnxsim.apply_qat_all_blocks(
        pruned, quantized, calibration_data=samples, preserve_sparsity=True, num_iterations=200
    )
    save(trained, out)


def quantize_static(model: str, out: str, data: str, batch: str = "1") -> None:
    """ONNX Runtime's, symmetric and per channel as its documentation asks for on a GPU."""
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
    _static(model, out, batches(data, batch), unsigned=False, extra_options=symmetric)


def quantize_static_cpu(model: str, out: str, data: str, batch: str = "1") -> None:
    """The same for its CPU: uint8 activations, int8 weights, after preparation."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = str(Path(out).with_suffix(".prepared.onnx"))
    try:
        quant_pre_process(model, prepared)
    except Exception:  # noqa: BLE001 (it raises no other; Swin has shapes it cannot infer)
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
    _static(prepared, out, batches(data, batch), unsigned=True)


def _static(
    model: str, out: str, samples: Iterator[dict[str, Any]], *, unsigned: bool, **options: Any
) -> None:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> Any:
            return next(samples, None)

    kinds = quantization.QuantType
    quantization.quantize_static(
        model,
        out,
        Reader(),
        per_channel=True,
        activation_type=kinds.QUInt8 if unsigned else kinds.QInt8,
        weight_type=kinds.QInt8,
        **options,
    )


def nncf_quantize(model: str, out: str, data: str, batch: str = "1") -> None:
    """NNCF with its defaults; transformers have a setting of their own."""
    nodes = onnx.load(model, load_external_data=False).graph.node
    attends = any(node.op_type == "Softmax" for node in nodes[:-1])
    (nncf_transformer if attends else nncf_defaults)(model, out, data, batch)


def nncf_defaults(model: str, out: str, data: str, batch: str = "1") -> None:
    """NNCF with its defaults, whatever the model."""
    _nncf(model, out, list(batches(data, batch)))


def nncf_transformer(model: str, out: str, data: str, batch: str = "1") -> None:
    """NNCF for transformers: SmoothQuant, asymmetric activations."""
    import nncf

    _nncf(model, out, list(batches(data, batch)), model_type=nncf.ModelType.TRANSFORMER)


def _nncf(model: str, out: str, samples: list[dict[str, Any]], **options: Any) -> None:
    import nncf

    dataset = nncf.Dataset(samples)
    found = nncf.quantize(onnx.load(model), dataset, subset_size=len(samples), **options)
    save(found, out)


def modelopt_quantize(model: str, out: str, data: str) -> None:
    """INT8 with its defaults, calibrated on the CPU, the rest left in float32.

    It writes on the model that it is given: here on a copy.
    """
    from modelopt.onnx.quantization import quantize

    given = shutil.copyfile(model, Path(out).with_suffix(".given.onnx"))
    quantize(
        str(given),
        quantize_mode="int8",
        calibration_data={n: array for n, array in np.load(data).items() if n != "labels"},
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=out,
    )


TASKS: dict[str, Callable[..., None]] = {
    "onnxsim-prune": onnxsim_prune,
    "onnxsim-sparsegpt": onnxsim_sparsegpt,
    "onnxsim-quantize": onnxsim_quantize,
    "onnxsim-train": onnxsim_train,
    "quantize-static": quantize_static,
    "quantize-static-cpu": quantize_static_cpu,
    "nncf-quantize": nncf_quantize,
    "nncf-defaults": nncf_defaults,
    "nncf-transformer": nncf_transformer,
    "modelopt-quantize": modelopt_quantize,
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])

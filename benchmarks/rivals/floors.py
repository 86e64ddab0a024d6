"""The least that a task can take: what the targets are multiples of.

Prints what the work took, the imports before it not counted.

usage: python -m benchmarks.rivals.floors prune MODEL OUT
       python -m benchmarks.rivals.floors forward MODEL OUT DATA
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from gpusq_compiler.sparsity.masking import masked
from gpusq_compiler.sparsity.nm import mask_of

BATCH = 8


def prune(model: str, out: str) -> None:
    """Read, rank and write every matrix whose first axis is a multiple of 4, and the rest."""
    proto = onnx.load(model, load_external_data=False)
    if any(tensor.external_data for tensor in proto.graph.initializer):
        _prune_beside(proto, Path(model), Path(out))
        return
    for tensor in proto.graph.initializer:
        if len(tensor.dims) == 2 and tensor.dims[0] % 4 == 0:
            tensor.raw_data = _sparse(onnx.numpy_helper.to_array(tensor)).tobytes()
    _write(Path(out), proto.SerializeToString())


def _prune_beside(proto: Any, model: Path, out: Path) -> None:
    """The same with weights in a data file, one after the other, the file memory-mapped."""
    data = out.with_suffix(".data")
    with data.open("wb") as file:
        for tensor in proto.graph.initializer:
            if not tensor.external_data:
                continue
            entries = {entry.key: entry for entry in tensor.external_data}
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            weight = np.memmap(
                model.parent / entries["location"].value,
                kind,
                "r",
                int(entries["offset"].value) if "offset" in entries else 0,
                tuple(tensor.dims),
            )
            prunable = weight.ndim == 2 and weight.shape[0] % 4 == 0
            entries["location"].value = data.name
            if "offset" in entries:
                entries["offset"].value = str(file.tell())
            file.write(_sparse(weight) if prunable else weight)
        file.flush()
        os.fsync(file.fileno())
    _write(out, proto.SerializeToString())


def _sparse(weight: Any) -> Any:
    return masked(weight, mask_of(np.abs(weight), axis=0))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def forward(model: str, out: str, data: str) -> None:
    """Load, run all samples once in float, save."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    arrays = np.load(data)
    fed = {name: arrays[name] for name in names}
    for first in range(0, len(fed[names[0]]), BATCH):
        session.run(None, {name: array[first : first + BATCH] for name, array in fed.items()})
    _write(Path(out), onnx.load(model).SerializeToString())


def main() -> None:
    """Be one of them."""
    task = {"prune": prune, "forward": forward}[sys.argv[1]]
    wall, cpu = time.perf_counter(), time.process_time()
    task(*sys.argv[2:])
    found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps(found))


if __name__ == "__main__":
    main()

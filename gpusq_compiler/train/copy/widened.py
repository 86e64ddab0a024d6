"""A private float32 copy of a model, as training wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from gpusq_compiler.errors import ModelError
from gpusq_compiler.runtime.loadable import runnable
from gpusq_compiler.train.protograph import array_of, opset_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array, Feeds

OLDEST_OPSET = 13
OTHER_FLOATS = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


def private_float32(student: ir.Model) -> onnx.ModelProto:
    """A copy of the student without half precision, every node named.

    Raises:
        ModelError: The runtime cannot take the model's operator set.
    """
    model = runnable(student)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            value = student.graph.initializers[tensor.name].const_value
            assert value is not None
            tensor.CopyFrom(_tensor(value.numpy(), tensor.name))
    if opset_of(model) < OLDEST_OPSET:
        model = _raised(model)
    for graph in graphs(model.graph):
        _widen(graph)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise ModelError(
            f"opset {opset_of(model)} cannot be raised to {OLDEST_OPSET} for training",
            where="model",
            remedy="Export the model with a newer opset",
        ) from error


def widened(feeds: Feeds) -> Feeds:
    """Half precision as float32."""
    halves = {"float16", "bfloat16"}
    return {
        name: array.astype(np.float32) if array.dtype.name in halves else array
        for name, array in feeds.items()
    }


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all bodies in it."""
    yield graph
    for node in graph.node:
        for entry in node.attribute:
            if entry.HasField("g"):
                yield from graphs(entry.g)


def _widen(graph: onnx.GraphProto) -> None:
    """Turn half precision into float32, in place."""
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in OTHER_FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for entry in node.attribute:
            if entry.HasField("t"):
                _widen_tensor(entry.t)
            if node.op_type == "Cast" and entry.name == "to" and entry.i in OTHER_FLOATS:
                entry.i = TensorProto.FLOAT


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in OTHER_FLOATS:
        tensor.CopyFrom(_tensor(array_of(tensor).astype(np.float32), tensor.name))


def _tensor(array: Array, name: str) -> onnx.TensorProto:
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    return numpy_helper.from_array(array, name)

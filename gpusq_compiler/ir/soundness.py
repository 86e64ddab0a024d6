"""Whether a file is a whole, valid model, asked before anybody works on it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from gpusq_compiler.errors import FileError, ModelError, first_line
from gpusq_compiler.ir.wire import copy_field

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGE = 1 << 24
"""Bytes of a file from which on its checking is worth some care."""
SMALL = 1024
FREE_WEIGHTS = 4
"""IR version from which on weights need not be inputs, too."""
WIDTHS: Mapping[int, int] = {
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.BFLOAT16: 2,
    onnx.TensorProto.DOUBLE: 8,
    onnx.TensorProto.INT8: 1,
    onnx.TensorProto.UINT8: 1,
}
"""Bytes of an element, of what large weights consist of."""


def require_readable(path: Path) -> None:
    """Refuse what is no file with something in it.

    Raises:
        FileError: It is a folder, or cannot be read.
        ModelError: It is empty.
    """
    if path.is_dir():
        raise FileError("a folder, not a model file", where=str(path), remedy="Name the file")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise FileError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="Check the path"
        ) from error
    if not first:
        raise ModelError("the file is empty", where=str(path), remedy="Export the model again")


def require_whole(model: ir.Model, path: Path) -> None:
    """Refuse a model without a graph, or without all of its weights.

    Raises:
        ModelError: Something is missing.
    """
    _require_graph(model, path)
    _require_data(model, path)


def _require_graph(model: ir.Model, path: Path) -> None:
    if not model.graph.outputs or not model.opset_imports:
        raise ModelError(
            "not an ONNX model: no graph with outputs in it",
            where=str(path),
            remedy="Give a file that an ONNX exporter wrote",
        )


def _require_data(model: ir.Model, path: Path) -> None:
    for value in (v for graph in model.graphs() for v in graph.initializers.values()):
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        file = Path(tensor.path)
        if not file.resolve().is_relative_to(path.resolve().parent):
            raise ModelError(
                f"its data file {tensor.location} lies outside the model's folder",
                where=f"{path}, tensor '{value.name}'",
                remedy="Put the data beside the model",
            )
        needed = (tensor.offset or 0) + (tensor.length or 0)
        if not file.is_file():
            raise ModelError(
                f"the weights' data file {file.name} is missing",
                where=f"{path}, tensor '{value.name}'",
                remedy="Put it beside the model",
            )
        if file.stat().st_size < needed:
            raise ModelError(
                f"the data file {file.name} ends at byte {file.stat().st_size}, "
                f"the tensor at {needed}: truncated",
                where=f"{path}, tensor '{value.name}'",
                remedy="Copy or export it again",
            )


def require_valid(model: ir.Model, path: Path, proto: onnx.ModelProto | None = None) -> None:
    """Refuse what cannot be worked on.

    Raises:
        ModelError: See `complaint`.
    """
    found = complaint(model, path, proto)
    if found is not None:
        raise ModelError(found, where=str(path), remedy="Export it again")


def complaint(model: ir.Model, path: Path, proto: onnx.ModelProto | None = None) -> str | None:
    """Why a model cannot be worked on; None if nothing speaks against it.

    Args:
        model: As it was read.
        path: Its file, which the ONNX checker looks at.
        proto: What the file holds, where that is known; then the checker does not read large
            weights once more, in which it could find nothing.
    """
    if not _passes_without_weights(path, proto):
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            return f"not a valid ONNX model: {first_line(error)}"
    for node in model.graph:
        for value in filter(None, node.inputs):
            if value.producer() is None and value.graph is None:
                return f"tensor '{value.name}' is stored sparse, which nothing here reads"
    return None


def _passes_without_weights(path: Path, proto: onnx.ModelProto | None) -> bool:
    """Whether the checker has nothing to say of a large model but for its plain weights."""
    if proto is None or path.stat().st_size < LARGE or proto.ir_version < FREE_WEIGHTS:
        return False
    skeleton = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            copy_field(skeleton, field.name, value)
    for field, value in proto.graph.ListFields():
        if field.name != "initializer":
            copy_field(skeleton.graph, field.name, value)
    fed = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        if not _is_plain(tensor):
            skeleton.graph.initializer.append(tensor)
        elif tensor.name not in fed:
            kind, shape = tensor.data_type, tensor.dims
            stands_for = onnx.helper.make_tensor_value_info(tensor.name, kind, shape)
            skeleton.graph.input.append(stands_for)
    try:
        onnx.checker.check_model(skeleton)
    except (onnx.checker.ValidationError, ValueError):
        return False
    return True


def _is_plain(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is large and holds the bytes that its type and shape ask for."""
    size = WIDTHS.get(int(tensor.data_type), 0) * math.prod(tensor.dims)
    if size < SMALL or tensor.external_data or tensor.float_data or tensor.int32_data:
        return False
    return len(tensor.raw_data) == size and not tensor.HasField("segment")

"""A model as the bytes of its file, weights straight from where they are.

Protobuf copies every weight twice on its way to a file. Here it sees them empty, and their
bytes are put where it would have written them:

    model  = before · graph · after          (field 7)
    graph  = before · initializers · after   (field 5)
    tensor = before · raw_data · after       (field 9)

What comes out is byte for byte what protobuf writes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from gpusq_compiler.ir import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx
    from google.protobuf.message import Message

    Chunk = bytes | memoryview

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
LENGTH_DELIMITED = 2


class Hollow(ir.Tensor[npt.NDArray[Any]]):
    """A tensor that protobuf sees without its values."""

    def tobytes(self) -> bytes:
        """Nothing."""
        return b""


def content(tensor: ir.TensorProtocol) -> Chunk:
    """The bytes of a tensor as files hold them, no copy where memory holds them so."""
    if sys.byteorder != "little" or tensor.dtype.bitwidth < 8:
        return tensor.tobytes()
    return np.ascontiguousarray(tensors.values(tensor)).reshape(-1).view(np.uint8).data


def hollow(model: ir.Model, least: int) -> tuple[ir.Model, dict[str, Chunk]]:
    """A copy whose large weights in memory are empty, and what they hold.

    Args:
        model: Left as it is.
        least: Bytes that a large weight has.
    """
    copy = model.clone()
    held: dict[str, Chunk] = {}
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if type(tensor) is ir.Tensor and tensor.nbytes >= least:
            held[name] = content(tensor)
            empty = Hollow(
                tensor.numpy(),
                dtype=tensor.dtype,
                name=tensor.name,
                doc_string=tensor.doc_string,
                metadata_props=tensor.metadata_props,
            )
            value.const_value = empty
    return copy, held


def chunks(model: onnx.ModelProto, held: Mapping[str, Chunk]) -> Iterator[Chunk]:
    """The model in pieces, in order, with what is held in the places of its empty weights."""
    parts: list[Chunk] = []
    before, after = _around(model.graph, INITIALIZER)
    parts.append(before)
    for tensor in model.graph.initializer:
        parts += _tensor(tensor, held.get(tensor.name))
    parts.append(after)
    before, after = _around(model, GRAPH)
    yield before
    yield _head(GRAPH, sum(map(len, parts)))
    yield from parts
    yield after


def _tensor(tensor: onnx.TensorProto, values: Chunk | None) -> list[Chunk]:
    """One initializer."""
    if values is None:
        parts: list[Chunk] = [tensor.SerializeToString(deterministic=True)]
    else:
        before, after = _around(tensor, RAW_DATA)
        parts = [before, _head(RAW_DATA, len(values)), values, after]
    return [_head(INITIALIZER, sum(map(len, parts))), *parts]


def copy_field(message: Message, name: str, value: Any) -> None:
    """Give a message a field of another of its kind."""
    if isinstance(value, (bool, int, float, str, bytes)):
        setattr(message, name, value)
    else:
        getattr(message, name).MergeFrom(value)


def _around(message: Message, number: int) -> tuple[bytes, bytes]:
    """What protobuf writes before and behind a field."""
    sides = []
    for behind in (False, True):
        part = type(message)()
        for field, value in message.ListFields():
            if field.number == number or (field.number > number) != behind:
                continue
            copy_field(part, field.name, value)
        sides.append(part.SerializeToString(deterministic=True))
    return sides[0], sides[1]


def _head(number: int, length: int) -> bytes:
    """What stands before a field of bytes or of a message."""
    found = bytearray([number << 3 | LENGTH_DELIMITED])
    while length > 127:
        found.append(length & 127 | 128)
        length >>= 7
    return bytes([*found, length])

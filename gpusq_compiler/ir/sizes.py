"""Sizes of dimensions: free ones guessed from their names, inner ones from the inputs'."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.ir import edit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SEQUENCE, SAMPLES = 32, 16000

SOUND = ("audio", "wave", "speech", "input_values")
"""What inputs that hold a waveform are called; its last axis is time."""

SIZES = (
    (("height", "width", "image", "size"), 224),
    (("channel",), 3),
    (("audio", "wave", "sample"), SAMPLES),
    (("mel", "freq"), 80),
    (("seq", "len", "token", "time", "frame"), SEQUENCE),
)
"""Sizes of free dimensions by what their names contain; the first match wins."""

OTHER_SIZE = 16


def usual_shape(value: ir.Value) -> tuple[int, ...]:
    """A shape that an input may have: fixed sizes as they are, a free batch is 1."""
    return tuple(_usual_sizes(value))


def _usual_sizes(value: ir.Value) -> Iterator[int]:
    assert value.shape is not None
    rank = len(value.shape)
    sound = any(word in (value.name or "").lower() for word in SOUND)
    for axis, size in enumerate(value.shape):
        if isinstance(size, int):
            yield size
        elif sound and axis == rank - 1 and rank <= 3:
            yield SAMPLES
        else:
            name = size.value if isinstance(size, ir.SymbolicDim) else None
            yield _size(name or _usual_name(axis, rank)) if axis else 1


def _usual_name(axis: int, rank: int) -> str:
    """What an axis without a name most likely is: images have rank 4, sequences 2 or 3."""
    if rank == 4:
        return ("batch", "channel", "height", "width")[axis]
    return "sequence" if axis == 1 and rank in {2, 3} else ""


def _size(name: str) -> int:
    lowered = name.lower()
    if lowered in {"h", "w"}:
        return 224
    if lowered in {"s", "t", "l"}:
        return SEQUENCE
    return next((n for words, n in SIZES if any(w in lowered for w in words)), OTHER_SIZE)


def inferred_shapes(
    model: ir.Model, inputs: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors that follow from those of the inputs, without running anything.

    Args:
        model: Left as it is; sizes that it declares as free are not believed.
        inputs: Shapes by name.
    """
    clone = model.clone()
    for value in clone.graph.inputs:
        given = inputs.get(value.name or "")
        value.shape = value.shape if given is None else ir.Shape(given)
    nodes = ir.traversal.RecursiveGraphIterator(clone.graph)
    values = [value for node in nodes for value in node.outputs]
    for value in values:
        if value.shape is not None and not value.shape.is_static():
            value.shape = None
    edit.infer_shapes(clone)
    return {
        value.name or "": tuple(int(size) for size in value.shape.numpy())
        for value in (*clone.graph.inputs, *values)
        if value.shape is not None and value.shape.is_static()
    }

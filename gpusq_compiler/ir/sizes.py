"""Sizes for dimensions that a model leaves free, guessed from their names and positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator

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

"""Inputs for a model that came without data; accuracy on them says nothing.

Floats are standard normal. Integers that index a table stay below its length, other integers
are 0 or 1, which is valid as a class, a flag, a token type and a token alike. Masks are ones.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from gpusq_compiler.runtime.session import input_specs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpusq_compiler.runtime.samples import Array, Feeds

COUNT = 64
"""Samples made unless told otherwise."""

SIZES = (
    (("height", "width", "image", "size"), 224),
    (("channel",), 3),
    (("seq", "len", "token", "time", "frame"), 32),
)
"""Sizes of free dimensions by what their names contain; the first match wins."""

OTHER_SIZE = 16

_SAME_VALUES = frozenset(
    {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticInput:
    """How one input is made up.

    Attributes:
        name: The input.
        dtype: Its element type.
        shape: Shape of one sample.
        scalar: Whether it has no batch dimension.
        high: Integers stay below this.
        ones: Whether it is a mask.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    scalar: bool
    high: int
    ones: bool

    def sample(self, rng: np.random.Generator) -> Array:
        """One sample."""
        if self.ones or self.dtype.kind == "b":
            return np.ones(self.shape, self.dtype)
        if self.dtype.kind in "iu":
            return rng.integers(0, self.high, self.shape).astype(self.dtype)
        return rng.standard_normal(self.shape, np.float32).astype(self.dtype)


class SyntheticSamples:
    """Samples made when they are asked for, each from the seed and its own row."""

    synthetic: ClassVar[bool] = True

    def __init__(self, inputs: Sequence[SyntheticInput], count: int, seed: int) -> None:
        self._inputs = sorted(inputs, key=lambda made: made.scalar)
        self._count = count
        self._seed = seed

    @property
    def count(self) -> int:
        """Number of samples."""
        return self._count

    @property
    def has_labels(self) -> bool:
        """Never."""
        return False

    def take(self, rows: npt.NDArray[np.int64]) -> Feeds:
        """Make these rows."""
        return {made.name: self._batch(made, rows) for made in self._inputs}

    def _batch(self, made: SyntheticInput, rows: npt.NDArray[np.int64]) -> Array:
        label = [*b"synthetic", *made.name.encode()]
        rngs = (np.random.default_rng([self._seed, int(row), *label]) for row in rows)
        if made.scalar:
            return made.sample(next(rngs))
        return np.stack([made.sample(rng) for rng in rngs])


def synthesize(model: ir.Model, *, count: int = COUNT, seed: int) -> SyntheticSamples:
    """Samples that the model accepts, made up from its inputs and how they are used.

    Raises:
        ModelError: An input has no element type or no rank.
    """
    values = {value.name: value for value in model.graph.inputs}
    inputs = []
    for spec in input_specs(model):
        value = values[spec.name]
        limits = [*_table_lengths(value)]
        inputs.append(
            SyntheticInput(
                name=spec.name,
                dtype=spec.dtype,
                shape=tuple(_sample_shape(value)),
                scalar=not spec.shape,
                high=min(limits, default=2),
                ones="mask" in spec.name.lower(),
            )
        )
    return SyntheticSamples(inputs, count, seed)


def _sample_shape(value: ir.Value) -> Iterator[int]:
    assert value.shape is not None
    rank = len(value.shape)
    for axis, size in enumerate(value.shape):
        if axis and isinstance(size, int):
            yield size
        elif axis:
            name = size.value if isinstance(size, ir.SymbolicDim) else None
            yield _size(name or _usual_name(axis, rank))


def _usual_name(axis: int, rank: int) -> str:
    """What an axis without a name most likely is: images have rank 4, sequences 2 or 3."""
    if rank == 4:
        return ("batch", "channel", "height", "width")[axis]
    return "sequence" if axis == 1 and rank in {2, 3} else ""


def _size(name: str) -> int:
    lowered = name.lower()
    if lowered in {"h", "w"}:
        return 224
    return next((n for words, n in SIZES if any(w in lowered for w in words)), OTHER_SIZE)


def _table_lengths(value: ir.Value) -> Iterator[int]:
    """Lengths of all tables that a value indexes, itself or only reshaped."""
    for node, position in value.uses():
        if node.op_type == "Gather" and position == 1:
            yield from _length(node.inputs[0], node.attributes.get_int("axis", 0))
        elif node.op_type in _SAME_VALUES and position == 0:
            yield from _table_lengths(node.outputs[0])


def _length(table: ir.Value | None, axis: int) -> Iterator[int]:
    """Length of a table along an axis, where it is known."""
    if table is None:
        return
    tensor = ir.convenience.get_const_tensor(table)
    shape = table.shape if tensor is None else tensor.shape
    length = None if shape is None else shape[axis]
    if isinstance(length, int):
        yield length

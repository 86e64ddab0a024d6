"""Inputs for a model that came without data; accuracy on them says nothing.

Floats are standard normal. Integers that index a table stay below its length; positions count
up, lengths are the whole sequence, bytes of rank 3 and 4 are an image's; other integers are 0
or 1, which is valid as a class, a flag, a token type and a token alike. Masks are ones.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from gpusq_compiler.ir import sizes
from gpusq_compiler.runtime.session import InputSpec, input_specs, without_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpusq_compiler.runtime.samples import Array, Feeds

COUNT = 64
"""Samples made unless told otherwise."""

Fill: TypeAlias = Literal["random", "ones", "positions", "length"]
FILLS: tuple[tuple[str, Fill], ...] = (
    ("mask", "ones"),
    ("position", "positions"),
    ("length", "length"),
)
"""How an input is filled by what its name contains; the first match wins."""

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
        fill: ``random``, ``ones`` (a mask), ``positions`` or ``length``.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    scalar: bool
    high: int
    fill: Fill

    def sample(self, rng: np.random.Generator) -> Array:
        """One sample."""
        if self.fill == "ones" or self.dtype.kind == "b":
            return np.ones(self.shape, self.dtype)
        if self.dtype.kind in "iu" and self.fill == "length":
            return np.full(self.shape, sizes.SEQUENCE, self.dtype)
        if self.dtype.kind in "iu" and self.fill == "positions" and self.shape:
            counted = np.arange(self.shape[-1]) % self.high
            return np.broadcast_to(counted, self.shape).astype(self.dtype)
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
    specs = input_specs(model)
    whole = without_batch(specs)
    inputs = [_made_up(values[spec.name], spec, whole=spec.name in whole) for spec in specs]
    return SyntheticSamples(inputs, count, seed)


def _made_up(value: ir.Value, spec: InputSpec, *, whole: bool) -> SyntheticInput:
    name = spec.name.lower()
    fill: Fill = next((how for word, how in FILLS if word in name), "random")
    image = spec.dtype == np.uint8 and len(spec.shape) in {3, 4}
    usual = sizes.SEQUENCE if fill == "positions" else 256 if image else 2
    return SyntheticInput(
        name=spec.name,
        dtype=spec.dtype,
        shape=sizes.usual_shape(value)[not whole :],
        scalar=whole,
        high=min(_table_lengths(value), default=usual),
        fill=fill,
    )


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

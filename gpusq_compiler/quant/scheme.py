"""What a quantizer is: integer type, range and granularity."""

from __future__ import annotations

import dataclasses
import math

from gpusq_compiler.errors import OptionError

MIDDLE = 128
"""The zero point of uint8 codes that have both signs: the grid of int8 and zero point 0."""
LOPSIDED = 0.5
"""What reaches this far below 0, as part of what it reaches above, gets unsigned codes."""
TYPES = {"int8": 8, "int4": 4, "uint8": 8}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantScheme:
    """A quantizer around 0: symmetric with zero point 0, or unsigned.

    Attributes:
        dtype: ``int8`` or ``int4``; ``uint8`` for what lies, for the most part,
            above 0.
        axis: Channel axis of per-channel scales; None means one scale for the tensor.
        narrow: Leave out the most negative code, as weights do: [-127, 127].
        zero: The code of 0 where codes are unsigned: [-zero, 255 - zero] around it.
    """

    dtype: str = "int8"
    axis: int | None = None
    narrow: bool = False
    zero: int = 0

    @property
    def unsigned(self) -> bool:
        """Whether codes begin at 0."""
        return self.dtype.startswith("u")

    @property
    def high(self) -> int:
        """Largest code, counted from that of 0."""
        return int(2 ** (TYPES[self.dtype] - (not self.unsigned)) - 1) - self.zero

    @property
    def low(self) -> int:
        """Smallest code, counted from that of 0."""
        if self.unsigned:
            return -self.zero
        return -self.high if self.narrow else -self.high - 1

    def __str__(self) -> str:
        grain = "per-tensor" if self.axis is None else f"per-channel axis={self.axis}"
        shift = f" zero={self.zero}" if self.zero else ""
        return f"{self.dtype} {grain}{shift}"

    @classmethod
    def parse(cls, text: str, *, narrow: bool = False) -> QuantScheme:
        """Read what ``str`` wrote: ``int8 per-channel axis=1``, ``uint8 per-tensor zero=9``.

        Raises:
            OptionError: The text names no scheme.
        """
        start, _, zero = text.partition(" zero=")
        dtype, _, grain = start.partition(" ")
        axis = None
        if grain.startswith("per-channel axis="):
            axis = int(grain.removeprefix("per-channel axis="))
        elif grain != "per-tensor":
            raise OptionError(f"'{text}' is not a quantization scheme")
        if dtype not in TYPES:
            raise OptionError(f"'{dtype}' is not one of {', '.join(TYPES)}")
        return cls(dtype=dtype, axis=axis, narrow=narrow, zero=int(zero or 0))


def one_sided(lowest: float, largest: float) -> QuantScheme | None:
    """The unsigned quantizer of what lies in [lowest, largest]; None where it is no finer.

    Args:
        lowest: The smallest value.
        largest: The magnitude that gets the largest code.
    """
    below = max(0.0, -lowest)
    if not 0 < largest < math.inf or below > largest * LOPSIDED:
        return None
    return QuantScheme(dtype="uint8", zero=math.ceil(255 * below / (largest + below)))

"""What a quantizer is: integer type, range and granularity."""

from __future__ import annotations

import dataclasses

from gpusq_compiler.errors import OptionError

TYPES = {"int8": 8, "int4": 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantScheme:
    """A symmetric quantizer with zero point 0.

    Attributes:
        dtype: ``int8`` or ``int4``.
        axis: Channel axis of per-channel scales; None means one scale for the tensor.
        narrow: Leave out the most negative code, as weights do: [-127, 127].
    """

    dtype: str = "int8"
    axis: int | None = None
    narrow: bool = False

    @property
    def high(self) -> int:
        """Largest code."""
        return int(2 ** (TYPES[self.dtype] - 1) - 1)

    @property
    def low(self) -> int:
        """Smallest code."""
        return -self.high if self.narrow else -self.high - 1

    def __str__(self) -> str:
        grain = "per-tensor" if self.axis is None else f"per-channel axis={self.axis}"
        return f"{self.dtype} {grain}"

    @classmethod
    def parse(cls, text: str, *, narrow: bool = False) -> QuantScheme:
        """Read what ``str`` wrote: ``int8 per-tensor``, ``int8 per-channel axis=1``.

        Raises:
            OptionError: The text names no scheme.
        """
        dtype, _, grain = text.partition(" ")
        axis = None
        if grain.startswith("per-channel axis="):
            axis = int(grain.removeprefix("per-channel axis="))
        elif grain != "per-tensor":
            raise OptionError(f"'{text}' is not a quantization scheme")
        if dtype not in TYPES:
            raise OptionError(f"'{dtype}' is not one of {', '.join(TYPES)}")
        return cls(dtype=dtype, axis=axis, narrow=narrow)

"""Image files as a column: every read decodes the rows that are asked for, and no more."""

from __future__ import annotations

import dataclasses
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpusq_compiler.errors import DataError, MissingRuntime, first_line

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from PIL.Image import Image

    from gpusq_compiler.runtime.samples import Array

_DEEP = ("I", "F")
"""First letters of Pillow's modes with more than 8 bits a channel."""

_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What Pillow raises on files that are no images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """What a decoded image becomes.

    Attributes:
        channels: ``rgb``, ``bgr`` or ``gray``.
        channels_first: ``[channels, height, width]``, else channels last.
        squash: Whether proportions change; else the shorter side fits, the middle is kept.
        interpolation: Name of one of Pillow's filters.
        scale: Bytes are multiplied by it.
        mean: Taken off then, one or one per channel.
        std: Divided by then, one or one per channel.
        dtype: Of the result.
    """

    height: int
    width: int
    channels: str
    channels_first: bool
    squash: bool
    interpolation: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        depth = 1 if self.channels == "gray" else 3
        sides = (self.height, self.width)
        return (depth, *sides) if self.channels_first else (*sides, depth)

    def array(self, image: Image) -> Array:
        """One sample."""
        fitting = self._resized(image.convert("L" if self.channels == "gray" else "RGB"))
        pixels = np.asarray(fitting, dtype=np.float32).reshape(self.height, self.width, -1)
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        mean, std = (np.asarray(value, dtype=np.float32) for value in (self.mean, self.std))
        values = (pixels * np.float32(self.scale) - mean) / std
        ordered = values.transpose(2, 0, 1) if self.channels_first else values
        result: Array = ordered.astype(self.dtype)
        return result

    def _resized(self, image: Image) -> Image:
        wide, high = image.size
        if self.squash:
            wide, high = self.width, self.height
        elif self.height * wide >= self.width * high:
            wide, high = wide * self.height // high, self.height
        else:
            wide, high = self.width, high * self.width // wide
        if (wide, high) != image.size:
            kind = _pillow().Resampling[self.interpolation.upper()]
            image = image.resize((wide, high), kind)
        left, top = round((wide - self.width) / 2), round((high - self.height) / 2)
        return image.crop((left, top, left + self.width, top + self.height))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageColumn:
    """One sample per file."""

    files: tuple[Path, ...]
    form: Recording

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.form.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images, then the shape of one."""
        return (len(self.files), *self.form.shape)

    def read(self, rows: slice | npt.NDArray[np.int64]) -> Array:
        """Decode these rows.

        Raises:
            DataError: A file is no sound image.
        """
        chosen = np.arange(len(self.files))[rows]
        values = np.empty((len(chosen), *self.form.shape), self.dtype)
        for place, row in enumerate(chosen):
            values[place] = self._decoded(self.files[row])
        return values

    def require_readable(self) -> None:
        """Look at the header of every file: what is no image is said now, not in mid-training.

        Raises:
            DataError: A file is no image.
            MissingRuntime: Pillow is not installed.
        """
        for file in self.files:
            self._opened(file, decode=False)

    def _decoded(self, file: Path) -> Array:
        values = self._opened(file, decode=True)
        assert values is not None
        return values

    def _opened(self, file: Path, *, decode: bool) -> Array | None:
        pillow = _pillow()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with pillow.open(file) as image:
                    if image.mode.startswith(_DEEP):
                        raise DataError(
                            "has more than 8 bits per channel",
                            where=str(file),
                            remedy="Convert it to 8 bits",
                        )
                    return self.form.array(image) if decode else None
        except (*_DAMAGED, pillow.DecompressionBombError) as error:
            why = (getattr(error, "strerror", None) or first_line(error)).replace(
                repr(str(file)), "it"
            )
            raise DataError(
                f"cannot be read as an image: {why}",
                where=str(file),
                remedy="Remove or repair it",
            ) from error


def _pillow() -> ModuleType:
    try:
        import PIL.Image
    except ImportError as error:
        raise MissingRuntime(
            "images need Pillow",
            where="--data",
            remedy="pip install 'gpusq-compiler[images]'",
        ) from error
    return PIL.Image

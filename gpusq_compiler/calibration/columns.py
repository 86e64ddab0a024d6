"""Columns: one array of samples each, in memory or in a file, read by row."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from gpusq_compiler.errors import FileError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Self

    from gpusq_compiler.runtime.samples import Array

CHUNK_BYTES = 16 << 20
"""How much a look through a whole column holds at a time."""


class Column(Protocol):
    """An array whose first axis counts samples."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples, then the shape of one."""
        ...

    def read(self, rows: slice | npt.NDArray[np.int64]) -> Array:
        """A copy of these rows."""
        ...


@dataclasses.dataclass(frozen=True)
class MemoryColumn:
    """An array in memory."""

    values: Array

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        dtype: np.dtype[Any] = self.values.dtype
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples, then the shape of one."""
        return self.values.shape

    def read(self, rows: slice | npt.NDArray[np.int64]) -> Array:
        """A copy of these rows."""
        return np.array(self.values[rows])


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileColumn:
    """Raw values inside a file, mapped only while rows are read: no file stays open."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int = 0
    fortran: bool = False

    def read(self, rows: slice | npt.NDArray[np.int64]) -> Array:
        """A copy of these rows.

        Raises:
            FileError: The file is gone or has shrunk.
        """
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)[rows]
        try:
            mapped = np.memmap(
                self.path,
                self.dtype,
                mode="r",
                offset=self.offset,
                shape=self.shape,
                order="F" if self.fortran else "C",
            )
        except (OSError, ValueError) as error:
            raise FileError(
                f"cannot be read any more: {first_line(error)}",
                where=str(self.path),
                remedy="Leave the data as they are while the program runs",
            ) from error
        return np.array(mapped[rows])


def viewed(column: Column, dtype: np.dtype[Any]) -> Column:
    """The same bytes under another type of the same size (``.npy`` stores bfloat16 as raw)."""
    if isinstance(column, FileColumn):
        return dataclasses.replace(column, dtype=dtype)
    return MemoryColumn(column.read(slice(None)).view(dtype))


def chunks(column: Column) -> Iterator[tuple[int, Array]]:
    """The whole column in pieces, each with the row it starts at."""
    row_bytes = math.prod(column.shape[1:]) * column.dtype.itemsize
    size = max(1, CHUNK_BYTES // max(1, row_bytes))
    for start in range(0, column.shape[0], size):
        yield start, column.read(slice(start, start + size))


class Spool:
    """Writes a column to a file piece by piece; nothing is at ``path`` before `finish`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: BinaryIO = self._part.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self._part.unlink(missing_ok=True)

    def finish(
        self, dtype: np.dtype[Any], shape: tuple[int, ...], *, fortran: bool = False
    ) -> FileColumn:
        """Give the file its name; it is complete."""
        self.file.close()
        self._part.replace(self._path)
        return FileColumn(path=self._path, dtype=dtype, shape=shape, fortran=fortran)

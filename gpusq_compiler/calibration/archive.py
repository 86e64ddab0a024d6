"""Reading ``.npz`` files: nothing is unpickled, nothing large is held in memory.

An array that is stored as it is stays in the archive and is mapped at its offset; a compressed
one is held in memory while all of these together stay small, and unpacked to a file otherwise.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import struct
import tokenize
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpusq_compiler.calibration.columns import Column, FileColumn, MemoryColumn, Spool
from gpusq_compiler.errors import DataError, first_line

if TYPE_CHECKING:
    from pathlib import Path

IN_MEMORY = 64 << 20
"""Bytes of unpacked arrays that one reader holds in memory."""

LOCAL_HEADER = 30
"""Bytes of a zip member's header before its name and its extra field."""

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class ArchiveReader:
    """Reads archives whose unpacked arrays share one budget of memory.

    Args:
        folder: Where large compressed arrays are unpacked.
        in_memory: The budget in bytes.
    """

    def __init__(self, folder: Path, *, in_memory: int = IN_MEMORY) -> None:
        self._folder = folder
        self._left = in_memory

    def read(self, path: Path) -> dict[str, Column]:
        """The arrays of one archive by name, their checksums verified.

        Raises:
            DataError: The file is no sound archive of plain arrays.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                return {
                    info.filename.removesuffix(".npy"): self._column(archive, info, path)
                    for info in archive.infolist()
                }
        except _DAMAGED as error:
            raise DataError(
                f"is not a sound .npz archive: {first_line(error)}",
                where=str(path),
                remedy=_remedy(path),
            ) from error

    def _column(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Column:
        with archive.open(info) as member:
            dtype, shape, fortran = _header(member)
            if dtype.hasobject:
                name = info.filename.removesuffix(".npy")
                raise DataError(
                    "holds Python objects, which are never unpickled",
                    where=f"{path}: array '{name}'",
                    remedy="Save plain numbers, all samples of one shape",
                )
            start = member.tell()
            size = math.prod(shape) * dtype.itemsize
            if info.file_size != start + size or min(shape, default=0) < 0:
                raise ValueError(f"{info.filename} is {info.file_size} bytes long")
            if info.compress_type == zipfile.ZIP_STORED:
                _verify(member)
                offset = _data_offset(path, info) + start
                return FileColumn(
                    path=path, dtype=dtype, shape=shape, offset=offset, fortran=fortran
                )
            if size <= self._left:
                self._left -= size
                values = np.frombuffer(member.read(), dtype)
                return MemoryColumn(values.reshape(shape, order="F" if fortran else "C"))
            with Spool(self._unpacked(path, info.filename)) as spool:
                shutil.copyfileobj(member, spool.file, 1 << 20)
                return spool.finish(dtype, shape, fortran=fortran)

    def _unpacked(self, path: Path, name: str) -> Path:
        digest = hashlib.sha256(f"{path.resolve()}\0{name}".encode()).hexdigest()
        return self._folder / f"{digest[:16]}.bin"


def _remedy(path: Path) -> str:
    """What to give instead, by what the name says the file is."""
    return {
        ".py": f"Name the function in it, too: {path}:NAME",
        ".npy": "Write it with np.savez('samples.npz', NAME=array), NAME that of the input",
    }.get(path.suffix.lower(), "Write it again with np.savez")


def _header(member: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError(f"an array is in format version {version}")
    return dtype, shape, fortran


def _verify(member: IO[bytes]) -> None:
    """Read to the end, where zipfile compares the checksum."""
    while member.read(1 << 20):
        pass


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name, extra = struct.unpack("<HH", file.read(LOCAL_HEADER)[26:])
    return info.header_offset + LOCAL_HEADER + int(name) + int(extra)

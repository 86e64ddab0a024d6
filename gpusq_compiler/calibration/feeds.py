"""Feeds that a loader yields once, written to files so that they can be read by row."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.calibration.columns import Column, Spool
from gpusq_compiler.calibration.functions import user_code
from gpusq_compiler.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Array

_REMEDY = "Yield dictionaries of arrays, one batch each, named like the model's inputs"


@dataclasses.dataclass
class _Growing:
    """A column under construction: every batch must look like the first."""

    spool: Spool
    first: Array
    count: int = 0

    def append(self, values: Array, where: str) -> None:
        wanted, found = (
            f"{a.dtype} samples of shape {list(a.shape[1:])}" for a in (self.first, values)
        )
        if found != wanted:
            raise DataError(
                f"holds {found}, earlier batches {wanted}",
                where=where,
                remedy="Give all samples one type and shape: crop, pad with the mask at 0, or "
                "keep those of one length",
            )
        self.spool.file.write(np.ascontiguousarray(values).tobytes())
        self.count += len(values)

    def finish(self) -> Column:
        return self.spool.finish(self.first.dtype, (self.count, *self.first.shape[1:]))


def spooled(feeds: object, folder: Path, where: str) -> dict[str, Column]:
    """Write every batch of an iterable to ``folder`` and return the columns.

    Raises:
        DataError: What is yielded are not dictionaries of arrays that fit together.
    """
    columns: dict[str, _Growing] = {}
    with contextlib.ExitStack() as stack:
        for number, batch in enumerate(_guarded(feeds, where)):
            arrays = _arrays(batch, f"{where}: batch {number}")
            if not number:
                for index, (name, values) in enumerate(arrays.items()):
                    spool = stack.enter_context(Spool(folder / f"{index}.bin"))
                    columns[name] = _Growing(spool, values)
            if arrays.keys() != columns.keys():
                raise DataError(
                    f"holds {', '.join(arrays)}, earlier batches {', '.join(columns)}",
                    where=f"{where}: batch {number}",
                    remedy="Yield the same names every time",
                )
            for name, values in arrays.items():
                columns[name].append(values, f"{where}: batch {number}: array '{name}'")
        if not columns:
            raise DataError("yields nothing", where=where, remedy=_REMEDY)
        return {name: column.finish() for name, column in columns.items()}


def _guarded(feeds: object, where: str) -> Iterator[object]:
    if not isinstance(feeds, Iterable) or isinstance(feeds, Mapping | str | bytes):
        raise DataError(
            f"gives an object of type {type(feeds).__name__}, not batches",
            where=where,
            remedy=_REMEDY,
        )
    with user_code(where):
        iterator = iter(feeds)
    end = object()
    while True:
        with user_code(where):
            batch = next(iterator, end)
        if batch is end:
            return
        yield batch


def _arrays(batch: object, where: str) -> dict[str, Array]:
    if not isinstance(batch, Mapping) or not batch:
        what = "empty" if isinstance(batch, Mapping) else f"of type {type(batch).__name__}"
        raise DataError(f"is {what}, not a dictionary", where=where, remedy=_REMEDY)
    with user_code(where):
        arrays = {str(name): np.asarray(values) for name, values in batch.items()}
    for name, values in arrays.items():
        if not values.ndim or values.dtype.hasobject:
            raise DataError(
                "is not an array of samples", where=f"{where}: array '{name}'", remedy=_REMEDY
            )
    return arrays

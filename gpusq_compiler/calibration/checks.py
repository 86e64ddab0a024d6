"""Data against a model: every mismatch is one sentence with file, array, sample and remedy."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq_compiler.calibration.columns import Column, chunks, viewed
from gpusq_compiler.calibration.pictures import ImageColumn
from gpusq_compiler.errors import DataError
from gpusq_compiler.runtime.samples import IGNORED, LABELS
from gpusq_compiler.runtime.session import without_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.runtime.session import InputSpec


def checked(
    columns: Mapping[str, Column],
    inputs: Sequence[InputSpec],
    *,
    classes: int | None,
    where: str,
) -> dict[str, Column]:
    """The columns in the order of the model's inputs, then the labels; all of them sound.

    Args:
        columns: Arrays by name.
        inputs: What the model wants.
        classes: Number of classes when the labels must be class ids; None allows any labels.
        where: The file or function that they come from.

    Raises:
        DataError: A name, type, shape, count or value does not fit.
    """
    _names(columns, [spec.name for spec in inputs], where)
    whole = without_batch(inputs)
    result = {
        spec.name: _fitting(
            columns[spec.name], spec, spec.shape[spec.name not in whole :], where
        )
        for spec in inputs
    }
    if LABELS in columns:
        result[LABELS] = columns[LABELS]
    _counts(result, where)
    for spec in inputs:
        _finite(result[spec.name], f"{where}: array '{spec.name}'")
    if LABELS in result:
        _labels(result[LABELS], classes, f"{where}: array '{LABELS}'")
    return result


def consistent(shards: Sequence[Mapping[str, Column]], wheres: Sequence[str]) -> None:
    """Raise unless all shards hold the same arrays of the same type and sample shape.

    Raises:
        DataError: One differs from the first.
    """
    first = {name: _sample(column) for name, column in shards[0].items()}
    for shard, where in zip(shards, wheres, strict=True):
        for name in sorted(first.keys() | shard.keys()):
            found = _sample(shard[name]) if name in shard else "no array"
            if found != first.get(name, "no array"):
                raise DataError(
                    f"holds {found}, {wheres[0]} holds {first.get(name, 'no array')}",
                    where=f"{where}: array '{name}'",
                    remedy="Make all shards alike",
                )


def _names(columns: Iterable[str], wanted: Sequence[str], where: str) -> None:
    given = list(columns)
    for name in wanted:
        if name not in given:
            raise DataError(
                f"has no array '{name}' for that input of the model; it holds "
                f"{', '.join(given) or 'nothing'}",
                where=where,
                remedy=f"Name the arrays: {', '.join(wanted)}",
            )
    for name in given:
        if name not in wanted and name != LABELS:
            meant = LABELS not in given and difflib.get_close_matches(
                name, [LABELS], cutoff=0.5
            )
            raise DataError(
                f"array '{name}' is no input of the model",
                where=where,
                remedy=f"Did you mean {LABELS}?"
                if meant
                else f"Leave it out; the inputs are {', '.join(wanted) or 'none'}",
            )


def _fitting(
    column: Column, spec: InputSpec, sample: tuple[int | None, ...], where: str
) -> Column:
    where = f"{where}: array '{spec.name}'"
    same_bytes = column.dtype.itemsize == spec.dtype.itemsize
    if column.dtype.kind == "V" and spec.dtype.kind == "V" and same_bytes:
        column = viewed(column, spec.dtype)
    if column.dtype != spec.dtype:
        raise DataError(
            f"is {column.dtype.name}, the model wants {spec.dtype.name}",
            where=where,
            remedy=f"Convert it with .astype({_constructor(spec.dtype)})",
        )
    wanted = (None, *sample)
    fits = len(column.shape) == len(wanted) and all(
        want in {None, got} for want, got in zip(wanted, column.shape, strict=True)
    )
    if not fits:
        raise DataError(
            f"has shape {list(column.shape)}, the model wants {_wanted(wanted)}",
            where=where,
            remedy="The first axis counts samples, the others are those of the input",
        )
    return column


def _counts(columns: Mapping[str, Column], where: str) -> None:
    counts = {name: column.shape[0] if column.shape else 0 for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(
            f"the arrays hold different numbers of samples: {listed}",
            where=where,
            remedy="Give every array one entry per sample",
        )
    if 0 in counts.values():
        raise DataError("holds no samples", where=where, remedy="Give at least one")


def _finite(column: Column, where: str) -> None:
    if column.dtype.kind in "fcV" and not isinstance(column, ImageColumn):
        sample = _first(column, lambda values: ~np.isfinite(values))
        if sample is not None:
            raise DataError(
                f"sample {sample} contains NaN or infinity",
                where=where,
                remedy="Remove or repair it",
            )


def _labels(column: Column, classes: int | None, where: str) -> None:
    if column.dtype.kind not in "iu":
        _targets(column, classes, where)
        return
    if len(column.shape) == 2 and column.shape[1] == 1:
        raise DataError(
            f"has shape {list(column.shape)}, one class id per sample has [{column.shape[0]}]",
            where=where,
            remedy="Flatten it with .reshape(-1)",
        )
    ignored = IGNORED if len(column.shape) > 1 else 0
    sample = _first(column, lambda values: (values < 0) & (values != ignored))
    if sample is not None:
        raise DataError(
            f"sample {sample} has a negative class",
            where=where,
            remedy="Class ids count from 0; leave unlabelled samples out"
            if len(column.shape) == 1
            else f"Class ids count from 0; {IGNORED} stands where there is none",
        )
    if classes is None:
        return
    sample = _first(column, lambda values: values >= classes)
    if sample is not None:
        label = int(column.read(np.array([sample])).max())
        raise DataError(
            f"sample {sample} has class {label}, the model has classes 0 to {classes - 1}",
            where=where,
            remedy="Check that the labels belong to this model",
        )


def _targets(column: Column, classes: int | None, where: str) -> None:
    """Labels that are no integers: fine as targets of a regression, not as class ids."""
    if classes is None and column.dtype.kind == "f":
        _finite(column, where)
        return
    one_hot = len(column.shape) == 2 and column.shape[1] == classes
    raise DataError(
        f"is {column.dtype.name}, class ids are integers",
        where=where,
        remedy="Convert it with .argmax(axis=1)"
        if one_hot
        else "Convert it with .astype(np.int64), or use --metric psnr for targets",
    )


def _first(column: Column, wrong: Callable[[Array], Array]) -> int | None:
    """The first sample in which any value is wrong."""
    for start, values in chunks(column):
        if (found := np.asarray(wrong(values))).any():
            return start + int(np.flatnonzero(found.reshape(len(found), -1).any(axis=1))[0])
    return None


def _sample(column: Column) -> str:
    return f"{column.dtype.name} samples of shape {list(column.shape[1:])}"


def _wanted(shape: Sequence[int | None]) -> str:
    sizes = ["any" if size is None else str(size) for size in shape[1:]]
    return f"[{', '.join(['samples', *sizes])}]"


def _constructor(dtype: np.dtype[Any]) -> str:
    return f"ml_dtypes.{dtype.name}" if dtype.kind == "V" else f"np.{dtype.name}"

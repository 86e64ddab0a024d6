"""The user's data as samples that can be read by row, checked against the model's inputs.

Data are an ``.npz`` file, a folder of such shards or of images, a ``module.py:function`` that
yields feeds, or, in Python, arrays and iterables of feeds.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.calibration import checks, functions
from gpusq_compiler.calibration.archive import ArchiveReader
from gpusq_compiler.calibration.columns import Column, MemoryColumn
from gpusq_compiler.calibration.feeds import spooled
from gpusq_compiler.calibration.images import Images, columns_of, is_image
from gpusq_compiler.calibration.stored import StoredSamples, Subset
from gpusq_compiler.errors import DataError, FileError
from gpusq_compiler.runtime.events import Events, Silent
from gpusq_compiler.runtime.session import without_batch

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Samples
    from gpusq_compiler.runtime.session import InputSpec

MIN_TRAINING_SAMPLES = 10
"""Fewer cannot be split into a training and a held-out part that mean anything."""


def load(
    spec: str,
    inputs: Sequence[InputSpec],
    *,
    workdir: Path,
    classes: int | None = None,
    images: Images | None = None,
    events: Events | None = None,
) -> Samples:
    """Open what ``--data`` or ``--eval-data`` names.

    Args:
        spec: ``.npz`` file, folder of such files or of images, or ``module.py:function``.
        inputs: What the model wants.
        workdir: Where data are unpacked that cannot be mapped in place.
        classes: Number of classes when labels must be class ids; None allows any labels.
        images: How images are read.
        events: Told what was assumed of images.

    Raises:
        FileError: Something cannot be read or written.
        DataError: The data do not fit the model.
        MissingRuntime: There are images, and Pillow is not installed.
    """
    with _scratch(workdir, spec) as folder:
        function = functions.split_spec(spec)
        if function is not None:
            called = _called(*function, folder, spec)
            return _samples([called], [spec], inputs, classes, folder)
        path = Path(spec)
        files = _files(path)
        if not files:
            note = (events or Silent()).note
            columns = columns_of(path, inputs, images or Images(), classes=classes, note=note)
            if columns is None:
                raise _nothing_in(path)
            return _samples([columns], [spec], inputs, classes, None)
        reader = ArchiveReader(folder)
        shards = [reader.read(file) for file in files]
        return _samples(shards, [str(file) for file in files], inputs, classes, folder)


def from_arrays(
    data: object,
    inputs: Sequence[InputSpec],
    *,
    workdir: Path,
    classes: int | None = None,
    where: str = "data",
) -> Samples:
    """Samples from Python objects.

    Args:
        data: A mapping of arrays, an iterable of feeds, or a function that gives one.
        inputs: What the model wants.
        workdir: Where an iterable's feeds are kept.
        classes: As for `load`.
        where: What errors call the data.

    Raises:
        FileError: Feeds cannot be kept in ``workdir``.
        DataError: The data do not fit the model.
    """
    if isinstance(data, Mapping):
        with functions.user_code(where):
            arrays = {str(name): np.asarray(values) for name, values in data.items()}
        columns: dict[str, Column] = {k: MemoryColumn(v) for k, v in arrays.items()}
        return _samples([columns], [where], inputs, classes, None)
    if callable(data):
        with functions.user_code(where):
            data = data()
    with _scratch(workdir, where) as folder:
        columns = spooled(data, folder, where)
        return _samples([columns], [where], inputs, classes, folder)


def data_in(folder: Path) -> list[Path]:
    """What of a folder is read: its archives, or its images and folders, in order of names."""
    archives = sorted(folder.glob("*.npz"))
    return archives or sorted(
        path
        for path in folder.iterdir()
        if is_image(path) or (path.is_dir() and not path.name.startswith("."))
    )


def split(samples: Samples, seed: int) -> tuple[Subset, Subset]:
    """Training and held-out part: a seeded tenth is held out, at least one sample.

    Raises:
        DataError: There are not two samples.
    """
    require(samples, 2, "a training and a held-out part")
    order = np.random.default_rng([seed, *b"held-out"]).permutation(samples.count)
    held = max(1, samples.count // 10)
    return Subset(samples, np.sort(order[held:])), Subset(samples, np.sort(order[:held]))


def require(samples: Samples, minimum: int, purpose: str) -> None:
    """Raise unless there are enough samples.

    Raises:
        DataError: There are fewer than ``minimum``.
    """
    if samples.count < minimum:
        raise DataError(
            f"{purpose} needs at least {minimum} samples, there are {samples.count}",
            where="--data",
            remedy="Give more samples",
        )


def _samples(
    shards: Sequence[Mapping[str, Column]],
    wheres: Sequence[str],
    inputs: Sequence[InputSpec],
    classes: int | None,
    folder: Path | None,
) -> StoredSamples:
    """Checked samples; what was unpacked to ``folder`` lives as long as they do."""
    sound = [
        checks.checked(shard, inputs, classes=classes, where=where)
        for shard, where in zip(shards, wheres, strict=True)
    ]
    checks.consistent(sound, wheres)
    samples = StoredSamples(sound, without_batch(inputs))
    if folder is not None:
        weakref.finalize(samples, shutil.rmtree, folder, ignore_errors=True)
    return samples


def _called(file: Path, name: str, folder: Path, where: str) -> dict[str, Column]:
    function = functions.load_function(file, name)
    with functions.neighbours(file):
        with functions.user_code(where):
            feeds = function()
        return spooled(feeds, folder, where)


@contextlib.contextmanager
def _scratch(workdir: Path, where: str) -> Iterator[Path]:
    """A folder of its own, made when first written to, gone again after an error."""
    folder = workdir / f"data-{uuid.uuid4().hex[:12]}"
    try:
        yield folder
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise FileError(
            f"cannot be read or written: {error.strerror or type(error).__name__}",
            where=str(error.filename or where),
            remedy="Check the path, its permissions and the free space",
        ) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _files(path: Path) -> list[Path]:
    """The archives that a path names; none where it is a folder without any."""
    if not path.exists():
        raise FileError(
            "there is no such file or folder",
            where=str(path),
            remedy="Give an .npz file, a folder of them or of images, or module.py:function",
        )
    if path.is_file():
        return [path]
    return sorted(path.glob("*.npz"))


def _nothing_in(folder: Path) -> DataError:
    return DataError(
        "holds no .npz files and no images",
        where=str(folder),
        remedy="Write some with np.savez",
    )

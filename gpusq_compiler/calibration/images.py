"""Folders of images as samples: decoded row by row, when a batch asks for them.

    file ─▶ RGB or gray ─▶ resize, crop ─▶ x * scale ─▶ (x - mean) / std ─▶ layout

A folder holds images, without labels, or one sub-folder per class: the sub-folders, sorted by
name, count from 0. Pillow decodes; it is the extra ``images``.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from gpusq_compiler.calibration.columns import MemoryColumn
from gpusq_compiler.calibration.pictures import ImageColumn
from gpusq_compiler.calibration.recording import recording
from gpusq_compiler.errors import DataError, OptionError
from gpusq_compiler.runtime.samples import LABELS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gpusq_compiler.calibration.columns import Column
    from gpusq_compiler.calibration.pictures import Recording
    from gpusq_compiler.runtime.session import InputSpec

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"})

Layout = Literal["nchw", "nhwc"]
Channels = Literal["rgb", "bgr", "gray"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """The table ``[data.images]`` of a recipe: how image files become an input."""

    size: Annotated[tuple[int, ...], "side, or height and width; the model's own"] = ()
    mean: Annotated[tuple[float, ...], "taken off, after scale; one or one per channel"] = ()
    std: Annotated[tuple[float, ...], "divided by, after scale; one or one per channel"] = ()
    scale: Annotated[float | None, "bytes times this; 1/255, integer inputs 1"] = None
    layout: Annotated[Layout | None, "order of the axes; from the shape"] = None
    channels: Annotated[Channels | None, "from the number of channels"] = None
    resize: Annotated[Literal["crop", "squash"], "keep the proportions, or not"] = "crop"
    interpolation: Annotated[
        Literal["nearest", "box", "bilinear", "bicubic", "lanczos"], "when resizing"
    ] = "bilinear"

    def __post_init__(self) -> None:
        """Refuse values that no image can have."""
        counts = {0, 1, 3}
        scale = () if self.scale is None else (self.scale,)
        for name, values, sound, remedy in (
            ("size", self.size, len(self.size) <= 2 and _positive(self.size), "224"),
            ("mean", self.mean, len(self.mean) in counts, "one number, or one per channel"),
            ("std", self.std, len(self.std) in counts, "one number, or one per channel"),
            ("std", self.std, _positive(self.std), "numbers above 0"),
            ("scale", scale, _positive(scale), "a number above 0; the default is 1/255"),
        ):
            if not (sound and np.isfinite(values).all()):
                raise OptionError(
                    f"{list(values)} does not fit",
                    where=f"data.images.{name}",
                    remedy=f"Give {remedy}",
                )


def columns_of(
    folder: Path,
    inputs: Sequence[InputSpec],
    images: Images,
    *,
    classes: int | None,
    note: Callable[[str], None],
) -> dict[str, Column] | None:
    """The columns of a folder of images; None where it holds none.

    Args:
        folder: What ``--data`` names.
        inputs: What the model wants: one input, of rank 4.
        images: How they are read.
        classes: Number of classes when labels must be class ids.
        note: Is told what was assumed.

    Raises:
        DataError: Images and model, or images and labels, do not fit together.
        MissingRuntime: Pillow is not installed.
    """
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    files = [path for path in entries if is_image(path)]
    folders = [path for path in entries if path.is_dir()]
    inside = [sorted(filter(is_image, place.rglob("*"))) for place in folders]
    if not files and not any(inside):
        return None
    if files and any(inside):
        raise DataError(
            "holds images both directly and in sub-folders",
            where=str(folder),
            remedy="Put all into one sub-folder per class, or all beside each other",
        )
    spec = _only_input(inputs, folder)
    form = recording(images, spec, f"{folder}: input '{spec.name}'")
    column = ImageColumn(files=tuple(files or itertools.chain(*inside)), form=form)
    column.require_readable()
    if not (images.mean and images.std):
        note(_assumed(images, form))
    if files:
        return {spec.name: column}
    _require_classes(folders, classes, folder)
    if (names := [place.name for place in folders]) != sorted(names, key=_number):
        note(f"{folder}: classes count in the order of their names as text: 10 before 2")
    labels = np.repeat(np.arange(len(folders)), [len(place) for place in inside])
    return {spec.name: column, LABELS: MemoryColumn(labels.astype(np.int64))}


def _only_input(inputs: Sequence[InputSpec], folder: Path) -> InputSpec:
    shapes = ", ".join(f"'{spec.name}' of rank {len(spec.shape)}" for spec in inputs)
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise DataError(
            f"images feed a model with one input of rank 4, this one has {shapes or 'none'}",
            where=str(folder),
            remedy="Give arrays (.npz) or module.py:function",
        )
    return inputs[0]


def _require_classes(folders: Sequence[Path], classes: int | None, folder: Path) -> None:
    if classes is not None and len(folders) != classes:
        raise DataError(
            f"has {len(folders)} sub-folders, the model has {classes} classes",
            where=str(folder),
            remedy="Make one per class, empty ones count; or put the images beside each other",
        )


def _assumed(images: Images, form: Recording) -> str:
    missing = [f"{k} {v}" for k, v in (("mean", 0), ("std", 1)) if not getattr(images, k)]
    return (
        f"images: {form.height} x {form.width}, {form.channels}, bytes times "
        f"{form.scale:.6g}; assumed for want of [data.images]: {', '.join(missing)}"
    )


def _positive(values: Sequence[float]) -> bool:
    return all(value > 0 for value in values)


def is_image(path: Path) -> bool:
    """Whether this is a file that a folder of images is read for."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _number(name: str) -> tuple[bool, int | str]:
    return (False, int(name)) if name.isdecimal() else (True, name)

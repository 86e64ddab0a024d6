"""How images become one input: the options of the recipe, settled by shape and type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.calibration.pictures import Recording
from gpusq_compiler.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from gpusq_compiler.calibration.images import Channels, Images, Layout
    from gpusq_compiler.runtime.session import InputSpec

BYTE = 1 / 255

_ARRAYS = "Give arrays (.npz) or module.py:function"


def recording(images: Images, spec: InputSpec, where: str) -> Recording:
    """The options, settled for one input of a model.

    Raises:
        DataError: They do not fit its shape or type.
    """
    layout = images.layout or _layout(spec.shape, where)
    order = (1, 2, 3) if layout == "nchw" else (3, 1, 2)
    depth, *sides = (spec.shape[axis] for axis in order)
    channels = images.channels or _channels(depth, where)
    _require_depth(depth, channels, images, where)
    _require_bytes(spec.dtype, images, where)
    height, width = _sides(sides, images, where)
    return Recording(
        height=height,
        width=width,
        channels=channels,
        channels_first=layout == "nchw",
        squash=images.resize == "squash",
        interpolation=images.interpolation,
        scale=images.scale or (1.0 if spec.dtype.kind in "iu" else BYTE),
        mean=images.mean or (0.0,),
        std=images.std or (1.0,),
        dtype=spec.dtype,
    )


def _layout(shape: tuple[int | None, ...], where: str) -> Layout:
    if shape[1] in {1, 3} or (shape[1] is None and shape[3] not in {1, 3}):
        return "nchw"
    if shape[3] in {1, 3}:
        return "nhwc"
    raise _too_deep(shape[1], where)


def _channels(depth: int | None, where: str) -> Channels:
    if depth not in {None, 1, 3}:
        raise _too_deep(depth, where)
    return "gray" if depth == 1 else "rgb"


def _too_deep(depth: int | None, where: str) -> DataError:
    return DataError(f"has {depth} channels, images have 1 or 3", where=where, remedy=_ARRAYS)


def _require_depth(depth: int | None, channels: Channels, images: Images, where: str) -> None:
    wanted = 1 if channels == "gray" else 3
    if depth not in {None, wanted}:
        raise DataError(
            f"has {depth} channels, {channels} images have {wanted}",
            where=where,
            remedy="Correct [data.images] layout or channels",
        )
    if wanted == 1 and 3 in {len(images.mean), len(images.std)}:
        raise DataError(
            "is gray, mean or std have 3 numbers", where=where, remedy="Give one number"
        )


def _require_bytes(dtype: np.dtype[np.generic], images: Images, where: str) -> None:
    if dtype.kind == "b" or dtype.name == "int8":
        raise DataError(
            f"is {dtype.name}, which cannot hold the bytes of an image",
            where=where,
            remedy=_ARRAYS,
        )
    if dtype.kind in "iu" and (images.mean or images.std or images.scale not in {None, 1.0}):
        raise DataError(
            f"is {dtype.name}: it takes the bytes of an image as they are",
            where=where,
            remedy="Leave out scale, mean and std",
        )


def _sides(own: list[int | None], images: Images, where: str) -> tuple[int, int]:
    """Height and width: the model's where it fixes them, and none that contradict it."""
    asked = list(images.size * 2 if len(images.size) == 1 else images.size) or own
    found = [fixed or side for fixed, side in zip(own, asked, strict=True)]
    if found != asked or found[0] is None or found[1] is None:
        shown = " x ".join("any" if side is None else str(side) for side in own)
        given = f", [data.images] gives {list(images.size)}" if images.size else ""
        raise DataError(
            f"wants images of {shown}{given}",
            where=where,
            remedy="Give the size, for example: --set data.images.size=224",
        )
    return found[0], found[1]

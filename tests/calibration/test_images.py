from __future__ import annotations

import builtins
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gpusq_compiler.calibration.batches import load
from gpusq_compiler.calibration.images import Images
from gpusq_compiler.calibration.pictures import ImageColumn
from gpusq_compiler.errors import DataError, GpusqError, MissingRuntime, OptionError
from gpusq_compiler.runtime.session import InputSpec
from tests.calibration.test_collect import Record

if TYPE_CHECKING:
    from pathlib import Path

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]
EPSILON = 4e-7
"""Three float32 operations on values of about 1."""


def spec(shape: Shape, dtype: Any = np.float32) -> tuple[InputSpec, ...]:
    return (InputSpec(name="x", dtype=np.dtype(dtype), shape=shape),)


def pixels(high: int = 6, wide: int = 8, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (high, wide, 3), dtype=np.uint8)


def written(path: Path, image: Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def one(folder: Path, shape: Shape, images: Images | None = None, **more: Any) -> Array:
    dtype = more.pop("dtype", np.float32)
    samples = load(str(folder), spec(shape, dtype), workdir=folder / "w", images=images)
    found: Array = samples.take(np.array([0]))["x"][0]
    assert found.dtype == dtype
    return found


def refused(kind: type[GpusqError], folder: Path, shape: Shape, **more: Any) -> str:
    images, dtype = more.pop("images", None), more.pop("dtype", np.float32)
    with pytest.raises(kind) as caught:
        load(str(folder), spec(shape, dtype), workdir=folder / "w", images=images, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "PNG"])
def test_an_image_of_the_right_size_is_its_bytes_over_255(tmp_path: Path, suffix: str) -> None:
    raw = pixels()
    written(tmp_path / f"a.{suffix}", raw)
    found = one(tmp_path, (None, 3, 6, 8))
    for row, column, channel in np.ndindex(6, 8, 3):
        wanted = raw[row, column, channel] / 255
        assert abs(found[channel, row, column] - wanted) <= EPSILON


@pytest.mark.parametrize(("suffix", "quality"), [("jpg", 95), ("jpeg", 95), ("webp", 95)])
def test_lossy_formats_come_close(tmp_path: Path, suffix: str, quality: int) -> None:
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a.{suffix}", quality=quality)
    found = one(tmp_path, (None, 3, 16, 16))
    np.testing.assert_allclose(found, smooth.transpose(2, 0, 1) / 255, atol=6 / 255)


def test_mean_and_std_apply_after_scale_per_channel(tmp_path: Path) -> None:
    raw = pixels()
    written(tmp_path / "a.png", raw)
    images = Images(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    found = one(tmp_path, (None, 6, 8, 3), images)
    wanted = (raw / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.3, 0.1])
    np.testing.assert_allclose(found, wanted, atol=20 * EPSILON)
    bytes_ = one(tmp_path, (None, 6, 8, 3), Images(scale=1.0, mean=(128.0,), std=(2.0,)))
    np.testing.assert_array_equal(bytes_, (raw.astype(np.float32) - 128) / 2)


def test_channels_of_bgr_are_reversed_and_those_of_gray_are_one(tmp_path: Path) -> None:
    raw = pixels()
    written(tmp_path / "a.png", raw)
    rgb = one(tmp_path, (None, 3, 6, 8))
    bgr = one(tmp_path, (None, 3, 6, 8), Images(channels="bgr"))
    np.testing.assert_array_equal(bgr, rgb[::-1])
    gray = one(tmp_path, (None, 1, 6, 8))
    luma = raw @ np.array([0.299, 0.587, 0.114])  # ITU-R 601, rounded to a byte
    np.testing.assert_allclose(gray[0] * 255, luma, atol=1)


def test_mean_of_bgr_is_in_the_order_of_the_input(tmp_path: Path) -> None:
    written(tmp_path / "a.png", np.full((2, 2, 3), (255, 0, 51), np.uint8))
    found = one(tmp_path, (None, 3, 2, 2), Images(channels="bgr", mean=(0.2, 0.0, 1.0)))
    np.testing.assert_allclose(found, 0, atol=EPSILON)


@pytest.mark.parametrize(
    ("shape", "layout", "wanted"),
    [
        ((None, 3, 6, 8), None, (3, 6, 8)),
        ((None, 6, 8, 3), None, (6, 8, 3)),
        ((1, None, 6, 8), None, (3, 6, 8)),
        ((None, 3, 6, 3), None, (3, 6, 3)),
        ((None, 3, 6, 3), "nhwc", (3, 6, 3)),
        ((None, None, None, 1), None, (6, 8, 1)),
        ((None, None, None, None), "nhwc", (6, 8, 3)),
    ],
)
def test_layout_follows_the_shape_or_the_recipe(
    tmp_path: Path, shape: Shape, layout: Any, wanted: tuple[int, ...]
) -> None:
    written(tmp_path / "a.png", pixels())
    free = shape.count(None) > 2
    images = Images(layout=layout, size=(6, 8) if free else ())
    assert one(tmp_path, shape, images).shape == wanted


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_integer_inputs_get_the_bytes(tmp_path: Path, dtype: type) -> None:
    raw = pixels()
    written(tmp_path / "a.png", raw)
    np.testing.assert_array_equal(one(tmp_path, (None, 6, 8, 3), dtype=dtype), raw)


def test_half_precision(tmp_path: Path) -> None:
    raw = pixels()
    written(tmp_path / "a.png", raw)
    found = one(tmp_path, (None, 6, 8, 3), dtype=np.float16)
    np.testing.assert_array_equal(found, (raw * np.float32(1 / 255)).astype(np.float16))


# --- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("high", "wide"), [(8, 16), (16, 8), (8, 18), (12, 12)])
def test_crop_fits_the_shorter_side_and_keeps_the_middle(
    tmp_path: Path, high: int, wide: int
) -> None:
    raw = pixels(high, wide)
    written(tmp_path / "a.png", raw)
    found = one(tmp_path, (None, 4, 4, 3), Images(interpolation="nearest", scale=1.0))
    ratio = min(high, wide) // 4
    top, left = (round((side // ratio - 4) / 2) for side in (high, wide))
    for row, column in np.ndindex(4, 4):
        # The nearest pixel to the middle of a square of ratio x ratio.
        y, x = (ratio * (place + 0.5) for place in (top + row, left + column))
        assert tuple(found[row, column]) == tuple(raw[int(y), int(x)])


def test_crop_to_a_rectangle_covers_it(tmp_path: Path) -> None:
    for name, (high, wide) in {"a": (10, 40), "b": (40, 10), "c": (4, 6), "d": (3, 1)}.items():
        written(tmp_path / f"{name}.png", np.full((high, wide, 3), 255, np.uint8))
    samples = load(str(tmp_path), spec((None, 3, 4, 6)), workdir=tmp_path / "w")
    values = samples.take(np.arange(4))["x"]
    assert values.shape == (4, 3, 4, 6)
    assert values.min() == 1, "no border of zeros is ever cropped in"


def test_squash_keeps_everything(tmp_path: Path) -> None:
    raw = np.zeros((8, 16, 3), np.uint8)
    raw[:, 8:] = 255
    written(tmp_path / "a.png", raw)
    found = one(tmp_path, (None, 3, 4, 4), Images(resize="squash", interpolation="box"))
    np.testing.assert_allclose(found[0], [[0, 0, 1, 1]] * 4, atol=EPSILON)


@pytest.mark.parametrize(
    ("size", "wanted"), [((5,), (5, 5)), ((5, 7), (5, 7)), ((), (None, None))]
)
def test_size_of_a_model_that_leaves_it_free(
    tmp_path: Path, size: tuple[int, ...], wanted: Shape
) -> None:
    written(tmp_path / "a.png", pixels())
    if size:
        assert one(tmp_path, (None, 3, None, None), Images(size=size)).shape == (3, *wanted)
    else:
        line = refused(DataError, tmp_path, (None, 3, None, None))
        assert "wants images of any x any" in line
        assert "--set data.images.size=224" in line


def test_transparency_palettes_and_gray_files_become_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(pixels())
    image.convert("RGBA").save(tmp_path / "a.png")
    image.convert("P").save(tmp_path / "b.png")
    image.convert("L").save(tmp_path / "c.png")
    image.convert("1").save(tmp_path / "d.png")
    samples = load(str(tmp_path), spec((None, 3, 6, 8)), workdir=tmp_path / "w")
    values = samples.take(np.arange(4))["x"]
    np.testing.assert_allclose(values[0] * 255, pixels().transpose(2, 0, 1), atol=1e-4)
    assert (values[2:, 0] == values[2:, 1]).all()
    assert set(np.unique(values[3])) == {0, 1}


# --- folders ---------------------------------------------------------------------------------


def test_sub_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    for place, name in enumerate(("cat/2.png", "cat/deep/1.png", "ant/x.png", "Zoo/y.png")):
        written(tmp_path / name, np.full((4, 4, 3), 10 * place, np.uint8))
    (tmp_path / "bee").mkdir()
    written(tmp_path / ".hidden" / "z.png", pixels())
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    samples = load(
        str(tmp_path), spec((None, 4, 4, 3), np.uint8), workdir=tmp_path / "w", classes=4
    )
    feeds = samples.take(np.arange(samples.count))
    assert samples.has_labels
    assert feeds["labels"].dtype == np.int64
    assert feeds["labels"].tolist() == [0, 1, 3, 3]  # Zoo, ant, (bee), cat: capitals first
    assert feeds["x"][:, 0, 0, 0].tolist() == [30, 20, 0, 10]


def test_images_beside_each_other_have_no_labels(tmp_path: Path) -> None:
    for name in ("b", "a"):
        written(tmp_path / f"{name}.png", np.full((4, 4, 3), ord(name), np.uint8))
    (tmp_path / "empty").mkdir()
    samples = load(str(tmp_path), spec((None, 4, 4, 3), np.uint8), workdir=tmp_path / "w")
    assert not samples.has_labels
    assert samples.take(np.array([1, 0, 1]))["x"][:, 0, 0, 0].tolist() == [98, 97, 98]


def test_shards_win_over_images(tmp_path: Path) -> None:
    written(tmp_path / "a.png", pixels())
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 3, 6, 8), np.float32))
    assert load(str(tmp_path), spec((None, 3, 6, 8)), workdir=tmp_path / "w").count == 5


def test_nothing_is_decoded_before_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(6):
        written(tmp_path / f"{index}.png", pixels(seed=index))
    decoded: list[str] = []
    original = ImageColumn._decoded

    def watched(column: ImageColumn, file: Path) -> Array:
        decoded.append(file.name)
        return original(column, file)

    monkeypatch.setattr(ImageColumn, "_decoded", watched)
    samples = load(str(tmp_path), spec((None, 3, 6, 8)), workdir=tmp_path / "w")
    assert samples.count == 6
    assert decoded == []
    samples.take(np.array([4, 1]))
    assert decoded == ["4.png", "1.png"]
    assert not (tmp_path / "w").exists()


def test_what_was_assumed_is_said_once(tmp_path: Path) -> None:
    for name in ("10", "9"):
        written(tmp_path / name / "a.png", pixels())
    events = Record()
    inputs, workdir = spec((None, 3, 6, 8)), tmp_path / "w"
    load(str(tmp_path), inputs, workdir=workdir, events=events)
    assumed = "bytes times 0.00392157; assumed for want of [data.images]: mean 0, std 1"
    assert events.lines == [
        f"images: 6 x 8, rgb, {assumed}",
        f"{tmp_path}: classes count in the order of their names as text: 10 before 2",
    ]
    events = Record()
    told = Images(mean=(0.0,), std=(1.0,))
    load(str(tmp_path / "9"), inputs, workdir=workdir, events=events, images=told)
    assert events.lines == []


# --- refusals --------------------------------------------------------------------------------


def damaged(content: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(64, 64)).save(file, "png" if "png" in content else "jpeg")
    whole = file.getvalue()
    return {
        "empty": b"",
        "text": b"hello, I am no image",
        "half a png": whole[: len(whole) // 2],
        "half a jpeg": whole[: len(whole) // 2],
    }[content]


@pytest.mark.parametrize("content", ["empty", "text", "half a png", "half a jpeg"])
def test_a_damaged_image_is_named(tmp_path: Path, content: str) -> None:
    written(tmp_path / "a.png", pixels())
    (tmp_path / "broken.png").write_bytes(damaged(content))
    with pytest.raises(
        DataError, match=r"broken\.png: cannot be read as an image: "
    ) as caught:
        load(str(tmp_path), spec((None, 3, 6, 8)), workdir=tmp_path / "w").take(np.arange(2))
    assert "\n" not in str(caught.value)
    if content in {"empty", "text"}:
        assert "identify" in refused(DataError, tmp_path, (None, 3, 6, 8))


def test_a_flipped_bit_never_escapes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", pixels(16, 16))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refusals = 0
    for position in rng.integers(0, len(whole), 150):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            assert one(tmp_path, (None, 3, 6, 8)).shape == (3, 6, 8)
        except DataError:
            refusals += 1
    assert refusals > 75


def test_an_image_that_vanishes_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", pixels())
    samples = load(str(tmp_path), spec((None, 3, 6, 8)), workdir=tmp_path / "w")
    path.unlink()
    with pytest.raises(DataError, match=r"a\.png: .*: No such file"):
        samples.take(np.array([0]))


def test_deep_images_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
    assert "more than 8 bits per channel" in refused(DataError, tmp_path, (None, 1, 6, 8))


@pytest.mark.parametrize(
    ("shape", "more", "sentence"),
    [
        ((None, 3, 6), {}, r"one input of rank 4, this one has 'x' of rank 3.*\.npz"),
        ((None, 4, 6, 8), {}, "has 4 channels, images have 1 or 3"),
        ((None, None, 6, 5), {"images": Images(layout="nhwc")}, "has 5 channels"),
        (
            (None, 3, 6, 8),
            {"images": Images(channels="gray")},
            "3 channels, gray images have 1",
        ),
        ((None, 1, 6, 8), {"images": Images(mean=(0.1, 0.2, 0.3))}, "is gray, mean or std"),
        (
            (None, 3, 6, 8),
            {"images": Images(size=(224,))},
            r"wants images of 6 x 8, \[data.images\] gives \[224\]",
        ),
        ((None, 3, 6, 8), {"dtype": np.int8}, "is int8, which cannot hold the bytes"),
        ((None, 3, 6, 8), {"dtype": np.bool_}, "is bool, which cannot hold the bytes"),
        (
            (None, 3, 6, 8),
            {"dtype": np.uint8, "images": Images(mean=(0.5,))},
            "is uint8: it takes the bytes of an image as they are",
        ),
    ],
)
def test_images_that_cannot_fit_the_model(
    tmp_path: Path, shape: Shape, more: dict[str, Any], sentence: str
) -> None:
    written(tmp_path / "a.png", pixels())
    line = refused(DataError, tmp_path, shape, **more)
    assert re.search(sentence, line), line
    assert str(tmp_path) in line


def test_several_inputs_need_arrays(tmp_path: Path) -> None:
    written(tmp_path / "a.png", pixels())
    inputs = (*spec((None, 3, 6, 8)), InputSpec(name="s", dtype=np.dtype("f4"), shape=()))
    with pytest.raises(DataError, match="'x' of rank 4, 's' of rank 0"):
        load(str(tmp_path), inputs, workdir=tmp_path / "w")


def test_folders_that_are_not_one_per_class(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / name / "0.png", pixels())
    line = refused(DataError, tmp_path, (None, 3, 6, 8), classes=10)
    assert "has 2 sub-folders, the model has 10 classes" in line
    written(tmp_path / "c.png", pixels())
    line = refused(DataError, tmp_path, (None, 3, 6, 8))
    assert "both directly and in sub-folders" in line


def test_neither_shards_nor_images(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "notes.txt").write_text("nothing")
    assert "holds no .npz files and no images" in refused(DataError, tmp_path, (None, 3, 6, 8))


def test_pillow_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.png", pixels())
    original = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    line = refused(MissingRuntime, tmp_path, (None, 3, 6, 8))
    assert "gpusq-compiler[images]" in line


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": (0,)}, r"data.images.size: \[0\] does not fit. Give 224"),
        ({"size": (1, 2, 3)}, "size"),
        ({"mean": (0.1, 0.2)}, "mean"),
        ({"std": (0.1, 0.2)}, "std"),
        ({"std": (0.1, 0.0, 0.2)}, "std.*above 0"),
        ({"std": (-1.0,)}, "std.*above 0"),
        ({"scale": 0.0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"mean": (float("inf"),)}, "mean"),
    ],
)
def test_options_that_no_image_can_have(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        Images(**options)

"""The super-resolution model beats interpolation on tiles that it never saw."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

MODELS = Path(__file__).parents[2] / "models"
COUNTS = {"train": 364, "test": 156}


def tiles(part: str) -> dict[str, Any]:
    with np.load(MODELS / "sr_photos" / f"{part}.npz", allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def enlarged(x: Any) -> Any:
    session = onnxruntime.InferenceSession(MODELS / "sr_photos.onnx")
    return session.run(["y"], {"x": x})[0]


def psnr(y: Any, target: Any) -> float:
    return float(-10 * np.log10(np.mean((y - target) ** 2)))


@pytest.mark.parametrize("part", COUNTS)
def test_tiles_have_the_promised_shapes_types_and_range(part: str) -> None:
    data = tiles(part)
    assert set(data) == {"x", "labels"}
    assert data["x"].shape == (COUNTS[part], 1, 16, 16)
    assert data["labels"].shape == (COUNTS[part], 1, 32, 32)
    for grey in data.values():
        assert grey.dtype == np.float32
        np.testing.assert_allclose(grey * 255, np.round(grey * 255), atol=1e-4)
        assert 0 <= grey.min() < grey.max() <= 1


@pytest.mark.parametrize("part", COUNTS)
def test_small_tiles_are_the_large_ones_halved(part: str) -> None:
    data = tiles(part)
    large = data["labels"]
    four = [large[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    # rounded to whole grey levels
    assert np.abs(np.mean(four, axis=0) - data["x"]).max() <= 0.5 / 255 + 1e-6


def test_tiles_are_those_of_the_photographs() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    known = {}
    for index, photo in enumerate(datasets.load_sample_images().images):
        grey = np.round(photo @ [0.299, 0.587, 0.114])
        for row in range(0, grey.shape[0] - 31, 32):
            for column in range(0, grey.shape[1] - 31, 32):
                known[grey[row : row + 32, column : column + 32].tobytes()] = index, column
    places = {
        part: {known[tile.astype(np.float64).tobytes()] for tile in found}
        for part, found in ((p, np.round(tiles(p)["labels"] * 255)) for p in COUNTS)
    }
    assert {index for index, _ in places["train"]} == {0, 1}
    columns = {part: {column // 32 for _, column in found} for part, found in places.items()}
    assert columns["test"] == {4, 5, 6, 13, 14, 15}
    assert columns["train"] == set(range(20)) - columns["test"]


def test_model_is_nearer_to_the_photographs_than_interpolation() -> None:
    image = pytest.importorskip("PIL.Image")
    test = tiles("test")
    cubic = [
        np.asarray(image.fromarray(x[0]).resize((32, 32), image.Resampling.BICUBIC))
        for x in test["x"]
    ]
    interpolated = psnr(np.stack(cubic)[:, None], test["labels"])
    assert psnr(enlarged(test["x"]), test["labels"]) >= interpolated + 0.3


def test_other_sizes_are_enlarged_too() -> None:
    x = tiles("test")["x"][:1, :, :6, :10]
    assert enlarged(x).shape == (1, 1, 12, 20)


def test_graph_is_residual_and_ends_in_a_pixel_shuffle() -> None:
    graph = onnx.load(MODELS / "sr_photos.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("Add") == 8
    assert operators.count("DepthToSpace") == 1
    kernels = [t.dims[0] for t in graph.initializer if len(t.dims) == 4]
    assert sum(width % 16 == 0 for width in kernels) == len(kernels) - 1


def test_training_form_gives_the_distance_to_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(MODELS))
    architectures = importlib.import_module("architectures")
    ir = importlib.import_module("onnx_ir")
    plain, training = (
        onnxruntime.InferenceSession(
            ir.to_proto(architectures.build("sr_photos", training=form)).SerializeToString()
        )
        for form in (False, True)
    )
    test = {name: values[:4] for name, values in tiles("test").items()}
    (y,) = plain.run(None, {"x": test["x"]})
    (error,) = training.run(None, {"x": test["x"], "target": test["labels"]})
    np.testing.assert_allclose(error, np.abs(y - test["labels"]), atol=1e-6)

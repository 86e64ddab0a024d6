from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from gpusq_compiler.calibration.images import Images
from gpusq_compiler.compile import compile_model
from gpusq_compiler.errors import OptionError, RecipeError
from gpusq_compiler.ir import io
from gpusq_compiler.recipe import Overrides, plan_of

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 'seed = 3\n[[pass]]\nuse = "canonicalize"\n[[pass]]\nuse = "quantize"\n'
TABLE = """
[data.images]
size = 224
mean = [0.485, 0.456, 0.406]
std = 0.25
layout = "nchw"
channels = "bgr"
resize = "squash"
interpolation = "bicubic"
"""
WANTED = Images(
    size=(224,),
    mean=(0.485, 0.456, 0.406),
    std=(0.25,),
    layout="nchw",
    channels="bgr",
    resize="squash",
    interpolation="bicubic",
)


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(HEAD + text)
    return path


def test_the_table_is_read_and_written_again(tmp_path: Path) -> None:
    plan = plan_of(recipe=recipe(tmp_path, TABLE))
    assert plan.images == WANTED
    assert plan.seed == 3
    (tmp_path / "again.toml").write_text(plan.text())
    assert plan_of(recipe=tmp_path / "again.toml") == plan


def test_no_table_gives_the_defaults_and_none_is_written(tmp_path: Path) -> None:
    plan = plan_of(recipe=recipe(tmp_path, ""))
    assert plan.images == Images()
    assert "images" not in plan.text()


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    settings = ("data.images.size=[32, 48]", "data.images.scale=1", "data.images.channels=rgb")
    overrides = Overrides(settings=settings)
    images = plan_of(recipe=recipe(tmp_path, TABLE), overrides=overrides).images
    assert (images.size, images.scale, images.channels) == ((32, 48), 1.0, "rgb")
    assert images.mean == WANTED.mean
    assert plan_of("prune", overrides=overrides).images.size == (32, 48)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[data.images]\nsise = 3", r"data.images: there is no option 'sise'. .*size"),
        ("[data.images]\nsize = 0", r"data.images.size: \[0\] does not fit"),
        ('[data.images]\nsize = "big"', "data.images.size: 'big' does not fit"),
        ("[data.images]\nsize = 2.5", "data.images.size: '2.5' does not fit"),
        ('[data.images]\nlayout = "chw"', "layout: 'chw' does not fit. .*nchw, nhwc"),
        ("[data]\nfiles = 3", r"\[data\] holds only the table images, not files"),
        ("[data]\nimages = 3", r"\[data\] holds only the table images"),
        ("[dat.images]\nsize = 3", "there is no key 'dat'. Did you mean data"),
    ],
)
def test_a_wrong_table_is_a_recipe_error(tmp_path: Path, text: str, sentence: str) -> None:
    path = recipe(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        plan_of(recipe=path)
    assert re.search(sentence, str(caught.value)), str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "setting", ["data.images.sise=3", "data.images.size=x", "data.size=3"]
)
def test_a_wrong_setting_is_a_usage_error(setting: str) -> None:
    with pytest.raises(OptionError) as caught:
        plan_of("prune", overrides=Overrides(settings=(setting,)))
    assert not isinstance(caught.value, RecipeError)


def classifier(path: Path) -> Path:
    """Three classes: the mean of each channel."""
    model = ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["" : 17]>\n'
        "net (float[batch, 3, 4, 4] x) => (float[batch, 3] y)\n"
        "{ flat = Flatten<axis = 1>(x) y = MatMul(flat, weight) }",
        initializers=[
            ir.tensor(np.repeat(np.eye(3, dtype=np.float32), 16, axis=0), name="weight")
        ],
    )
    io.save(model, path)
    return path


def colours(folder: Path, names: str, count: int) -> Path:
    """One sub-folder per class: red, green, blue, whatever the sub-folders are called."""
    rng = np.random.default_rng(0)
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = rng.integers(0, 100, (5, 7, 3), dtype=np.uint8)
            image[..., place] += 100
            Image.fromarray(image).save(folder / name / f"{index}.png")
    return folder


def test_a_compile_reads_images_and_scores_on_others(tmp_path: Path) -> None:
    table = '[data.images]\nmean = [0.5, 0.5, 0.5]\nstd = 0.5\nchannels = "bgr"\n'
    report = compile_model(
        classifier(tmp_path / "net.onnx"),
        recipe=recipe(tmp_path, table),
        data=str(colours(tmp_path / "train", "abc", 8)),
        eval_data=colours(tmp_path / "test", "cba", 2),
        out=tmp_path / "out.onnx",
        workdir=tmp_path / "w",
    )
    assert report.quality is not None
    assert report.quality.metric == "accuracy"
    # The test folders are red, green, blue for c, b, a; bgr turns them: a=blue is class 0.
    assert report.quality.dense == 1.0
    assert report.quality.compressed == 1.0
    (tmp_path / "again.toml").write_text(
        json.loads((tmp_path / "out.json").read_text())["recipe"]
    )
    images = plan_of(recipe=tmp_path / "again.toml").images
    assert images == Images(mean=(0.5,) * 3, std=(0.5,), channels="bgr")

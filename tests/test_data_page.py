"""The examples of docs/data.md, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from gpusq_compiler.calibration.images import SUFFIXES, Images
from gpusq_compiler.compile import compile_model
from gpusq_compiler.ir import io
from gpusq_compiler.passes import options
from gpusq_compiler.recipe import plan_of

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")


def block(section: str, language: str) -> str:
    """The first block of a language in a section."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None, (section, language)
    return found[1]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten classes of images of 8 x 8, in the working folder."""
    monkeypatch.chdir(tmp_path)
    weight = np.random.default_rng(0).standard_normal((192, 10)).astype(np.float32)
    net = ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["" : 17]>\n'
        "net (float[n, 3, 8, 8] image) => (float[n, 10] y)\n"
        "{ flat = Flatten<axis = 1>(image) y = MatMul(flat, weight) }",
        initializers=[ir.tensor(weight, name="weight")],
    )
    io.save(net, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_arrays(model: Path) -> None:
    Path("write.py").write_text(block("Arrays", "python"))
    exec(compile(Path("write.py").read_text(), "write.py", "exec"), {})
    report = compile_model(model, passes="quantize", data="train.npz")
    assert (report.data.training, report.data.held_out, report.data.labels) == (18, 2, True)
    assert report.quality is not None
    assert report.quality.metric == "accuracy"


def test_functions(model: Path) -> None:
    Path("loader.py").write_text(block("Functions", "python"))
    report = compile_model(model, passes="quantize", data="loader.py:train")
    assert report.data.training + report.data.held_out == 20


def test_images_and_their_recipe(model: Path) -> None:
    tree = [line.split()[0] for line in block("Images", "text").splitlines() if line]
    assert {Path(line).parent.name for line in tree} == {"cat", "dog"}
    for index in range(10):
        for name in ("cat", "dog", *"abcdefgh"):
            place = Path("train") / name
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.full((9, 12, 3), 20 * index, np.uint8)
            Image.fromarray(pixels).save(place / f"{index}.png")
    Path("recipe.toml").write_text(block("Images", "toml"))
    report = compile_model(model, recipe="recipe.toml", data="train", eval_data="train")
    assert report.data.training + report.data.held_out == 100
    assert plan_of(recipe="recipe.toml").images.std == (0.229, 0.224, 0.225)


def test_no_data(model: Path) -> None:
    report = compile_model(model, passes="quantize")
    assert report.quality is None or not report.quality.verified


def test_every_option_and_suffix_is_named() -> None:
    section = PAGE.partition("\n## Images\n")[2].partition("\n## ")[0]
    for option in options.options_of(Images):
        assert f"`{option.name}`" in section
    for suffix in SUFFIXES:
        assert f"`{suffix}`" in section

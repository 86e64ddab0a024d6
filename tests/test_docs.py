"""What the pages show is true: their Python runs, and their links lead somewhere."""

from __future__ import annotations

import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.recipe import plan_of
from gpusq_compiler.train.loop import OrtTrainer
from tests import tiny

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(block: str) -> dict[str, Any]:
    page = types.ModuleType("page")
    sys.modules["page"] = page  # dataclasses look their module up
    exec(compile(block, "page", "exec", dont_inherit=True), vars(page))
    return vars(page)


@pytest.mark.parametrize("number", range(len(blocks("README.md"))))
def test_the_python_of_the_readme_runs(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    names = run(blocks("README.md")[number])
    if "report" in names:
        assert names["report"].quality.compressed > 0.9
        assert Path(names["report"].output.path).exists()
    else:
        assert any(
            "2:4" in str(value.metadata_props) for value in names["sparse"].graph.value_info
        )


def test_the_pass_of_the_page_runs() -> None:
    step = run(blocks("docs/writing-a-pass.md")[0])["Halve"](factor=0.25)
    model = tiny.mlp()
    before = tiny.weight(model, next(iter(model.graph.initializers)))
    after = step(Canonicalize()(model))
    name = next(iter(model.graph.initializers))
    ratio = tiny.weight(after, name) / before
    assert np.allclose(ratio, 0.25) or np.allclose(ratio, 1)


@pytest.mark.training
def test_the_loss_of_the_page_trains(context_for: Any) -> None:
    loss = run(blocks("docs/writing-a-pass.md")[1])["CosineError"]()
    model = tiny.mlp()
    step = Qat(losses=(loss,), steps=3, batch_size=4)
    ctx = context_for(model, trainer=OrtTrainer())
    report = Pipeline(passes=(Canonicalize(), Quantize(), step)).run(model, ctx)[-1]
    assert all(0 <= value < 2 for value in report.result.series["cosine-error"])


def test_the_surgery_of_the_page_runs() -> None:
    step = run(blocks("docs/writing-a-pass.md")[2])["ReluToClip"](ceiling=0.5)
    model = tiny.mlp()
    after = step(model)
    assert tiny.operators(after) == ["Gemm", "Clip", "MatMul", "Add"]
    assert tiny.weight(after, "h.top") == 0.5
    assert tiny.operators(model) == ["Gemm", "Relu", "MatMul", "Add"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_recipe_of_the_page_is_a_plan(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    found = re.search(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    recipe = tmp_path / "my.toml"
    recipe.write_text(found[1])
    steps = plan_of(recipe=recipe).pipeline.passes
    assert [step.name for step in steps] == [
        "canonicalize",
        "prune",
        "quantize",
        "qat",
        "freeze",
    ]

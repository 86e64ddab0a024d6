"""What the pages show is true: their code runs, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.recipe import plan_of
from gpusq_compiler.runtime.flavour import can_train
from gpusq_compiler.train.loop import OrtTrainer
from tests import pages, tiny

GROUPS = [(page, group) for page in pages.PAGES for group in pages.groups(page)]
MARKS = {
    "fast": (),
    "slow": (pytest.mark.slow,),
    "tensorrt-rtx": (pytest.mark.rtx,),
    "gpu": (pytest.mark.gpu, pytest.mark.tensorrt),
}


def name_of(page: Path) -> str:
    return page.relative_to(pages.ROOT).as_posix().removesuffix(".md")


def python(page: str, number: int) -> dict[str, Any]:
    """What a Python block of a page leaves behind."""
    found = [one for one in pages.blocks(pages.ROOT / page) if one.language == "python"]
    return pages.execute(found[number].text)


@pytest.mark.parametrize(
    ("page", "group"),
    [
        pytest.param(page, group, marks=MARKS[group], id=f"{name_of(page)}-{group}")
        for page, group in GROUPS
    ],
)
def test_the_blocks_of_a_page_run(
    page: Path,
    group: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if pages.missing(group):
        pytest.skip(pages.missing(group))
    pages.furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in pages.blocks(page):
        if block.language == "toml" and "use = " in block.text:
            Path("my.toml").write_text(block.text, encoding="utf-8")
        if block.belongs(group) and (can_train() or not block.trains):
            names.update(pages.run(block, capfd))
    if name_of(page) == "README":
        assert names["report"].quality.compressed > 0.9
        sparse = names["sparse"].graph.value_info
        assert any("2:4" in str(value.metadata_props) for value in sparse)


def test_what_is_not_run_says_why() -> None:
    found = [(name_of(page), one) for page in pages.PAGES for one in pages.blocks(page)]
    for name, one in found:
        where = f"{name}, line {one.line}"
        assert one.language, f"{where}: say what it is, text for output"
        assert set(one.tags) <= {"slow", "needs", "in tests", "exit", "not run"}, where
        assert one.tags.get("not run", "why") != "", where
        assert one.tags.get("needs", "gpu") in pages.NEEDS, where
    run = [one for _, one in found if one.runs]
    assert len(run) > 40
    code = sum(one.language in {"sh", "python"} for _, one in found)
    assert len(run) > code / 2


def test_the_blocks_are_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- in tests: inspect for nonsense -->\n```sh\ngpusq nonsense x.onnx # why\n```\n\n"
        "<!-- not run: a reason -->\n```sh\nrm -r x\n```\n\n"
        "<!-- slow -->\n<!-- exit: 2 -->\n```python\n1 / 0\n```\n"
    )
    first, second, third = pages.blocks(page)
    assert (first.line, first.runs, second.runs, third.tags["exit"]) == (3, True, False, "2")
    assert pages.groups(page) == ["fast", "slow"]
    with pytest.raises(AssertionError, match=r"line 3: gpusq inspect x.onnx\n.*No such file"):
        pages.run(first, capfd)
    with pytest.raises(AssertionError, match="'rm' is no program of ours"):
        pages.run(second, capfd)
    with pytest.raises(ZeroDivisionError):
        pages.run(third, capfd)
    assert list(pages.commands("a 'b\nc' # d\ne")) == [["a", "b\nc"], ["e"]]


def test_the_pass_of_the_page_runs() -> None:
    step = python("docs/writing-a-pass.md", 0)["Halve"](factor=0.25)
    model = tiny.mlp()
    before = tiny.weight(model, next(iter(model.graph.initializers)))
    after = step(Canonicalize()(model))
    name = next(iter(model.graph.initializers))
    ratio = tiny.weight(after, name) / before
    assert np.allclose(ratio, 0.25) or np.allclose(ratio, 1)


@pytest.mark.training
def test_the_loss_of_the_page_trains(context_for: Any) -> None:
    loss = python("docs/writing-a-pass.md", 1)["CosineError"]()
    model = tiny.mlp()
    step = Qat(losses=(loss,), steps=3, batch_size=4)
    ctx = context_for(model, trainer=OrtTrainer())
    report = Pipeline(passes=(Canonicalize(), Quantize(), step)).run(model, ctx)[-1]
    assert all(0 <= value < 2 for value in report.result.series["cosine-error"])


def test_the_surgery_of_the_page_runs() -> None:
    step = python("docs/writing-a-pass.md", 2)["ReluToClip"](ceiling=0.5)
    model = tiny.mlp()
    after = step(model)
    assert tiny.operators(after) == ["Gemm", "Clip", "MatMul", "Add"]
    assert tiny.weight(after, "h.top") == 0.5
    assert tiny.operators(model) == ["Gemm", "Relu", "MatMul", "Add"]


@pytest.mark.parametrize("page", [*pages.PAGES, pages.ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_recipe_of_the_page_is_a_plan(tmp_path: Path) -> None:
    page = (pages.ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
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

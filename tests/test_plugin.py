"""A package of somebody else's: installed, found, used from a recipe on the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq_compiler.ir import io
from tests import tiny

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "examples" / "third_party_pass"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin, installed by pip without a network."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "-q")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            *options,
            "--target",
            str(folder / "site"),
            str(folder / "source"),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "site"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A model and data to compile it with."""
    model = tiny.mlp()
    io.save(model, tmp_path / "mlp.onnx")
    x = tiny.samples(model, 40).arrays["x"]
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path


def gpusq(
    *arguments: str, paths: list[Path], folder: Path
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT]))}
    return subprocess.run(
        [sys.executable, "-m", "gpusq_compiler", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def compiled(recipe: str, site: Path, folder: Path) -> dict[str, Any]:
    """The report of a compile with this recipe."""
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    arguments = ("compile", "mlp.onnx", "--recipe", "recipe.toml", "--data", "data.npz", "-q")
    done = gpusq(*arguments, "-o", "out.onnx", paths=[site], folder=folder)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return report


def test_the_plugin_is_listed_with_its_owner(site: Path, tmp_path: Path) -> None:
    listed = gpusq("passes", paths=[site], folder=tmp_path)
    line = next(line for line in listed.stdout.splitlines() if "clip-weights" in line)
    assert "gpusq-example" in line
    assert "Clip outliers" in line
    shown = gpusq("passes", "show", "clip-weights", paths=[site], folder=tmp_path)
    assert "standard deviations that stay" in shown.stdout
    assert "clip-weights" not in gpusq("passes", paths=[], folder=tmp_path).stdout


def test_its_pass_runs_from_a_recipe(site: Path, files: Path) -> None:
    report = compiled(
        """
        [[pass]]
        use = "clip-weights"
        deviations = 1
        [[pass]]
        use = "prune"
        score = "magnitude"
        """,
        site,
        files,
    )
    ran = {step["pass"]: step for step in report["passes"]}
    assert list(ran) == ["canonicalize", "clip-weights", "prune"]
    assert ran["clip-weights"]["options"] == {"deviations": 1.0}
    assert ran["clip-weights"]["changed"] == ["w1", "w2"]
    dense = tiny.weight(tiny.mlp(), "w1")
    limit = np.std(dense, dtype=np.float64)
    assert np.abs(tiny.weight(io.load(files / "out.onnx"), "w1")).max() == pytest.approx(limit)
    assert 'use = "clip-weights"' in report["recipe"]


def test_its_recipe_is_a_plan_with_options(site: Path, files: Path) -> None:
    report = compiled((PLUGIN / "recipe.toml").read_text(encoding="utf-8"), site, files)
    ran = {step["pass"]: step["options"] for step in report["passes"]}
    assert list(ran) == ["canonicalize", "clip-weights", "prune", "quantize", "freeze"]
    assert ran["clip-weights"] == {"deviations": 2.5}


def test_its_own_tests_pass(site: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [site, ROOT]))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(PLUGIN / "tests")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


@pytest.mark.training
def test_its_loss_trains_from_a_recipe(site: Path, files: Path) -> None:
    report = compiled(
        """
        [[pass]]
        use = "qat"
        steps = 3
        [[pass.losses]]
        use = "mean-gap"
        spread = 0.5
        weight = 2.0
        """,
        site,
        files,
    )
    qat = next(step for step in report["passes"] if step["pass"] == "qat")
    assert qat["options"]["losses"] == [{"use": "mean-gap", "weight": 2.0, "spread": 0.5}]
    assert len(qat["series"]["mean-gap"]) == 3
    assert "mean-gap" in report["recipe"]


def test_a_wrong_option_of_a_plugin_is_one_line(site: Path, files: Path) -> None:
    arguments = ("compile", "mlp.onnx", "--passes", "clip-weights", "--set")
    done = gpusq(*arguments, "clip-weights.deviation=1", paths=[site], folder=files)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "there is no option 'deviation'. Did you mean deviations?" in line


@pytest.mark.parametrize(
    ("group", "name", "owners"),
    [
        ("passes", "clip-weights", ("gpusq-example", "gpusq-rival")),
        ("passes", "prune", ("gpusq-compiler", "gpusq-rival")),
    ],
)
def test_two_owners_of_a_name_are_an_error(
    group: str, name: str, owners: tuple[str, str], site: Path, tmp_path: Path
) -> None:
    rival = tmp_path / "site"
    info = rival / "gpusq_rival-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gpusq-rival\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gpusq_compiler.{group}]\n{name} = rival:Thing\n")
    done = gpusq("passes", paths=[site, rival], folder=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"'{name}' is offered by both {owners[0]} and {owners[1]}" in line

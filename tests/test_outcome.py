"""What a compile leaves behind: report, metadata, and the same bytes for the same request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from gpusq_compiler.compile import compile_model
from gpusq_compiler.passes import registry
from gpusq_compiler.passes.base import Context
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.lower import Lower
from gpusq_compiler.passes.options import options_of
from gpusq_compiler.passes.pack import Pack
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.sparsity.scores import Magnitude, Wanda
from tests import shell, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.passes.base import Pass

ONE_SHOT = ("--passes", "prune,quantize")
DATA = ("--data", "data.npz")


@pytest.fixture
def compiled(folder: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """A folder in which the model was pruned and quantized."""
    shell.good("model.onnx", *ONE_SHOT, *DATA, capture=capfd)
    return folder


def metadata(path: Path) -> dict[str, str]:
    return {prop.key: prop.value for prop in onnx.load(path).metadata_props}


def test_report_is_complete(compiled: Path) -> None:
    report = shell.report_of(compiled)
    assert report.keys() == {
        "format",
        "source",
        "output",
        "recipe",
        "target",
        "data",
        "quality",
        "latencies",
        "passes",
        "versions",
        "engine",
        "twins",
        "facts",
        "layers",
        "lint",
        "manifest",
    }
    assert report["engine"] is None
    assert report["lint"] is None
    assert report["facts"] == ["canonical", "frozen", "qdq", "sparse"]
    assert report["twins"] == []
    for part, name in (("source", "model.onnx"), ("output", "model.gpusq.onnx")):
        path = compiled / name
        wanted = {"path": name, "bytes": path.stat().st_size, "sha256": shell.digest(path)}
        assert report[part] == wanted
    wanted = {"origin": "given", "training": 58, "held_out": 6, "labels": True}
    assert report["data"] == wanted
    quality = report["quality"]
    assert (quality["metric"], quality["measured_on"]) == ("accuracy", "held-out")
    assert quality["verified"] is True
    assert list(quality["after"]) == ["dense", "prune", "quantize", "freeze"]
    assert all(0 <= value <= 1 for value in quality["after"].values())
    assert [found["batch"] for found in report["latencies"]] == [1, 32]
    assert all(found["dense"] > 0 < found["compressed"] for found in report["latencies"])
    assert {"gpusq-compiler", "python", "onnx", "numpy"} <= report["versions"].keys()
    keys = {"pass", "options", "seconds", "changed", "left_alone", "metrics", "tables"}
    for step in report["passes"]:
        assert keys | {"series", "histograms", "peak_memory"} == step.keys()
        assert step["peak_memory"] > 1e6
        assert step["options"].keys() <= {
            option.name for option in options_of(registry.find(step["pass"]))
        }


def test_no_score_behind_a_pass_that_keeps_the_function(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[batch, 8] x) => (float[batch, 8] y) { z = Identity(x) y = MatMul(z, w) }
    """)
    weight = np.random.default_rng(0).standard_normal((8, 8), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "model.onnx")
    report = compile_model(
        tmp_path / "model.onnx",
        passes="prune",
        data={"x": np.random.default_rng(1).standard_normal((40, 8), np.float32)},
        out=tmp_path / "out.onnx",
        workdir=tmp_path / "work",
    )
    changing = [step.ran.name for step in report.steps if step.changes]
    assert changing == ["canonicalize", "prune"]
    assert report.quality is not None
    assert list(report.quality.after) == ["dense", "prune"]


def test_recipe_of_the_report_repeats_the_run(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = shell.report_of(compiled)["recipe"]
    (compiled / "again.toml").write_text(recipe)
    again = ("--recipe", "again.toml", *DATA, "-o", "again.onnx", "-q")
    shell.good("model.onnx", *again, capture=capfd)
    assert shell.digest(compiled / "again.onnx") == shell.digest(compiled / "model.gpusq.onnx")
    assert (
        shell.report_of(compiled, "again.json")["recipe"]
        == shell.report_of(compiled)["recipe"]
    )
    assert (
        metadata(compiled / "again.onnx")["gpusq.recipe"]
        == shell.report_of(compiled)["recipe"]
    )


@pytest.mark.training
def test_recipe_of_a_trained_run_repeats_it(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained = ("--passes", "prune,qat", "--steps", "6", "--seed", "3", "-q")
    shell.good("model.onnx", *DATA, *trained, capture=capfd)
    (folder / "again.toml").write_text(shell.report_of(folder)["recipe"])
    again = ("--recipe", "again.toml", "-o", "again.onnx", "-q")
    shell.good("model.onnx", *DATA, *again, capture=capfd)
    assert shell.digest(folder / "again.onnx") == shell.digest(folder / "model.gpusq.onnx")


LOADER = """
import numpy as np

def feeds():
    with np.load("data.npz") as stored:
        arrays = dict(stored)
    for start in range(0, 64, 24):
        yield {name: array[start : start + 24] for name, array in arrays.items()}
"""


def test_data_in_every_form_give_the_same_bytes(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arrays = shell.arrays()
    (compiled / "shards").mkdir()
    for number, rows in enumerate(np.split(np.arange(64), [10, 11])):
        shard = {name: array[rows] for name, array in arrays.items()}
        shell.save(compiled / "shards" / f"{number}.npz", shard)
    (compiled / "loader.py").write_text(LOADER)
    for number, form in enumerate(("shards", "loader.py:feeds")):
        out = ("-o", f"{number}.onnx", "-q")
        shell.good("model.onnx", *ONE_SHOT, "--data", form, *out, capture=capfd)
    compile_model("model.onnx", passes="prune,quantize", data=arrays, out="2.onnx")
    wanted = shell.digest(compiled / "model.gpusq.onnx")
    assert {shell.digest(compiled / f"{n}.onnx") for n in range(3)} == {wanted}


def test_other_data_give_other_bytes(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arrays = shell.arrays()
    shell.save(compiled / "data.npz", {**arrays, "x": 2 * arrays["x"]})
    shell.good("model.onnx", *ONE_SHOT, *DATA, "-o", "other.onnx", "-q", capture=capfd)
    assert shell.digest(compiled / "other.onnx") != shell.digest(compiled / "model.gpusq.onnx")


def test_without_data_everything_says_unverified(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = shell.call(["model.onnx", *ONE_SHOT], capfd)
    assert outcome.code == 0
    assert "unverified" in outcome.err
    assert "UNVERIFIED" in outcome.out
    # Likeness to the dense model is all that synthesised inputs can show.
    assert "accuracy" not in outcome.out
    report = shell.report_of(folder)
    assert report["quality"]["verified"] is False
    assert report["quality"]["measured_on"] == "synthesised inputs"
    assert report["data"]["origin"] == "synthesised"
    assert "unverified" in metadata(folder / "model.gpusq.onnx")["gpusq.accuracy"]


def test_with_data_for_evaluation_alone(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = shell.call(["model.onnx", *ONE_SHOT, "--eval-data", "data.npz"], capfd)
    assert outcome.code == 0
    assert "synthesised" in outcome.err
    assert "unverified" not in (outcome.err + outcome.out).lower()
    report = shell.report_of(folder)
    assert report["data"]["origin"] == "synthesised"
    assert report["quality"]["verified"] is True


def test_with_data_nothing_says_unverified(compiled: Path) -> None:
    assert "gpusq.accuracy" not in metadata(compiled / "model.gpusq.onnx")


def test_eval_data_are_only_reported(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shell.save(compiled / "eval.npz", shell.arrays(12))
    given = (*DATA, "--eval-data", "eval.npz", "-o", "e.onnx", "-q")
    shell.good("model.onnx", *ONE_SHOT, *given, capture=capfd)
    assert shell.digest(compiled / "e.onnx") == shell.digest(compiled / "model.gpusq.onnx")
    assert shell.report_of(compiled, "e.json")["quality"]["measured_on"] == "eval-data"


@pytest.mark.parametrize("metric", ["topk", "psnr", "cosine", "metric.py:score"])
def test_metrics(metric: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "metric.py").write_text("def score(outputs, feeds):\n    return 0.25\n")
    given = (*DATA, "--metric", metric)
    out = shell.good("model.onnx", "--passes", "prune", *given, capture=capfd)
    quality = shell.report_of(folder)["quality"]
    assert quality["metric"] == metric
    assert f"{metric} (held-out)" in out
    assert (quality["after"]["prune"] == 0.25) == (metric == "metric.py:score")


PRUNE = ("--passes", "prune")


def test_nothing_is_run_where_nobody_gives_or_wants_samples(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = shell.call(["model.onnx", *PRUNE], capfd)
    assert outcome.code == 0
    assert "the models are not run" in outcome.err
    assert "latency, batch" not in outcome.out
    report = shell.report_of(folder)
    assert report["quality"] is None
    assert report["latencies"] == []
    assert report["layers"]["measured_on"] is None
    assert report["layers"]["rows"][0]["kept_magnitude"] > 0.5
    assert report["data"] == {
        "origin": "none",
        "training": 0,
        "held_out": 0,
        "labels": False,
    }
    assert metadata(folder / "model.gpusq.onnx")["gpusq.accuracy"] == "unverified: no data"


def test_measure_runs_them_all_the_same(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = shell.call(["model.onnx", *PRUNE, "--measure"], capfd)
    assert outcome.code == 0
    assert "inputs are synthesised" in outcome.err
    report = shell.report_of(folder)
    assert report["quality"]["measured_on"] == "synthesised inputs"
    assert report["latencies"]
    assert report["layers"]["rows"][0]["output_cosine"] is not None


def test_without_measuring_the_model_is_the_same(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = ("-o", "same.onnx", "-q")
    shell.good("model.onnx", *ONE_SHOT, *DATA, *out, "--no-measure", capture=capfd)
    assert shell.digest(compiled / "same.onnx") == shell.digest(compiled / "model.gpusq.onnx")
    report = shell.report_of(compiled, "same.json")
    assert (report["quality"], report["latencies"]) == (None, [])
    assert report["data"]["origin"] == "given"


@pytest.mark.parametrize("option", ["--eval-data", "--metric"])
def test_what_is_only_measured_cannot_be_left_unmeasured(
    option: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = (*DATA, option, "data.npz" if option == "--eval-data" else "cosine")
    outcome = shell.call(["model.onnx", *ONE_SHOT, *given, "--no-measure"], capfd)
    assert outcome.code == 2
    assert "--no-measure" in outcome.err
    assert not (folder / "model.gpusq.onnx").exists()


@pytest.mark.parametrize(
    ("step", "ctx_data", "asks", "wants"),
    [
        (Prune(), False, False, False),
        (Prune(), True, True, False),
        (Prune(score=Magnitude()), True, False, False),
        (Prune(score=Wanda()), True, False, True),
        (Canonicalize(), True, False, False),
        (Quantize(), True, False, True),
        (Freeze(), True, False, False),
        (Pack(), True, False, False),
        (Lower(), True, True, True),
        (Qat(), True, True, True),
    ],
    ids=str,
)
def test_what_passes_ask_for(
    step: Pass, ctx_data: bool, asks: bool, wants: bool, tmp_path: Path
) -> None:
    data = tiny.samples(tiny.mlp()) if ctx_data else None
    assert step.asks_model(Context(workdir=tmp_path, data=data)) is asks
    assert step.wants_samples() is wants

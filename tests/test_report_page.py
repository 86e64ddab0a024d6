"""``--report FILE.html`` and ``gpusq report``: from a run to a page, twice."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.compile import compile_model
from gpusq_compiler.page import figures
from tests import shell, tiny
from tests.page.html import Page

if TYPE_CHECKING:
    from pathlib import Path

ONE_SHOT = ("model.onnx", "--passes", "prune,quantize")
DATA = ("--data", "data.npz")
PAGE = ("--report", "said.html")


@pytest.fixture
def drawn(folder: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """A folder in which a page was written."""
    shell.good(*ONE_SHOT, *DATA, *PAGE, "-q", capture=capfd)
    return folder


def pages(folder: Path, name: str = "said") -> tuple[Page, dict[str, Any]]:
    return Page((folder / f"{name}.html").read_text()), shell.report_of(folder, f"{name}.json")


def test_a_page_and_its_json(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = shell.contents(folder)
    shell.good(*ONE_SHOT, *DATA, *PAGE, "-q", capture=capfd)
    after = shell.contents(folder)
    made = after.keys() - before.keys()
    assert made == {"model.gpusq.onnx", "said.html", "said.json"}
    found, report = pages(folder)
    assert "In the sparse pattern100.0 %" in found.section("figures")
    for row in report["layers"]["rows"]:
        text = found.section("layers")
        assert row["layer"] in text
        assert 0 < row["output_cosine"] < 1
        assert figures.share(row["kept_magnitude"]) in text
        assert figures.decibel(row["output_sqnr"]) in text
        assert figures.cosine(row["output_cosine"]) in text
        assert figures.short(row["scale_median"]) in text
    for name, value in report["quality"]["after"].items():
        assert f"{name}{figures.score('accuracy', value)}" in found.section("passes")
    for step in report["passes"]:
        for finding in step["left_alone"]:
            assert finding["reason"] in found.section("left-alone")
    for part in (report["source"], report["output"], report["manifest"]["inputs"]["data"]):
        assert part["sha256"] in found.section("manifest")
    assert report["manifest"]["command"] == ["gpusq-compile", *ONE_SHOT, *DATA, *PAGE, "-q"]
    assert " ".join(report["recipe"].split()) in found.section("manifest")


def test_histograms_come_from_calibration(drawn: Path) -> None:
    found, report = pages(drawn)
    quantize = shell.passes_of(report)["quantize"]
    rows = {row["tensor"]: row for row in quantize["tables"]["tensors"]}
    activations = {name for name, row in rows.items() if row["kind"] == "activation"}
    assert quantize["histograms"].keys() == activations
    for name, histogram in quantize["histograms"].items():
        assert sum(histogram["shares"]) == pytest.approx(1, abs=0.01)
        # The scale is rounded to float32 between the two.
        assert 0 < rows[name]["clip"] <= histogram["largest"] * (1 + 1e-6)
        assert 0 <= rows[name]["clipped"] < 0.5
        assert f"clip {figures.short(rows[name]['clip'])}" in found.section("ranges")
    assert f"Histograms of activations ({len(activations)})" in found.section("ranges")


def test_without_a_histogram_the_ranges_are_shown(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    few = ("--set", "quantize.observer=minmax", "-q")
    shell.good(*ONE_SHOT, *DATA, *PAGE, *few, capture=capfd)
    found, report = pages(folder)
    assert shell.passes_of(report)["quantize"]["histograms"] == {}
    assert "no histograms" in found.section("ranges")
    assert "All quantizers (4)" in found.section("ranges")


@pytest.mark.training
def test_training_is_drawn(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trained = ("model.onnx", "--passes", "prune,qat", "--steps", "40", *DATA, *PAGE, "-q")
    shell.good(*trained, capture=capfd)
    found, report = pages(folder)
    qat = shell.passes_of(report)["qat"]
    looks = qat["tables"]["looks"]
    assert [row["held_out"] for row in looks] == qat["series"]["held_out"]
    assert looks[0]["step"] == 0
    assert looks[-1]["step"] == qat["metrics"]["steps"] == 40
    best = min(looks, key=lambda row: row["held_out"])
    assert best["step"] == qat["metrics"]["best_step"]
    terms = {name for name in qat["series"] if "/" not in name} - {"loss", "held_out"}
    assert looks[0].keys() == {"step", "held_out", *terms}
    text = found.section("training")
    for term in terms:
        assert term in text
    assert f"{figures.short(qat['metrics']['loss_at_best'])}" in text


@pytest.mark.parametrize(
    ("arguments", "gone", "says"),
    [
        (("--passes", "prune,quantize"), {"training", "tensorrt"}, "is unverified"),
        (("--passes", "canonicalize"), {"training", "ranges", "tensorrt"}, "No metric"),
        (
            ("--passes", "canonicalize", "--measure"),
            {"training", "ranges", "tensorrt"},
            "is unverified",
        ),
        (
            ("--passes", "prune", *DATA, "--target", "tensorrt"),
            {"training", "ranges"},
            "TensorRT 11 refuses nothing",
        ),
    ],
)
def test_less_gives_a_shorter_page(
    arguments: tuple[str, ...],
    gone: set[str],
    says: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shell.good("model.onnx", *arguments, *PAGE, "-q", capture=capfd)
    found, report = pages(folder)
    assert not gone & set(found.sections)
    assert says in found.section("figures")
    assert (report["lint"] is None) == ("tensorrt" in gone)


def test_names_of_the_model_are_data(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        node.name = f"<i>{node.name}&\"'"
    onnx.save(model, folder / "model.onnx")
    shell.good(*ONE_SHOT, *DATA, *PAGE, "-q", capture=capfd)
    found, _ = pages(folder)
    assert "<i>matmul_1&\"'" in found.section("layers")
    assert not found.all("i")


def test_a_report_that_is_there_is_replaced(
    drawn: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("said.html", "said.json"):
        (drawn / name).write_text("old")
    shell.good(*ONE_SHOT, *DATA, *PAGE, "-q", capture=capfd)
    found, report = pages(drawn)
    assert found.sections
    assert report["format"] == 1


def test_any_other_name_holds_json(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shell.good(*ONE_SHOT, "--report", "said.txt", "-q", capture=capfd)
    assert json.loads((folder / "said.txt").read_text())["format"] == 1
    shell.good(*ONE_SHOT, "--report", "SAID.HTM", "-q", capture=capfd)
    assert (folder / "SAID.HTM").read_text().startswith("<!doctype html>")
    assert shell.report_of(folder, "SAID.json")["format"] == 1


def test_from_python(folder: Path) -> None:
    report = compile_model("model.onnx", passes="prune", data="data.npz", report="p.html")
    found, data = pages(folder, "p")
    assert data["manifest"]["command"] == []
    assert "called from Python" in found.section("manifest")
    assert report.layers is not None
    assert [row.layer for row in report.layers.rows] == ["matmul_1", "matmul_2"]


def test_the_verb_draws_the_same_page(drawn: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = shell.good("said.json", "-o", "again.html", verb="report", capture=capfd)
    assert out == "again.html\n"
    assert shell.digest(drawn / "again.html") == shell.digest(drawn / "said.html")
    (drawn / "said.html").unlink()
    assert shell.good("said.json", verb="report", capture=capfd) == "said.html\n"
    assert shell.digest(drawn / "again.html") == shell.digest(drawn / "said.html")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("no.json",), 6, ("no.json", "cannot be read")),
        (("data.npz",), 1, ("data.npz", "no JSON")),
        (("said.html",), 6, ("said.html", "overwritten")),
        (("said.json", "-o", "said.json"), 6, ("said.json", "overwritten")),
        (("said.json", "-o", "model.onnx"), 2, ("model.onnx", ".html")),
        (("said.json", "-o", "no/x.html"), 6, ("no", "does not exist")),
        (("empty.json",), 1, ("report", "holds no report")),
        (("deep.json",), 1, ("deep.json", "no JSON")),
        ((), 2, ("Missing argument",)),
        (("said.json", "more"), 2, ("unexpected",)),
    ],
)
def test_errors_of_the_verb(
    arguments: tuple[str, ...],
    code: int,
    says: tuple[str, ...],
    drawn: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (drawn / "empty.json").write_text("{}")
    (drawn / "deep.json").write_text("[" * 100_000)
    before = shell.contents(drawn)
    outcome = shell.call(arguments, capfd, "report")
    assert (outcome.code, outcome.out) == (code, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("gpusq: error: ")
    for word in says:
        assert word in line
    assert shell.contents(drawn) == before


def test_a_page_is_whole_or_not_there(
    drawn: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (drawn / "said.html").write_text("old")
    before = shell.contents(drawn)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    outcome = shell.call(["said.json"], capfd, "report")
    assert outcome.code == 6
    assert "No space left" in outcome.err
    assert shell.contents(drawn) == before


def test_layers_are_compared_with_the_model_before_its_first_lossy_pass(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Folding a BatchNormalization changes weights and no function: that is no error."""
    ir.save(tiny.conv_bn_relu(), folder / "bn.onnx")
    shell.good("bn.onnx", "--passes", "prune", *PAGE, "-q", capture=capfd)
    found, report = pages(folder)
    stem, second, _ = report["layers"]["rows"]
    assert (stem["pattern"], stem["weight_error"], stem["weight_sqnr"]) == (None, 0, None)
    assert second["pattern"] == "2:4"
    assert second["weight_error"] > 0.1
    assert "exact" in found.section("layers")


def test_a_packed_model_is_seen_through(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    packed = ("--passes", "prune,quantize,pack", "--set", "pack.least=0", *DATA, "-q")
    shell.good("model.onnx", *packed, *PAGE, capture=capfd)
    found, report = pages(folder)
    assert shell.passes_of(report)["pack"]["metrics"]["weights"] == 2
    assert report["facts"] == ["canonical", "frozen", "packed", "qdq", "sparse"]
    assert [row["pattern"] for row in report["layers"]["rows"]] == ["2:4", "2:4"]
    assert all(row["output_cosine"] for row in report["layers"]["rows"])
    assert "packed_bytes" in found.section("passes")
    assert "2 weights and 2 activations" in found.section("ranges")


def test_a_model_for_tensorrt_and_its_twins(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lowered = (*ONE_SHOT, *DATA, "--target", "tensorrt", "--twins", "twins", "-q")
    shell.good(*lowered, "--set", "lower.tensorrt=10", *PAGE, capture=capfd)
    found, report = pages(folder)
    assert report["lint"]["tensorrt"] == "10"
    assert "trt-legal" in report["facts"]
    assert all(row["output_cosine"] for row in report["layers"]["rows"])
    assert len(report["twins"]) == 3
    for twin in report["twins"]:
        assert twin["name"] in found.section("costs")
        assert figures.score("accuracy", twin["score"]) in found.section("costs")
    # ONNX Runtime is not timed with a file that is for TensorRT.
    assert not report["latencies"]
    assert "gpusq bench times engines" in found.section("figures")

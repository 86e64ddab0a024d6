"""``gpusq bench``: table, JSON, and one line with the right exit code for what is wrong."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import onnxruntime
import pytest

from tests import shell
from tests.analysis.test_bench import double
from tests.bad_input.case import (
    MISSING,
    REFUSED,
    UNREADABLE,
    USAGE,
    Case,
    content,
    cut,
    folder_of,
    judge,
    link,
    model,
)
from tests.trt.fake_gpu import VERSIONS, FakeDriver, install, plan

if TYPE_CHECKING:
    from pathlib import Path

QUICK = ("--seconds", "0", "--warm-up", "0", "--threads", "1", "--batch-sizes", "1,2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return shell.write(tmp_path)


def test_a_table(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = shell.contents(folder)
    out = shell.good("model.onnx", "model.onnx", *QUICK, capture=capfd, verb="bench")
    title, *table = out.splitlines()
    assert title == "ONNX Runtime CPU numbers, 1 thread, synthesised inputs"
    cells = [line.split("│")[1:-1] for line in table if line.startswith("│")]
    assert [row[0].strip() for row in cells] == ["1", "", "2", ""]
    assert [row[1].strip() for row in cells] == ["model.onnx"] * 4
    assert all(float(row[3]) > 0 and float(row[5]) > 0 for row in cells)
    assert [bool(row[6].strip()) for row in cells] == [False, True, False, True]
    assert shell.contents(folder) == before


def test_json(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ("model.onnx", "--json", "--data", "data.npz", "--iterations", "100")
    out = shell.good(*given, *QUICK, "--seconds", "9", capture=capfd, verb="bench")
    found = json.loads(out)
    assert found["files"][0]["bytes"] == (folder / "model.onnx").stat().st_size
    assert [(cell["batch"], cell["runs"]) for cell in found["cells"]] == [(1, 100), (2, 100)]
    for cell in found["cells"]:
        assert 0 < cell["median_ms"] <= cell["p99_ms"]
        per_second = 1000 * cell["batch"] / cell["mean_ms"]
        assert cell["samples_per_second"] == pytest.approx(per_second)
    assert found["settings"]["data"] == "data.npz"
    assert "onnx" in found["versions"]


def test_twins(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "twins").mkdir()
    shell.mlp(folder / "twins" / "model.dense-int8.onnx")
    out = shell.good("model.onnx", "--twins", "twins", *QUICK, capture=capfd, verb="bench")
    assert "as dense-int8" in out
    assert "sparse gain on ONNX Runtime CPU, dense-int8 over sparse-int8: " in out


def test_a_real_model_and_its_compiled_file(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = str(shell.ROOT / "models" / "vit_digits.onnx")
    few = ("--set", "prune.score=magnitude", "--set", "quantize.samples=8", "--threads", "1")
    shell.good(dense, "--passes", "prune,quantize", *few, "-q", capture=capfd)
    given = (dense, "vit_digits.gpusq.onnx", "--json", *QUICK)
    found = json.loads(shell.good(*given, capture=capfd, verb="bench"))
    before, after = (file["bytes"] for file in found["files"])
    # A quarter of each weight of 4 bytes is left, with scales and nodes.
    assert 2 < before / after < 4
    assert [cell["faster"] is None for cell in found["cells"]] == [True, False] * 2
    assert "ONNX Runtime makes no use of its 2:4 pattern" in found["lines"][-1]


def test_a_prescribed_batch_is_said(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    double(folder / "two.onnx", batch="2")
    outcome = shell.call(["two.onnx", *QUICK], capfd, "bench")
    assert outcome.code == 0
    assert outcome.err == "gpusq: two.onnx prescribes batch size 2: only that is measured\n"


CASES = [
    Case("missing", "no.onnx", UNREADABLE, ("no.onnx", "No such file")),
    Case("second missing", "model.onnx no.onnx", UNREADABLE, ("no.onnx",)),
    Case("missing engine", "no.engine", UNREADABLE, ("no.engine", "No such file")),
    Case("folder", "m.onnx", UNREADABLE, ("m.onnx", "folder"), folder_of("m.onnx")),
    Case("engine that is a folder", "m.engine", UNREADABLE, ("m.eng",), folder_of("m.engine")),
    Case("dangling link", "l.onnx", UNREADABLE, ("l.onnx",), link("l.onnx")),
    Case("text", "t.onnx", REFUSED, ("not an ONNX model",), content("t.onnx", "no model")),
    Case("truncated", "model.onnx", REFUSED, ("truncated",), cut("model.onnx", 0.6)),
    Case(
        "other inputs",
        "model.onnx o.onnx",
        REFUSED,
        ("o.onnx: it takes x float32[?,9]", "model.onnx takes x float32[?,8]"),
        model("o.onnx", inputs=9),
    ),
    Case("no data", "model.onnx --data d.npz", UNREADABLE, ("d.npz",)),
    Case("two with twins", "model.onnx model.onnx --twins .", USAGE, ("--twins", "one FILE")),
    Case("no twins", "model.onnx --twins .", UNREADABLE, ("model.dense-int8.onnx",)),
    Case("no files", "", USAGE, ("FILES",)),
    *(
        Case(f"batch sizes {text}", f"model.onnx --batch-sizes '{text}'", USAGE, (text,))
        for text in ("0", "x", "1,,2", "-1", "1.5", "1;2")
    ),
    Case("no seconds", "model.onnx --seconds -1", USAGE, ("--seconds",)),
    Case("no iterations", "model.onnx --iterations 0", USAGE, ("--iterations",)),
    Case("no threads", "model.onnx --threads 0", USAGE, ("--threads",)),
    Case("other device", "model.onnx --device tpu", USAGE, ("--device", "cuda")),
    Case(
        "no TensorRT",
        "model.onnx m.engine",
        MISSING,
        ("TensorRT is not installed", "pip install"),
        content("m.engine", "a plan"),
    ),
]


def check(case: Case, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
    if case.make is not None:
        case.make(folder)
    before = shell.contents(folder)
    judge(case, shell.call([*QUICK, *shlex.split(case.arguments)], capture, "bench"))
    assert shell.contents(folder) == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_wrong(case: Case, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(case, folder, capfd)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there"
)
def test_cuda_without_cuda(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(Case("", "model.onnx --device cuda", MISSING, ("--device cuda",)), folder, capfd)


ENGINES = [
    Case("no GPU", "m.engine", MISSING, ("no NVIDIA GPU",)),
    Case("other version", "m.engine", REFUSED, ("m.engine: TensorRT 10.14", "not compatible")),
    Case(
        "batch outside of the profile",
        "m.engine --batch-sizes 1,33",
        REFUSED,
        ("built for x[1, 8] to [32, 8], not for x[33, 8]", "--max-shapes"),
    ),
]


@pytest.mark.parametrize("case", ENGINES, ids=lambda case: case.name)
def test_engines_that_cannot_run(
    case: Case,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the FAKES of ``fake_gpu``."""
    install(monkeypatch, FakeDriver(devices=0 if case.name == "no GPU" else 1))
    version = VERSIONS[0] if case.name == "other version" else VERSIONS[1]
    plan(folder / "m.engine", version=version)
    check(case, folder, capfd)

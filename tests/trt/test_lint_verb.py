"""``gpusq lint``: lines, exit codes, and that the model is never touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest

from gpusq_compiler.errors import GateError
from tests import shell
from tests.trt.cases import CASES

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, name: str) -> Path:
    onnx.save(next(case for case in CASES if case.name == name).proto(), path)
    return path


def test_a_good_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write(tmp_path / "m.onnx", "int8 weight")
    out = shell.good(str(model), capture=capsys, verb="lint")
    assert out == "TensorRT 11: 0 refused, 0 differs, 0 slow, 0 sparse\n"


def test_a_slow_model_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write(tmp_path / "m.onnx", "scales along the sum")
    first, last = shell.good(str(model), capture=capsys, verb="lint").splitlines()
    assert first.startswith("slow     MatMul 'y': the scales of 'w8'")
    assert last.endswith("0 refused, 0 differs, 1 slow, 0 sparse")


def test_a_refused_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write(tmp_path / "m.onnx", "weight with zero point")
    done = shell.call([str(model), "--tensorrt", "8.6"], capsys, "lint")
    assert done.code == GateError.exit_code == 5
    assert done.out.splitlines()[0].startswith(
        "refused  DequantizeLinear 'wd': the zero point is 3"
    )
    assert done.out.splitlines()[-1].startswith("TensorRT 8.6: 1 refused,")
    assert "1 finding. Try --fix OUT" in done.err
    assert "Traceback" not in done.err


def test_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, fixed = write(tmp_path / "m.onnx", "asymmetric uint8"), tmp_path / "fixed.onnx"
    before = shell.digest(model)
    out = shell.good(str(model), "--fix", str(fixed), capture=capsys, verb="lint")
    assert out.splitlines()[0].startswith("repaired QuantizeLinear 'q': symmetric int8, scale")
    assert "2 repairs" in out
    assert out.endswith("0 refused, 0 differs, 0 slow, 0 sparse\n")
    assert shell.digest(model) == before
    assert shell.good(str(fixed), capture=capsys, verb="lint").count("\n") == 1


def test_fix_says_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, fixed = write(tmp_path / "m.onnx", "negative scale"), tmp_path / "fixed.onnx"
    done = shell.call([str(model), "--fix", str(fixed)], capsys, "lint")
    assert done.code == 5
    assert "0 repairs" in done.out
    assert "refused  QuantizeLinear 'q': scale 0 of 1 is -0.02" in done.out
    assert fixed.exists()


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        (["--tensorrt", "9"], (2, "'9' is no version of TensorRT")),
        (["--fix", "m.onnx"], (6, "would overwrite a file that the model is read from")),
        (["--fix", "none/x.onnx"], (6, "the folder does not exist")),
    ],
)
def test_refusals(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    outcome: tuple[int, str],
) -> None:
    model = write(tmp_path / "m.onnx", "asymmetric uint8")
    before = shell.contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = shell.call([str(model), *arguments], capsys, "lint")
    assert done.code == outcome[0]
    assert outcome[1] in done.err
    assert shell.contents(tmp_path) == before

"""The check through TensorRT on FAKES: what it compares, not what TensorRT does."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.gpu import tensorrt_engines
from gpusq_compiler.errors import FileError
from gpusq_compiler.ir import io
from gpusq_compiler.trt.engines import evidence
from gpusq_compiler.trt.engines.build import EngineInfo
from tests.analysis.test_bench import double
from tests.trt.fake_gpu import SECONDS_PER_RUN, VERSIONS, FakeDriver, install, plan

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.trt.engines.options import EngineOptions

TWINS = ("dense-fp16", "dense-int8", "sparse-fp16")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twins").mkdir()
    double(tmp_path / "m.gpusq.onnx")
    double(tmp_path / "plain.onnx")
    for twin in TWINS:
        double(tmp_path / "twins" / f"m.{twin}.onnx")
    return tmp_path


@pytest.fixture
def built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A FAKE builder, which writes engines for the FAKE runtime and notes what was asked."""
    install(monkeypatch, FakeDriver())
    asked: list[tuple[str, Any]] = []

    def fake_build(model: Path, engine: Path, options: EngineOptions) -> EngineInfo:
        asked.append((model.name, options))
        shape = list(options.shapes.optimum["x"])
        plan(engine, profiles=[{"x": [shape] * 3}])
        return EngineInfo(
            path=engine,
            model=model,
            size=engine.stat().st_size,
            seconds=0.0,
            tensorrt=f"FAKE {VERSIONS[1]}",
            device="FAKE",
            capability="9.0",
            typed=True,
            flags=(),
            profiles=(),
            layers=(),
            evidence=evidence.predicted(io.load(model)),
        )

    monkeypatch.setattr(tensorrt_engines, "build", fake_build)
    return asked


def run(*arguments: str) -> int:
    return tensorrt_engines.main(["m.gpusq.onnx", "--twins", "twins", *arguments])


def test_every_variant_at_every_batch(
    folder: Path, built: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--seconds", "0", "--warm-up", "0")
    assert run("--inputs-only", "plain.onnx", "--batch-sizes", "2,3", *quick) == 0
    found = json.loads((folder / "tensorrt_engines.json").read_text())
    assert [one["batch"] for one in found["batches"]] == [2, 3]
    engines = found["batches"][1]["engines"]
    assert [one["variant"] for one in engines] == [
        "dense-int8",
        "sparse-int8",
        "dense-fp16",
        "sparse-fp16",
        "sparse-int8-flag-off",
        "sparse-int8-inputs-only",
    ]
    assert [(name, options.sparse_weights) for name, options in built[6:]] == [
        ("m.dense-int8.onnx", True),
        ("m.gpusq.onnx", True),
        ("m.dense-fp16.onnx", True),
        ("m.sparse-fp16.onnx", True),
        ("m.gpusq.onnx", False),
        ("plain.onnx", True),
    ]
    assert {options.shapes.optimum["x"] for _, options in built[6:]} == {(3, 8)}
    # The fake engine and the file compute the same, exactly.
    exact = {"cosine": 1.0, "sqnr_db": None, "max_error": 0.0}
    assert [one["numerics"] for one in engines] == [{"y": exact}] * 6
    cells = found["batches"][1]["bench"]["cells"]
    # Floats of milliseconds.
    assert [cell["median_ms"] for cell in cells] == pytest.approx(
        [1000 * SECONDS_PER_RUN] * 6, rel=1e-4
    )
    assert cells[0]["faster"] is None
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 12
    assert out[1].startswith("batch 2, sparse-int8: 4.000 ms, 1.00x as fast as dense-int8; 0 ")


def test_without_dense_int8_nothing_is_compared(folder: Path) -> None:
    (folder / "twins" / "m.dense-int8.onnx").unlink()
    with pytest.raises(FileError, match="lacks the twin dense-int8"):
        tensorrt_engines.variants(folder / "m.gpusq.onnx", folder / "twins", None)


def test_one_line_for_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for code, says, given in (
        (4, "TensorRT is not installed", ()),
        (6, "no.onnx", ("--inputs-only", "no.onnx")),
    ):
        assert run(*given) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("tensorrt_engines: nothing was measured: ")
        assert says in line
        assert not (folder / "tensorrt_engines.json").exists()

"""``gpusq build`` and ``gpusq-compile --engine``: lines, exit codes, files.

Where an engine is built here, a FAKE of TensorRT stands in for it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.compile import compile_model
from gpusq_compiler.trt.engines import bindings
from gpusq_compiler.trt.engines.options import EngineOptions
from gpusq_compiler.trt.engines.profiles import Shapes
from tests import shell
from tests.trt.cases import CASES
from tests.trt.chains import chain
from tests.trt.fakes import SERIALIZED, FakeDriver, FakeTensorRT
from tests.trt.test_build import full
from tests.trt.test_evidence import eight, kernel, ten

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BESIDE = {"trtexec.sh", "ort.json", "ort.py"}
ENGINE = ("--target", "tensorrt", "--engine", "m.engine", "--opt-shapes", "x:4x8")
COMPILE = ("model.onnx", "--passes", "prune,quantize", "--data", "data.npz", *ENGINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(ir.to_proto(chain(2, dense={1})), tmp_path / "m.onnx")
    return tmp_path


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTensorRT]:
    def install(version: str = "11.4", **behaviour: Any) -> FakeTensorRT:
        made = FakeTensorRT(version, **behaviour)
        monkeypatch.setitem(sys.modules, "tensorrt", made)
        monkeypatch.setattr(bindings, "cuda_driver", FakeDriver)
        return made

    return install


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without TensorRT."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)


def build(
    *arguments: str, capture: pytest.CaptureFixture[str], code: int = 0
) -> shell.Outcome:
    done = shell.call(arguments, capture, "build")
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    return done


def test_build(
    folder: Path, fake: Callable[..., FakeTensorRT], capfd: pytest.CaptureFixture[str]
) -> None:
    fake(log=ten("fc0", "fc0"), inspected=json.dumps({"Layers": [kernel("fc0", "sparse")]}))
    out = build("m.onnx", capture=capfd).out.splitlines()
    assert out[-1] == "m.engine"
    assert out[-2].startswith("TensorRT 11.4.1.2 on a fake GPU: 0.00 MB in ")
    assert out[-3] == "measured: 2 layers, 1 eligible, 1 chosen (0 in INT8)"
    assert "sparse" in next(line for line in out if "fc0" in line)
    assert (folder / "m.engine").read_bytes() == SERIALIZED
    made = {path.name for path in folder.iterdir()}
    beside = {f"m.engine.{name}" for name in BESIDE | {"json", "log"}}
    assert made == {"m.onnx", "m.engine", *beside}


def test_build_as_json(
    fake: Callable[..., FakeTensorRT], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake(version="8.6", log=eight("fc0", ""))
    done = build("m.onnx", "-o", "x.plan", "--json", "--fp16", capture=capfd)
    found = json.loads(done.out)
    assert found["flags"] == ["SPARSE_WEIGHTS", "FP16", "INT8"]
    assert found["path"] == "x.plan"
    assert found == json.loads((folder / "x.plan.json").read_text())


@pytest.mark.usefixtures("bare")
def test_without_tensorrt(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = build("m.onnx", capture=capfd, code=4)
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line == (
        "gpusq: error: m.engine: no engine was built, TensorRT is not installed. m.onnx is "
        "ready, and m.engine.trtexec.sh builds it on its device. Type: pip install "
        "'gpusq-compiler[tensorrt]'; on a Jetson it comes with JetPack"
    )
    made = {path.name for path in folder.iterdir()}
    assert made == {"m.onnx", *(f"m.engine.{name}" for name in BESIDE)}


def test_an_old_tensorrt_is_told(
    fake: Callable[..., FakeTensorRT], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake(version="8.6").__version__ = "8.5.3"
    line = build("m.onnx", capture=capfd, code=4).err
    assert "TensorRT 8.5.3 is older than 8.6" in line
    assert line.count("\n") == 1


def test_no_gpu_is_told(
    fake: Callable[..., FakeTensorRT],
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake()
    monkeypatch.setattr(bindings, "cuda_driver", lambda: FakeDriver(count=0))
    line = build("m.onnx", capture=capfd, code=4).err
    assert "the driver finds no NVIDIA GPU" in line
    assert "m.engine.trtexec.sh" in line


def test_an_operator_is_told(
    fake: Callable[..., FakeTensorRT], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake(unknown_operators=("MatMul",))
    note, line = build("m.onnx", capture=capfd, code=1).err.splitlines()
    assert note == "gpusq: TensorRT 11.4.1.2 builds for a fake GPU, which can take minutes"
    assert line.startswith("gpusq: error: m.onnx, MatMul 'fc0': TensorRT 11.4.1.2 refuses it")
    assert not (folder / "m.engine").exists()


def test_a_full_disk_is_told(
    fake: Callable[..., FakeTensorRT],
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake()
    monkeypatch.setattr(os, "fsync", full)
    line = build("m.onnx", capture=capfd, code=6).err
    assert "cannot be written: No space left on device. Make room" in line
    assert {path.name for path in folder.iterdir()} == {"m.onnx"}


def test_a_prediction(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = build("m.onnx", "--predict", capture=capfd).out
    assert out.splitlines()[-1] == (
        "predicted: 2 layers, 1 eligible, 1 of them may become sparse; chosen: not known"
    )
    assert "may be" in out
    found = json.loads(build("m.onnx", "--predict", "--json", capture=capfd).out)
    assert found["basis"] == "predicted"
    assert [layer["eligible"] for layer in found["layers"]] == [True, False]
    assert [layer["chosen"] for layer in found["layers"]] == [None, False]
    assert {path.name for path in folder.iterdir()} == {"m.onnx"}


@pytest.mark.usefixtures("bare")
def test_what_is_written_for_the_device(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--on-device", "--tensorrt", "8.6", "--workspace", "9", "--dense")
    out = build("m.onnx", *options, capture=capfd).out
    assert set(out.splitlines()) == {f"m.engine.{name}" for name in BESIDE}
    text = (folder / "m.engine.trtexec.sh").read_text()
    assert "--int8 --memPoolSize=workspace:9" in text
    assert "--sparsity" not in text


def test_a_log_from_elsewhere(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "b.log").write_text("\n".join(ten("fc0", "fc0")))
    out = build("m.onnx", "--log", "b.log", capture=capfd).out
    assert out.splitlines()[-1] == "measured: 2 layers, 1 eligible, 1 chosen (1 in INT8)"
    (folder / "l.json").write_text(json.dumps({"Layers": [kernel("fc0", "sparse_x")]}))
    options = ("--log", "b.log", "--layers", "l.json", "--json")
    found = json.loads(build("m.onnx", *options, capture=capfd).out)
    assert found["layers"][0]["tactic"] == "sparse_x"


@pytest.mark.rtx
def test_check(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="type: pip install tensorrt-rtx")
    done = build("m.onnx", "--check", capture=capfd)
    assert "accepts it; 2 of 2 matrix products" in done.out
    assert "says nothing about sparsity" in done.out
    found = json.loads(build("m.onnx", "--check", "--json", capture=capfd).out)
    assert found["products"][0] == {
        "name": "fc0",
        "operator": "MatMul",
        "expected": True,
        "integer": True,
    }
    bad = next(case for case in CASES if case.name == "operator without importer")
    onnx.save(bad.proto(), folder / "bad.onnx")
    done = build("bad.onnx", "--check", capture=capfd, code=5)
    assert done.err.startswith("gpusq: error: bad.onnx, Det 'y': TensorRT for RTX")
    assert done.err.count("\n") == 1
    assert {path.name for path in folder.iterdir()} == {"m.onnx", "bad.onnx"}


def test_check_without_rtx(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    line = build("m.onnx", "--check", capture=capfd, code=4).err
    assert "TensorRT for RTX is not installed. Type: pip install 'gpusq-compiler[rtx]'" in line


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        (["m.onnx", "--predict", "--check"], (2, "Give one of --predict")),
        (["m.onnx", "--layers", "x.json"], (2, "gpusq: error: build: these")),
        (["m.onnx", "--tensorrt", "9"], (2, "'9' is no version")),
        (["m.onnx", "--hardware", "turing"], (2, "--hardware: 'turing' is not known")),
        (["m.onnx", "--opt-shapes", "x"], (2, "--opt-shapes: 'x' is no list")),
        (["m.onnx", "--predict", "--opt-shapes", "x"], (2, "--opt-shapes: 'x' is no list")),
        (["m.onnx", "--predict", "--max-shapes", "x:1x"], (2, "--max-shapes: 'x:1x' is no")),
        (["m.onnx", "--predict", "--hardware", "turing"], (2, "'turing' is not known")),
        (["m.onnx", "--check", "--workspace", "0"], (2, "--workspace: 0 MiB")),
        (["m.onnx", "--check", "--tensorrt", "9"], (2, "'9' is no version")),
        (["m.onnx", "--log", "no.log", "--min-shapes", "x"], (2, "--min-shapes: 'x' is no")),
        (["m.onnx", "--plugin", "p.so"], (6, "p.so: there is no such library")),
        (["m.onnx", "-o", "m.onnx"], (6, "would overwrite a file")),
        (["m.onnx", "-o", "no/m.engine"], (6, "the folder does not exist")),
        (["m.onnx", "--log", "no.log"], (6, "no.log: cannot be read")),
        (["no.onnx", "--predict"], (6, "no.onnx: cannot be read")),
    ],
)
def test_refusals(
    arguments: list[str],
    outcome: tuple[int, str],
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = shell.contents(folder)
    done = build(*arguments, capture=capfd, code=outcome[0])
    assert outcome[1] in done.err
    assert done.err.count("\n") == 1
    assert shell.contents(folder) == before


@pytest.mark.usefixtures("bare")
def test_compile_without_tensorrt_writes_the_model(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shell.write(folder)
    done = shell.call(COMPILE, capfd)
    assert done.code == 4
    first, *_, last = done.err.splitlines()
    assert "TensorRT is not installed: model and scripts will be written" in done.err
    assert first.startswith("gpusq: ")
    assert "model.gpusq.onnx is ready, and m.engine.trtexec.sh builds it" in last
    onnx.checker.check_model(onnx.load(folder / "model.gpusq.onnx"))
    assert shell.report_of(folder)["engine"] is None
    script = (folder / "m.engine.trtexec.sh").read_text()
    assert "--onnx=./model.gpusq.onnx" in script
    assert "--optShapes=x:4x8" in script


def test_compile_and_build(
    folder: Path, fake: Callable[..., FakeTensorRT], capfd: pytest.CaptureFixture[str]
) -> None:
    shell.write(folder)
    fake(log=ten("matmul_1", ""))
    done = shell.call(COMPILE, capfd)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "model.gpusq.onnx"
    assert "gpusq: measured: 2 layers, 1 eligible, 0 chosen (0 in INT8)" in done.err
    engine = shell.report_of(folder)["engine"]
    assert engine["evidence"]["basis"] == "measured"
    assert engine["model"] == "model.gpusq.onnx"
    assert (folder / "m.engine").read_bytes() == SERIALIZED


def test_compile_and_build_from_python(
    folder: Path, fake: Callable[..., FakeTensorRT]
) -> None:
    shell.write(folder)
    trt = fake()
    report = compile_model(
        "model.onnx",
        passes="prune,quantize",
        target="tensorrt",
        engine="m.engine",
        engine_options=EngineOptions(
            sparse_weights=False, shapes=Shapes.parse("x:1x8", "x:4x8", "x:8x8")
        ),
    )
    assert report.engine is not None
    assert report.engine["flags"] == ()
    assert ("IOptimizationProfile.set_shape", "x", (1, 8), (4, 8), (8, 8)) in trt.calls


@pytest.mark.usefixtures("bare")
def test_a_dry_run_says_that_no_engine_will_be_built(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shell.write(folder)
    done = shell.call([*COMPILE, "--dry-run"], capfd)
    assert done.code == 0
    assert "TensorRT is not installed: model and scripts will be written" in done.out

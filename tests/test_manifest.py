"""What the manifest says of a run's inputs."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

from gpusq_compiler import cli
from gpusq_compiler.manifest import IN_MEMORY, manifest, versions
from gpusq_compiler.request import Request
from tests import shell


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shell.write(tmp_path)


def test_files_by_option(folder: Path) -> None:
    (folder / "metric.py").write_text("def score(outputs, feeds):\n    return 1.0\n")
    request = Request(
        source=Path("model.onnx"),
        data="data.npz",
        eval_data=Path("data.npz"),
        metric="metric.py:score",
        threads=3,
        command=("gpusq", "compile"),
    )
    found = manifest(request, seed=5, seconds=1.23456)
    assert list(found.inputs) == ["data", "eval-data", "metric"]
    data = found.inputs["data"]
    size = (folder / "data.npz").stat().st_size
    assert (data.path, data.bytes) == ("data.npz", size)
    assert data.sha256 == shell.digest(folder / "data.npz")
    assert found.inputs["metric"].sha256 == shell.digest(folder / "metric.py")
    assert (found.command, found.seed, found.seconds) == (("gpusq", "compile"), 5, 1.235)
    assert (found.device, found.threads) == ("cpu", 3)
    assert found.machine.system
    assert found.machine.processor


def test_names_that_are_no_files_are_left_out(folder: Path) -> None:
    request = Request(source=Path("model.onnx"), metric="accuracy", recipe=Path("one-shot"))
    assert manifest(request, seed=0, seconds=0.0).inputs == {}


def test_a_folder_is_its_files_names_and_contents(folder: Path) -> None:
    inner = folder / "shards" / "a"
    inner.mkdir(parents=True)
    (inner / "0.npz").write_bytes(b"zero")
    (folder / "shards" / "1.npz").write_bytes(b"one")
    request = Request(source=Path("model.onnx"), data="shards")
    found = manifest(request, seed=0, seconds=0.0).inputs["data"]
    lines = (("1.npz", b"one"), ("a/0.npz", b"zero"))
    text = "".join(f"{name} {hashlib.sha256(b).hexdigest()}\n" for name, b in lines)
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert found.bytes == 7
    (inner / "0.npz").rename(inner / "2.npz")
    assert manifest(request, seed=0, seconds=0.0).inputs["data"].sha256 != found.sha256


def test_arrays_in_memory_have_a_hash_too(folder: Path) -> None:
    arrays = {"x": np.zeros((3, 2), np.float32)}
    request = Request(source=Path("model.onnx"), data=arrays)
    found = manifest(request, seed=0, seconds=0.0).inputs["data"]
    assert (found.path, found.bytes) == (IN_MEMORY, 24)
    arrays["x"][2, 1] = 1
    assert manifest(request, seed=0, seconds=0.0).inputs["data"].sha256 != found.sha256
    function = Request(source=Path("model.onnx"), data=lambda: arrays)
    assert manifest(function, seed=0, seconds=0.0).inputs == {}


def test_a_checkout_that_is_not_installed_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    known = importlib.metadata.version
    assert versions()["gpusq-compiler"] == known("gpusq-compiler")

    def version(name: str) -> str:
        if name == "gpusq-compiler":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = versions()
    assert found["gpusq-compiler"] == "a checkout, not installed"
    assert found["numpy"] == np.__version__
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert not end.value.code
    assert capfd.readouterr().out == "gpusq, version a checkout, not installed\n"

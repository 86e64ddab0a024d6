"""Finding TensorRT: what is there, what is missing, what is broken."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gpusq_compiler.errors import MissingRuntime
from gpusq_compiler.trt.engines import bindings
from gpusq_compiler.trt.legality.rules import Version
from tests.trt.fakes import FakeDriver, FakeTensorRT

if TYPE_CHECKING:
    from pathlib import Path


def install(monkeypatch: pytest.MonkeyPatch, module: Any, name: str = "tensorrt") -> None:
    monkeypatch.setitem(sys.modules, name, module)


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A package of this name whose import runs the text."""
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


def refused(monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(MissingRuntime) as caught:
        bindings.tensorrt()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert caught.value.exit_code == 4
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    line = refused(monkeypatch)
    assert line.startswith("TensorRT is not installed. Type: pip install")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise OSError('libnvinfer.so.10: cannot open shared object file')", "libnvinfer.so"),
        ("import ctypes; ctypes.CDLL('libno-such-thing.so.8')", "libno-such-thing.so.8"),
        ("raise ImportError('undefined symbol: createInferBuilder')", "undefined symbol"),
        ("import tensorrt_no_libs", "No module named 'tensorrt_no_libs'"),
        ("raise RuntimeError('driver too old')", "driver too old"),
        ("import os; os.no_such_name", "no_such_name"),
    ],
)
def test_broken(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, monkeypatch, text)
    line = refused(monkeypatch)
    assert line.startswith("TensorRT cannot be loaded: ")
    assert said in line
    assert "install" in line.rpartition(". ")[2].lower()


def test_a_runtime_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ModuleType("tensorrt"))
    assert "has no builder" in refused(monkeypatch)


@pytest.mark.parametrize("version", ["8.5.3.1", "7.2", "8"])
def test_too_old(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT("8.6")
    fake.__version__ = version
    install(monkeypatch, fake)
    assert refused(monkeypatch).startswith(f"TensorRT {version} is older than 8.6. Type: pip")


@pytest.mark.parametrize(
    ("version", "rules"),
    [
        ("8.6.1", Version(8, 6)),
        ("9.3.0", Version(8)),
        ("10.14.1.48", Version(10, 14)),
        ("11.4.0.106", Version(11, 4)),
        ("12.0", Version(11)),
        ("10.9rc1.2", Version(10, 0)),
    ],
)
def test_versions(version: str, rules: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT("10.16")
    fake.__version__ = version
    install(monkeypatch, fake)
    found = bindings.tensorrt()
    assert str(found) == f"TensorRT {version}"
    assert found.rules == rules


def test_a_name_that_is_lacking_is_none() -> None:
    old, new = (
        bindings.Bindings(name="TensorRT", api=FakeTensorRT(v), version=v)
        for v in ("8.6", "11.4")
    )
    assert old.member("BuilderFlag.INT8").name == "INT8"
    assert new.member("BuilderFlag.INT8") is None
    assert new.member("NoSuchThing.AT_ALL") is None
    assert old.member("NetworkDefinitionCreationFlag.STRONGLY_TYPED") is None


def test_a_builder_that_cannot_be_made() -> None:
    fake = FakeTensorRT("8.6", builder_fails=True)
    found = bindings.Bindings(name="TensorRT", api=fake, version="8.6.1")
    with pytest.raises(MissingRuntime, match=r"cannot make a Builder: CUDA init.* error: 35"):
        found.builder()


def test_messages_reach_only_who_listens() -> None:
    found = bindings.Bindings(name="TensorRT", api=FakeTensorRT("11.4"), version="11.4")
    with found.listening() as outer:
        found.logger.log(SimpleNamespace(name="INFO"), "one")
        with found.listening() as inner:
            found.logger.log(SimpleNamespace(name="INTERNAL_ERROR"), "two\nthree")
    found.logger.log(SimpleNamespace(name="ERROR"), "four")
    assert outer.lines == ["one", "two\nthree"]
    assert inner.lines == ["two\nthree"]
    assert inner.first_error == "two"
    assert outer.errors == ["two\nthree"]


def test_what_native_code_prints_is_a_message(capfd: pytest.CaptureFixture[str]) -> None:
    found = bindings.Bindings(name="TensorRT", api=FakeTensorRT("11.4"), version="11.4")
    native = ctypes.CDLL(None)
    with found.listening() as heard:
        native.puts(b"from afar")
        native.fflush(None)
    assert heard.lines == ["from afar"]
    assert capfd.readouterr() == ("", "")
    native.puts(b"as usual")
    native.fflush(None)
    assert capfd.readouterr().out == "as usual\n"


def no_driver() -> Any:
    raise OSError("libcuda.so.1: cannot open shared object file")


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        (no_driver, "there is no NVIDIA driver here"),
        (lambda: FakeDriver(count=0), "the driver finds no NVIDIA GPU."),
        (lambda: FakeDriver(status=100), "the driver finds no NVIDIA GPU (CUDA error 100)."),
    ],
)
def test_no_gpu(driver: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "cuda_driver", driver)
    with pytest.raises(MissingRuntime) as caught:
        bindings.require_gpu()
    assert said in str(caught.value)
    assert "Run it on the machine that the engine is for" in caught.value.remedy


def test_the_gpu_is_asked_before_a_runtime_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "cuda_driver", no_driver)
    fake = FakeTensorRT("8.6")
    found = bindings.Bindings(name="TensorRT", api=fake, version="8.6.1")
    with pytest.raises(MissingRuntime, match="NVIDIA driver"):
        found.runtime()
    assert ("module", "Runtime") not in fake.used


def test_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "cuda_driver", lambda: FakeDriver(capability=(9, 0)))
    assert bindings.require_gpu() == bindings.Device(name="a fake GPU", capability=(9, 0))

"""Loading, running and timing an engine, on FAKES of driver and TensorRT (``fake_gpu``)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpusq_compiler.errors import DataError, FileError, MissingRuntime, ModelError
from gpusq_compiler.trt.engines import cuda
from gpusq_compiler.trt.engines.engine import RUNS_PER_TURN, Engine
from tests.trt import fake_gpu, fakes
from tests.trt.fake_gpu import SECONDS_PER_RUN, VERSIONS, FakeDriver, install, plan

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Array


COUNTS = ("num_io_tensors", "num_optimization_profiles")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    made = FakeDriver()
    install(monkeypatch, made)
    return made


def values(batch: int = 4) -> dict[str, Array]:
    return {"x": np.random.default_rng(0).normal(size=(batch, 8)).astype(np.float32)}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_runs(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver()
    api: Any = install(monkeypatch, driver, version)
    engine = Engine(plan(tmp_path / "m.engine", version=version))
    assert [(s.name, s.dtype.name, s.shape) for s in engine.inputs] == [
        ("x", "float32", (None, 8))
    ]
    assert engine.outputs == ["y"]
    assert engine.typical() == {"x": (8, 8)}
    assert api.plugins == [""]
    feeds = values()
    np.testing.assert_array_equal(engine(feeds)["y"], 2 * feeds["x"])
    engine.close()
    assert not driver.alive


def test_a_turn_replays_one_graph(tmp_path: Path, driver: FakeDriver) -> None:
    engine = Engine(plan(tmp_path / "m.engine"))
    turn = engine.turn(values())
    # One run before the capture, which makes what is made once; the capture runs nothing.
    assert driver.now == SECONDS_PER_RUN
    before = list(driver.calls)
    assert before.count("cuStreamBeginCapture_v2") == 1
    for _ in range(3):
        # The clock of the fake moves with every run, as far as a float of milliseconds shows.
        assert turn() == pytest.approx([SECONDS_PER_RUN] * RUNS_PER_TURN, rel=1e-4)
    taken = driver.calls[len(before) :]
    assert taken.count("cuGraphLaunch") == 3 * RUNS_PER_TURN
    assert taken.count("cuEventRecord") == 3 * (RUNS_PER_TURN + 1)
    assert set(taken) == {
        "cuGraphLaunch", "cuEventRecord", "cuStreamSynchronize", "cuEventElapsedTime"
    }  # fmt: skip
    assert not engine.without_graph


def test_what_cannot_be_captured_is_enqueued_and_said(
    tmp_path: Path, driver: FakeDriver
) -> None:
    engine = Engine(plan(tmp_path / "m.engine", **{"no capture": True}))
    turn = engine.turn(values())
    assert "cuStreamEndCapture failed: fake error 900" in engine.without_graph
    del driver.fail["cuStreamEndCapture"]
    driver.capturing = None
    assert len(turn()) == RUNS_PER_TURN
    assert "cuGraphLaunch" not in driver.calls


def test_an_error_while_capturing_ends_the_capture(tmp_path: Path, driver: FakeDriver) -> None:
    gpu = cuda.Gpu()

    def fails() -> None:
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        gpu.captured(fails)
    assert driver.capturing is None


def test_another_batch_takes_the_place_of_the_first(
    tmp_path: Path, driver: FakeDriver
) -> None:
    engine = Engine(plan(tmp_path / "m.engine"))
    engine.turn(values(1))
    held = len(driver.alive)
    engine.turn(values(32))
    assert len(driver.alive) == held
    feeds = values(2)
    np.testing.assert_array_equal(engine(feeds)["y"], 2 * feeds["x"])


def test_floats_are_cast_to_what_the_engine_reads(tmp_path: Path, driver: FakeDriver) -> None:
    engine = Engine(plan(tmp_path / "m.engine", types={"x": "HALF"}))
    feeds = values()
    # Twice a half is a half, so the fake is exact.
    expected = 2 * feeds["x"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(engine(feeds)["y"], expected)


def test_tensors_on_the_host_stay_there(tmp_path: Path, driver: FakeDriver) -> None:
    engine = Engine(plan(tmp_path / "m.engine", host=["x", "y"]))
    feeds = values()
    np.testing.assert_array_equal(engine(feeds)["y"], 2 * feeds["x"])
    assert "cuMemAlloc_v2" not in driver.calls


def test_the_profile_that_fits_is_taken(tmp_path: Path, driver: FakeDriver) -> None:
    small, large = ([[1, 8]] * 3, [[2, 8], [16, 8], [64, 8]])
    path = plan(tmp_path / "m.engine", profiles=[{"x": small}, {"x": large}])
    engine = Engine(path)
    engine(values(1))
    assert engine._context.active_optimization_profile == 0
    engine(values(64))
    assert engine._context.active_optimization_profile == 1
    with pytest.raises(DataError, match=r"built for x\[1, 8\], not for x\[65, 8\]"):
        engine(values(65))


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ({"version": VERSIONS[0]}, r"TensorRT 10.14.1.48 does not take .*: not compatible"),
        ({"types": {"y": "INT4"}}, r"tensor 'y'.*INT4"),
        ({"vectorized": ["x"]}, r"tensor 'x'.*format that only TensorRT reads"),
    ],
)
def test_engines_that_are_refused(
    described: dict[str, Any], says: str, tmp_path: Path, driver: FakeDriver
) -> None:
    path = plan(tmp_path / "m.engine", **described)
    with pytest.raises(ModelError, match=says):
        Engine(path)
    assert not driver.alive


@pytest.mark.parametrize(
    ("described", "error", "says"),
    [
        ({"data-dependent": True}, ModelError, "output 'y'.*follows from values"),
        ({"no run": True}, ModelError, "does not run it: no reason given"),
        ({"no shape": True}, DataError, "built for x"),
    ],
)
def test_runs_that_are_refused(
    described: dict[str, Any],
    error: type[Exception],
    says: str,
    tmp_path: Path,
    driver: FakeDriver,
) -> None:
    engine = Engine(plan(tmp_path / "m.engine", **described))
    with pytest.raises(error, match=says):
        engine(values())


def test_no_memory(tmp_path: Path, driver: FakeDriver) -> None:
    with pytest.raises(MissingRuntime, match="no memory on the GPU"):
        Engine(plan(tmp_path / "m.engine", **{"too large": True}))
    engine = Engine(plan(tmp_path / "m.engine"))
    driver.fail["cuMemAlloc_v2"] = fake_gpu.OUT_OF_MEMORY
    with pytest.raises(MissingRuntime, match="Fake GPU: the memory of the GPU is full"):
        engine(values())


def test_errors_of_the_driver_are_told(tmp_path: Path, driver: FakeDriver) -> None:
    engine = Engine(plan(tmp_path / "m.engine"))
    driver.fail["cuStreamSynchronize"] = 700
    with pytest.raises(cuda.GpuError, match=r"cuStreamSynchronize failed: fake error 700"):
        engine(values())


def test_host_code_runs_only_where_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api: Any = install(monkeypatch, FakeDriver())
    Engine(plan(tmp_path / "m.engine"))
    Engine(tmp_path / "m.engine", host_code=True)
    assert [runtime.engine_host_code_allowed for runtime in api.runtimes] == [False, True]


def test_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeDriver(devices=0))
    with pytest.raises(MissingRuntime, match="no NVIDIA GPU"):
        Engine(plan(tmp_path / "m.engine"))


def test_an_old_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeDriver(lacks=["cuGraphInstantiateWithFlags"]))
    with pytest.raises(MissingRuntime, match="has no cuGraphInstantiateWithFlags"):
        Engine(plan(tmp_path / "m.engine"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.engine: cannot be read"):
        Engine(tmp_path / "none.engine")


def test_the_gpu_describes_itself(driver: FakeDriver) -> None:
    gpu = cuda.Gpu()
    assert gpu.described() == {"gpu": "Fake GPU", "capability": "9.0", "cuda": "12.9"}
    gpu.close()
    assert not driver.alive


def test_prototypes_are_those_of_the_header() -> None:
    """A handle that does not fit into what is declared would lose its upper half."""
    asked_before = {"cuInit", "cuDeviceGetCount", "cuDeviceGetName", "cuDeviceGetAttribute"}
    assert fake_gpu.HEADER.keys() - cuda.PROTOTYPES.keys() == asked_before
    for name, arguments in cuda.PROTOTYPES.items():
        sizes = [ctypes.sizeof(kind) for kind in arguments]
        assert sizes == [ctypes.sizeof(kind) for kind in fake_gpu.HEADER[name]], name


@pytest.mark.parametrize("version", fakes.VERSIONS)
def test_the_fake_has_nothing_that_a_version_lacks(version: str) -> None:
    """Against the names that were listed from the wheels of each version."""
    used = {
        "ICudaEngine": [*vars(fake_gpu.FakeEngine), *COUNTS],
        "IExecutionContext": [*vars(fake_gpu.FakeContext), "active_optimization_profile"],
        "Runtime": ["deserialize_cuda_engine", "engine_host_code_allowed"],
        "TensorIOMode": ["INPUT", "OUTPUT"],
        "module": ["ILogger", "Runtime", "TensorLocation", "init_libnvinfer_plugins"],
    }
    for kind, names in used.items():
        known = fakes.API[version][kind].split()
        assert {name for name in names if not name.startswith("_")} <= set(known), kind


@pytest.mark.rtx
def test_the_fake_has_nothing_that_the_real_api_lacks() -> None:
    api = pytest.importorskip("tensorrt_rtx")
    pairs = (
        (fake_gpu.FakeEngine, api.ICudaEngine),
        (fake_gpu.FakeContext, api.IExecutionContext),
    )
    for fake, real in pairs:
        for name in vars(fake):
            assert name.startswith("_") or hasattr(real, name), name
    for name in COUNTS:
        assert hasattr(api.ICudaEngine, name)
    for name in ("engine_host_code_allowed", "deserialize_cuda_engine"):
        assert hasattr(api.Runtime, name)
    assert api.TensorIOMode.INPUT
    assert api.TensorLocation.HOST
    assert set(fake_gpu.fake_tensorrt(FakeDriver(), VERSIONS[2]).DataType.__dict__) <= set(
        api.DataType.__members__
    )

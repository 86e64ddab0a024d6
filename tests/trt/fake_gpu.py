"""FAKES of the NVIDIA driver and of TensorRT's runtime, for machines without a GPU.

They check how they are called and compute ``y = 2 x`` in host memory; nothing that they report
was measured. The driver is called through ctypes like the real one, with the prototypes of
cuda.h (12.9) written down here once more, so that a pointer cut to 32 bits shows.
"""

# ruff: noqa: N802, N815  the names are those of cuda.h
from __future__ import annotations

import ctypes
import itertools
import json
import sys
import types
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq_compiler.trt.engines import bindings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pytest

VERSIONS = ("8.6.1", "10.14.1.48", "11.4.0.106")
SUCCESS, INVALID, OUT_OF_MEMORY, NO_DEVICE, NO_CAPTURE = 0, 1, 2, 100, 900
POINTER_OUT, INT_OUT = POINTER(c_void_p), POINTER(c_int)
SECONDS_PER_RUN = 0.004

HEADER: Mapping[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (INT_OUT,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (INT_OUT,),
    "cuDeviceGet": (INT_OUT, c_int),
    "cuDeviceGetName": (c_void_p, c_int, c_int),
    "cuDeviceGetAttribute": (INT_OUT, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER_OUT, c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoD_v2": (c_uint64, c_void_p, c_size_t),
    "cuMemcpyDtoH_v2": (c_void_p, c_uint64, c_size_t),
    "cuStreamCreate": (POINTER_OUT, c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuEventCreate": (POINTER_OUT, c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER_OUT),
    "cuGraphInstantiateWithFlags": (POINTER_OUT, c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
}


class FakeDriver:
    """A FAKE libcuda with one device.

    Attributes:
        fail: Status by function that fails.
        calls: Names of the functions that were called.
        alive: Everything made and not given back.
    """

    def __init__(self, *, devices: int = 1, lacks: Sequence[str] = ()) -> None:
        self.devices = devices
        self.fail: dict[str, int] = {}
        self.calls: list[str] = []
        self.alive: dict[int, Any] = {}
        self.capturing: list[Callable[[], None]] | None = None
        self.now = 0.0
        self._handles = itertools.count(0x7F00_ABCD_0000_0010, 0x10)
        for name, arguments in HEADER.items():
            if name not in lacks:
                setattr(self, name, self._exported(name, arguments))

    def _exported(self, name: str, arguments: Sequence[Any]) -> Any:
        body = getattr(self, f"_{name.removesuffix('_v2')}")

        def function(*given: Any) -> int:
            self.calls.append(name)
            failed = self.fail.get(name)
            return failed if failed is not None else body(*given) or SUCCESS

        return ctypes.CFUNCTYPE(c_int, *arguments)(function)

    def enqueue(self, work: Callable[[], None]) -> None:
        """Run now, or keep for a graph."""
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def _new(self, out: Any, thing: Any) -> None:
        handle = next(self._handles)
        self.alive[handle] = thing
        out[0] = handle

    def _gone(self, handle: int) -> int:
        return SUCCESS if self.alive.pop(handle, None) is not None else INVALID

    def _cuInit(self, flags: int) -> int:
        return SUCCESS if self.devices else NO_DEVICE

    def _cuDriverGetVersion(self, out: Any) -> None:
        out[0] = 12090

    def _cuGetErrorString(self, status: int, out: Any) -> None:
        out[0] = f"fake error {status}".encode()

    def _cuDeviceGetCount(self, out: Any) -> None:
        out[0] = self.devices

    def _cuDeviceGet(self, out: Any, index: int) -> None:
        out[0] = index

    def _cuDeviceGetName(self, out: int, size: int, device: int) -> None:
        ctypes.memmove(out, b"Fake GPU\0", 9)

    def _cuDeviceGetAttribute(self, out: Any, which: int, device: int) -> None:
        out[0] = {75: 9, 76: 0}[which]

    def _cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> None:
        self._new(out, "context")

    def _cuDevicePrimaryCtxRelease(self, device: int) -> int:
        contexts = [handle for handle, thing in self.alive.items() if thing == "context"]
        return self._gone(contexts[-1])

    def _cuCtxSetCurrent(self, context: int) -> int:
        return SUCCESS if self.alive.get(context) == "context" else INVALID

    def _cuMemAlloc(self, out: Any, size: int) -> int:
        if not size:
            return INVALID
        buffer = ctypes.create_string_buffer(size)
        out[0] = ctypes.addressof(buffer)
        self.alive[out[0]] = buffer
        return SUCCESS

    _cuMemFree = _gone

    def _cuMemcpyHtoD(self, address: int, source: int, size: int) -> int:
        return self._copy(address, source, size, device=address)

    def _cuMemcpyDtoH(self, target: int, address: int, size: int) -> int:
        return self._copy(target, address, size, device=address)

    def _copy(self, target: int, source: int, size: int, *, device: int) -> int:
        if len(self.alive.get(device, b"")) < size:
            return INVALID
        ctypes.memmove(target, source, size)
        return SUCCESS

    def _cuStreamCreate(self, out: Any, flags: int) -> None:
        self._new(out, "stream")

    def _cuStreamSynchronize(self, stream: int) -> int:
        return SUCCESS if self.alive.get(stream) == "stream" else INVALID

    _cuStreamDestroy = _gone

    def _cuEventCreate(self, out: Any, flags: int) -> None:
        self._new(out, {"at": None})

    def _cuEventRecord(self, event: int, stream: int) -> int:
        self.alive[event]["at"] = self.now
        return self._cuStreamSynchronize(stream)

    def _cuEventElapsedTime(self, out: Any, first: int, second: int) -> None:
        out[0] = 1000 * (self.alive[second]["at"] - self.alive[first]["at"])

    _cuEventDestroy = _gone

    def _cuStreamBeginCapture(self, stream: int, mode: int) -> int:
        self.capturing = []
        return SUCCESS if mode == 1 else INVALID

    def _cuStreamEndCapture(self, stream: int, out: Any) -> None:
        self._new(out, self.capturing)
        self.capturing = None

    def _cuGraphInstantiateWithFlags(self, out: Any, graph: int, flags: int) -> None:
        self._new(out, list(self.alive[graph]))

    def _cuGraphLaunch(self, graph: int, stream: int) -> int:
        for work in self.alive[graph]:
            work()
        return self._cuStreamSynchronize(stream)

    _cuGraphExecDestroy = _gone
    _cuGraphDestroy = _gone


def plan(path: Path, **described: Any) -> Path:
    """Write the FAKE of an engine: ``y = 2 x`` for x of [batch, 8], batch 1 to 32."""
    content = {
        "version": VERSIONS[1],
        "inputs": {"x": [-1, 8]},
        "outputs": {"y": [-1, 8]},
        "profiles": [{"x": [[1, 8], [8, 8], [32, 8]]}],
        "types": {},
        "host": [],
        "vectorized": [],
        **described,
    }
    path.write_text(json.dumps(content))
    return path


def install(
    monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, version: str = VERSIONS[1]
) -> types.ModuleType:
    """Put the FAKES where the program finds driver and TensorRT."""
    api = fake_tensorrt(driver, version)
    monkeypatch.setitem(sys.modules, "tensorrt", api)
    monkeypatch.setattr(bindings, "cuda_driver", lambda: driver)
    return api


class _Named:
    """A member of an enumeration, which knows its name."""

    def __init__(self, name: str) -> None:
        self.name = name


def _enumeration(*names: str) -> Any:
    return types.SimpleNamespace(**{name: _Named(name) for name in names})


class FakeLogger:
    """A FAKE ILogger."""


class FakeEngine:
    """A FAKE ICudaEngine: only what 8.6, 10 and 11 share is there."""

    def __init__(self, api: Any, driver: FakeDriver, described: dict[str, Any]) -> None:
        self._api = api
        self._driver = driver
        self._described = described
        self._shapes = {**described["inputs"], **described["outputs"]}
        self.num_io_tensors = len(self._shapes)
        self.num_optimization_profiles = len(described["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return str(list(self._shapes)[index])

    def get_tensor_mode(self, name: str) -> Any:
        mode = self._api.TensorIOMode
        return mode.INPUT if name in self._described["inputs"] else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._api.DataType, self._described["types"].get(name, "FLOAT"))

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        return tuple(self._shapes[name])

    def get_tensor_vectorized_dim(self, name: str) -> int:
        return 1 if name in self._described["vectorized"] else -1

    def get_tensor_location(self, name: str) -> Any:
        place = self._api.TensorLocation
        return place.HOST if name in self._described["host"] else place.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Any]:
        return [tuple(shape) for shape in self._described["profiles"][profile_index][name]]

    def create_execution_context(self) -> Any:
        if self._described.get("too large"):
            return None
        return FakeContext(self, self._driver, self._described)


class FakeContext:
    """A FAKE IExecutionContext."""

    def __init__(
        self, engine: FakeEngine, driver: FakeDriver, described: dict[str, Any]
    ) -> None:
        self._engine = engine
        self._driver = driver
        self._described = described
        self._given: dict[str, Sequence[int]] = {}
        self._addresses: dict[str, int] = {}
        self.active_optimization_profile = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.active_optimization_profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self._given[name] = shape
        return not self._described.get("no shape")

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        if name in self._given:
            return self._given[name]
        if self._described.get("data-dependent"):
            return (-1, 8)
        return next(iter(self._given.values()))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._driver.capturing is not None and self._described.get("no capture"):
            self._driver.fail["cuStreamEndCapture"] = NO_CAPTURE
            return True
        if self._described.get("no run"):
            return False
        shape = tuple(self.get_tensor_shape("x"))
        x, y = self._addresses["x"], self._addresses["y"]
        self._driver.enqueue(lambda: self._compute(x, y, shape))
        return self._driver.alive.get(stream_handle) == "stream"

    def _compute(self, x: int, y: int, shape: tuple[int, ...]) -> None:
        kind = self._described["types"].get("x", "FLOAT")
        dtype: np.dtype[Any] = np.dtype({"FLOAT": "f4", "HALF": "f2"}[kind])
        size = int(np.prod(shape)) * dtype.itemsize
        values = np.frombuffer(ctypes.string_at(x, size), dtype)
        result = (2 * values).astype(np.float32).tobytes()
        ctypes.memmove(y, result, len(result))
        self._driver.now += SECONDS_PER_RUN


def fake_tensorrt(driver: FakeDriver, version: str) -> types.ModuleType:
    """A FAKE module ``tensorrt``: what a runtime needs, and nothing that a version lacks."""
    api: Any = types.ModuleType("tensorrt")
    api.__version__ = version
    api.ILogger = FakeLogger
    api.Builder = api.OnnxParser = None
    api.TensorIOMode = _enumeration("NONE", "INPUT", "OUTPUT")
    api.TensorLocation = _enumeration("DEVICE", "HOST")
    shared = ("FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8")
    newer = () if version.startswith("8") else ("BF16", "INT64", "INT4", "FP4")
    api.DataType = _enumeration(*shared, *newer)
    api.plugins = []
    api.init_libnvinfer_plugins = lambda logger, namespace: api.plugins.append(namespace)

    class FakeRuntime:
        """A FAKE Runtime."""

        def __init__(self, logger: Any) -> None:
            self._logger = logger
            self.engine_host_code_allowed = False
            api.runtimes.append(self)

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            described = json.loads(serialized_engine)
            if described["version"] != version:
                told = f"not compatible: expecting {version} got {described['version']}\nmore"
                self._logger.log(_Named("ERROR"), told)
                return None
            return FakeEngine(api, driver, described)

    api.runtimes = []
    api.Runtime = FakeRuntime
    return api  # type: ignore[no-any-return]

"""Memory, streams, events and graphs of a GPU, through the NVIDIA driver alone.

The driver's library is wherever a GPU is and keeps what it exports, so nothing depends on a
CUDA toolkit, its version or another Python package. TensorRT takes these addresses and
streams: both sides use the primary context of the device.
"""

from __future__ import annotations

import contextlib
import ctypes
from ctypes import c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

from gpusq_compiler.errors import GpusqError, MissingRuntime
from gpusq_compiler.trt.engines import bindings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpusq_compiler.runtime.samples import Array

OUT_OF_MEMORY = 2
CAPTURE_IN_THIS_THREAD = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL

# Of the newest form of each function, as cuda.h names it. A stream, event or graph is a
# pointer; an address on the device is a number of 64 bits.
PROTOTYPES: Mapping[str, tuple[Any, ...]] = {
    "cuDriverGetVersion": (c_void_p,),
    "cuGetErrorString": (c_int, c_void_p),
    "cuDeviceGet": (c_void_p, c_int),
    "cuDevicePrimaryCtxRetain": (c_void_p, c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (c_void_p, c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoD_v2": (c_uint64, c_void_p, c_size_t),
    "cuMemcpyDtoH_v2": (c_void_p, c_uint64, c_size_t),
    "cuStreamCreate": (c_void_p, c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuEventCreate": (c_void_p, c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventElapsedTime": (c_void_p, c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, c_void_p),
    "cuGraphInstantiateWithFlags": (c_void_p, c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
}


class GpuError(GpusqError):
    """The driver reports an error; what was asked for did not happen."""


class Gpu:
    """The first GPU that this process sees, and one stream on it.

    What is made here lives until it is freed or the GPU is closed.

    Raises:
        MissingRuntime: There is no driver or no GPU.
    """

    def __init__(self) -> None:
        self.device = bindings.require_gpu()
        self._driver = bindings.cuda_driver()
        self._declare()
        self._closing = contextlib.ExitStack()
        self._freeing: dict[int, Callable[[], None]] = {}
        index = self._made(c_int, "cuDeviceGet", 0)
        self._call("cuCtxSetCurrent", self._made(c_void_p, "cuDevicePrimaryCtxRetain", index))
        self._closing.callback(self._call, "cuDevicePrimaryCtxRelease_v2", index)
        self.stream = self._made(c_void_p, "cuStreamCreate", 0)
        self._closing.callback(self._call, "cuStreamDestroy_v2", self.stream)

    def _declare(self) -> None:
        """Tell ctypes what the functions take: a pointer would be cut to 32 bits without."""
        for name, arguments in PROTOTYPES.items():
            function = getattr(self._driver, name, None)
            if function is None:
                raise MissingRuntime(
                    f"the NVIDIA driver is too old: it has no {name}",
                    where=self.device.name,
                    remedy="Install one for CUDA 11.4 or newer",
                )
            function.argtypes, function.restype = arguments, c_int

    def described(self) -> dict[str, str]:
        """Name, compute capability, and the newest CUDA that the driver serves."""
        version = self._made(c_int, "cuDriverGetVersion")
        return {
            "gpu": self.device.name,
            "capability": ".".join(map(str, self.device.capability)),
            "cuda": f"{version // 1000}.{version % 1000 // 10}",
        }

    def allocate(self, size: int) -> int:
        """The address of so many bytes on the device."""
        address: int = self._made(c_uint64, "cuMemAlloc_v2", max(1, size))
        self._freeing[address] = lambda: self._call("cuMemFree_v2", address)
        return address

    def upload(self, address: int, array: Array) -> None:
        """Copy a contiguous array to the device."""
        self._call("cuMemcpyHtoD_v2", address, array.ctypes.data, array.nbytes)

    def download(self, array: Array, address: int) -> None:
        """Copy from the device into a contiguous array."""
        self._call("cuMemcpyDtoH_v2", array.ctypes.data, address, array.nbytes)

    def event(self) -> int:
        """A new event."""
        event: int = self._made(c_void_p, "cuEventCreate", 0)
        self._freeing[event] = lambda: self._call("cuEventDestroy_v2", event)
        return event

    def record(self, event: int) -> None:
        """Let an event happen when all that was enqueued before is done."""
        self._call("cuEventRecord", event, self.stream)

    def seconds_between(self, first: int, second: int) -> float:
        """Time between two events that have happened."""
        milliseconds: float = self._made(c_float, "cuEventElapsedTime", first, second)
        return milliseconds / 1000

    def captured(self, enqueue: Callable[[], None]) -> int:
        """A graph of everything that a function enqueues; nothing of it runs.

        Raises:
            GpuError: Something in it cannot be captured.
        """
        self._call("cuStreamBeginCapture_v2", self.stream, CAPTURE_IN_THIS_THREAD)
        try:
            enqueue()
        except GpusqError:
            # A capture has to be ended; after an error in it this reports another one.
            with contextlib.suppress(GpuError):
                self._made(c_void_p, "cuStreamEndCapture", self.stream, last=True)
            raise
        graph = self._made(c_void_p, "cuStreamEndCapture", self.stream, last=True)
        try:
            ready: int = self._made(c_void_p, "cuGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        self._freeing[ready] = lambda: self._call("cuGraphExecDestroy", ready)
        return ready

    def launch(self, graph: int) -> None:
        """Enqueue what was captured."""
        self._call("cuGraphLaunch", graph, self.stream)

    def synchronize(self) -> None:
        """Wait until all that was enqueued is done."""
        self._call("cuStreamSynchronize", self.stream)

    def free(self, *made: int) -> None:
        """Give memory, events or graphs back."""
        for handle in made:
            self._freeing.pop(handle)()

    def close(self) -> None:
        """Give everything back."""
        self.free(*list(self._freeing))
        self._closing.close()

    def _made(self, kind: Any, function: str, *arguments: Any, last: bool = False) -> Any:
        """What a function writes through its first argument, or through its last."""
        result = kind()
        place = ctypes.byref(result)
        self._call(function, *((*arguments, place) if last else (place, *arguments)))
        return result.value

    def _call(self, function: str, *arguments: Any) -> None:
        """Call the driver.

        Raises:
            GpuError: It reports an error.
            MissingRuntime: The GPU's memory is full.
        """
        status = getattr(self._driver, function)(*arguments)
        if status == OUT_OF_MEMORY:
            raise MissingRuntime(
                "the memory of the GPU is full",
                where=self.device.name,
                remedy="Take smaller batches, or end what else runs there",
            )
        if status:
            text = c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            reason = (text.value or b"unknown").decode(errors="replace")
            raise GpuError(
                f"{function} failed: {reason} (CUDA error {status})",
                where=self.device.name,
                remedy="Run it again, or look for the GPU's errors in: dmesg",
            )

"""Engines of TensorRT: load, run and time them.

Only what 8.6, 10 and 11 share is used: tensors by name, `execute_async_v3` on a stream.
Buffers stay on the GPU while time is taken; one run is captured as a CUDA graph, and each turn
replays it back to back between events.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from gpusq_compiler.errors import (
    DataError,
    FileError,
    MissingRuntime,
    ModelError,
)
from gpusq_compiler.runtime.session import InputSpec
from gpusq_compiler.trt.engines import bindings
from gpusq_compiler.trt.engines.cuda import Gpu, GpuError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gpusq_compiler.runtime.latency import Turn
    from gpusq_compiler.runtime.samples import Array, Feeds

RUNS_PER_TURN = 20
ENDINGS = (".engine", ".plan")
TYPES: Mapping[str, npt.DTypeLike] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP8": ml_dtypes.float8_e4m3fn,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
    "INT32": np.int32,
    "INT64": np.int64,
}


class Engine:
    """An engine in the memory of the GPU.

    Args:
        path: The file.
        host_code: Whether code for the processor that the file brings along (an engine built
            to be version compatible does) may run.

    Raises:
        MissingRuntime: TensorRT, the driver or a GPU is missing.
        FileError: The file cannot be read.
        ModelError: TensorRT does not take it: another version, another GPU, no engine.
    """

    def __init__(self, path: Path, *, host_code: bool = False) -> None:
        plan = _plan_in(path)
        self.path = path
        self.bindings = bindings.tensorrt()
        self.gpu = Gpu()
        self.without_graph = ""
        self._bound: dict[str, int] = {}
        self._on_host: dict[str, Array] = {}
        self._timing: list[int] = []
        with contextlib.ExitStack() as failing:
            failing.callback(self.gpu.close)
            self._load(plan, host_code=host_code)
            failing.pop_all()

    def _load(self, plan: bytes, *, host_code: bool) -> None:
        # The runtime has to outlive what it reads.
        self._runtime = self.bindings.runtime()
        if host_code:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._read(plan)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise MissingRuntime(
                "no memory on the GPU to run the engine in",
                where=str(self.path),
                remedy="End what else runs there",
            )
        names = map(self._engine.get_tensor_name, range(self._engine.num_io_tensors))
        self._is_input = {name: self._reads(name) for name in names}
        self._dtypes = {name: self._dtype(name) for name in self._is_input}
        self.inputs = tuple(
            InputSpec(name=name, dtype=self._dtypes[name], shape=self._shape(name))
            for name, read in self._is_input.items()
            if read
        )
        self.outputs = [name for name, read in self._is_input.items() if not read]

    def typical(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input for which kernels were chosen."""
        return {spec.name: self._profile(spec, 0)[1] for spec in self.inputs}

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch.

        Raises:
            DataError: The engine was not built for these shapes.
        """
        self._bind(feeds)
        self._execute()
        self.gpu.synchronize()
        return {name: self._fetched(name) for name in self.outputs}

    def turn(self, feeds: Feeds, *, runs: int = RUNS_PER_TURN) -> Turn:
        """Runs on a batch that lies on the GPU already; valid until the next batch is given.

        Raises:
            DataError: The engine was not built for these shapes.
        """
        self._bind(feeds)
        self._execute()  # what is made once is made before the capture
        self.gpu.synchronize()
        start = self._captured()
        events = [self.gpu.event() for _ in range(runs + 1)]
        self._timing += events

        def take() -> list[float]:
            self.gpu.record(events[0])
            for event in events[1:]:
                start()
                self.gpu.record(event)
            self.gpu.synchronize()
            return [self.gpu.seconds_between(*pair) for pair in itertools.pairwise(events)]

        return take

    def close(self) -> None:
        """Give the memory of the GPU back."""
        self._unbind()
        # In this order: TensorRT frees its own while the GPU's context is still there.
        del self._context, self._engine, self._runtime
        self.gpu.close()

    def _read(self, plan: bytes) -> Any:
        register = self.bindings.member("init_libnvinfer_plugins")
        with self.bindings.listening() as heard:
            if register is not None:
                register(self.bindings.logger, "")
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ModelError(
                f"{self.bindings} does not take the engine: "
                f"{heard.first_error or 'no reason given'}",
                where=str(self.path),
                remedy="Build it on this GPU with this version",
            )
        return engine

    def _reads(self, name: str) -> bool:
        mode = self._engine.get_tensor_mode(name)
        return bool(mode == self.bindings.member("TensorIOMode.INPUT"))

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in TYPES or self._engine.get_tensor_vectorized_dim(name) != -1:
            raise ModelError(
                f"it holds {kind} in a format that only TensorRT reads",
                where=f"{self.path}, tensor '{name}'",
                remedy="Build the engine with plain inputs and outputs",
            )
        return np.dtype(TYPES[kind])

    def _shape(self, name: str) -> tuple[int | None, ...]:
        return tuple(None if d < 0 else d for d in self._engine.get_tensor_shape(name))

    def _profile(self, spec: InputSpec, index: int) -> list[tuple[int, ...]]:
        """Smallest, usual and largest shape of an input."""
        if None not in spec.shape:
            return [tuple(d for d in spec.shape if d is not None)] * 3
        shapes = self._engine.get_tensor_profile_shape(spec.name, index)
        return [tuple(shape) for shape in shapes]

    def _bind(self, feeds: Feeds) -> None:
        """Put a batch on the GPU and reserve room for the outputs."""
        self._unbind()
        arrays = {
            spec.name: np.asarray(feeds[spec.name], spec.dtype, order="C")
            for spec in self.inputs
        }
        self._choose_profile(arrays)
        for name, array in arrays.items():
            if not self._context.set_input_shape(name, array.shape):
                raise self._unfit(arrays)
            self._place(name, array)
        for name in self.outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise ModelError(
                    "its size follows from values, not from shapes",
                    where=f"{self.path}, output '{name}'",
                    remedy="Cut the model before it: gpusq extract",
                )
            self._place(name, np.empty(shape, self._dtypes[name]))

    def _place(self, name: str, array: Array) -> None:
        """Give a tensor its memory: on the GPU, or here where the engine wants it so."""
        host = self.bindings.member("TensorLocation.HOST")
        if self._engine.get_tensor_location(name) == host:
            self._on_host[name] = array
            address = array.ctypes.data
        else:
            address = self._bound[name] = self.gpu.allocate(array.nbytes)
            if self._is_input[name]:
                self.gpu.upload(address, array)
        self._context.set_tensor_address(name, address)

    def _fetched(self, name: str) -> Array:
        if name in self._on_host:
            found: Array = self._on_host[name].copy()
            return found
        shape = tuple(self._context.get_tensor_shape(name))
        array: Array = np.empty(shape, self._dtypes[name])
        self.gpu.download(array, self._bound[name])
        return array

    def _choose_profile(self, arrays: dict[str, Array]) -> None:
        """Take the first optimization profile that allows all shapes."""
        for index in range(self._engine.num_optimization_profiles):
            if all(self._fits(spec, arrays[spec.name], index) for spec in self.inputs):
                if index != self._context.active_optimization_profile:
                    self._context.set_optimization_profile_async(index, self.gpu.stream)
                    self.gpu.synchronize()
                return
        raise self._unfit(arrays)

    def _unfit(self, arrays: dict[str, Array]) -> DataError:
        asked = ", ".join(f"{name}{list(array.shape)}" for name, array in arrays.items())
        ranges = ", ".join(self._range(spec) for spec in self.inputs)
        return DataError(
            f"the engine was built for {ranges}, not for {asked}",
            where=str(self.path),
            remedy="Ask for what it was built for, or build it again with other --max-shapes",
        )

    def _fits(self, spec: InputSpec, array: Array, index: int) -> bool:
        low, _, high = self._profile(spec, index)
        return len(low) == array.ndim and all(
            a <= size <= b for a, size, b in zip(low, array.shape, high, strict=True)
        )

    def _range(self, spec: InputSpec) -> str:
        low, _, high = self._profile(spec, 0)
        return f"{spec.name}{list(low)}" + (f" to {list(high)}" if high != low else "")

    def _execute(self) -> None:
        """Enqueue one run.

        Raises:
            ModelError: TensorRT refuses to.
        """
        with self.bindings.listening() as heard:
            accepted = self._context.execute_async_v3(self.gpu.stream)
        if not accepted:
            raise ModelError(
                f"{self.bindings} does not run it: {heard.first_error or 'no reason given'}",
                where=str(self.path),
                remedy="Build it again with this version",
            )

    def _captured(self) -> Callable[[], None]:
        """What starts a run: a replay, or the run itself where it cannot be captured."""
        try:
            graph = self.gpu.captured(self._execute)
        except (GpuError, ModelError) as error:
            self.without_graph = error.what
            return self._execute
        self._timing.append(graph)
        return lambda: self.gpu.launch(graph)

    def _unbind(self) -> None:
        self.gpu.free(*self._timing, *self._bound.values())
        self._timing, self._bound, self._on_host = [], {}, {}


def _plan_in(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="Check the path"
        ) from error

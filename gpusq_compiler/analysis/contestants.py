"""Files that can be timed side by side: ONNX files and TensorRT engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import onnx_ir as ir

from gpusq_compiler.errors import DataError, ModelError
from gpusq_compiler.ir import claims, io
from gpusq_compiler.runtime import smi
from gpusq_compiler.runtime.latency import on_host
from gpusq_compiler.runtime.session import Session, input_specs, without_batch
from gpusq_compiler.trt.engines.engine import ENDINGS, Engine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gpusq_compiler.runtime.latency import Turn
    from gpusq_compiler.runtime.samples import Array, Feeds
    from gpusq_compiler.runtime.session import InputSpec

STATE = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "temperature.gpu")
"""What nvidia-smi is asked for: time depends on it."""


class Contestant(Protocol):
    """A file that was loaded to be timed.

    Attributes:
        path: The file.
        size: Bytes, data files included.
        runs_on: What runs it, as ``ONNX Runtime CPU``.
        inputs: What it wants.
    """

    path: Path
    size: int
    runs_on: str
    inputs: tuple[InputSpec, ...]

    def remarks(self) -> tuple[str, ...]:
        """What a reader of its figures has to know."""
        ...

    def machine(self) -> Mapping[str, str]:
        """What it runs on besides the processor, as it is now."""
        ...

    def typical(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of inputs that it was made for, where it knows any."""
        ...

    def turn(self, feeds: Feeds) -> Turn:
        """Runs of one batch; valid until the next batch is given."""
        ...

    def __call__(self, feeds: Feeds) -> Mapping[str, Array]:
        """Run one batch."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class OnnxFile:
    """An ONNX file in a session of ONNX Runtime.

    Raises:
        FileError: The file cannot be read.
        ModelError: It is no model, or the runtime refuses it.
        MissingRuntime: The device is not there.
    """

    def __init__(self, path: Path, *, threads: int | None, device: str) -> None:
        self.path = path
        self.model = io.load(path)
        self.size = io.source_size(self.model)
        self.inputs = input_specs(self.model)
        self._device = device
        self.runs_on = f"ONNX Runtime {device.upper()}"
        try:
            self._session = Session(self.model, threads=threads, device=device)
        except ModelError as error:
            raise ModelError(error.what, where=str(path), remedy=error.remedy) from error

    def remarks(self) -> tuple[str, ...]:
        """What ONNX Runtime makes of the pattern and of FP16."""
        found = []
        if any(True for _ in claims.sparse_values(self.model)):
            found.append("ONNX Runtime makes no use of its 2:4 pattern")
        if self._device == "cpu" and _has_half(self.model):
            found.append(
                "FP16, which ONNX Runtime's CPU mostly casts to FP32 and back at every run, "
                "zeros more slowly: no guide to a GPU"
            )
        if self._device == "cuda":
            found.append("times hold the copies between processor and GPU")
        return tuple(found)

    def machine(self) -> Mapping[str, str]:
        """The GPU, if it is used."""
        return {} if self._device == "cpu" else _gpu()

    def typical(self) -> Mapping[str, tuple[int, ...]]:
        """None: a file says nothing about its free dimensions."""
        return {}

    def turn(self, feeds: Feeds) -> Turn:
        """One run by the clock of the host."""
        return on_host(self._session, feeds)

    def __call__(self, feeds: Feeds) -> Mapping[str, Array]:
        """Run one batch.

        Raises:
            DataError: It cannot.
        """
        try:
            return self._session(feeds)
        except DataError as error:
            raise DataError(error.what, where=str(self.path), remedy=error.remedy) from error

    def close(self) -> None:
        """Forget the session."""
        del self._session


class EngineFile:
    """A TensorRT engine on the GPU.

    Raises:
        FileError: The file cannot be read.
        ModelError: It is no engine for the installed TensorRT and this GPU.
        MissingRuntime: TensorRT or the GPU is missing.
    """

    def __init__(self, path: Path, *, host_code: bool) -> None:
        self._engine = Engine(path, host_code=host_code)
        self.path = path
        self.size = path.stat().st_size
        self.inputs = self._engine.inputs
        self.runs_on = f"{self._engine.bindings} on {self._engine.gpu.device.name}"

    def remarks(self) -> tuple[str, ...]:
        """Said where time includes what the processor does for each run."""
        reason = self._engine.without_graph
        return (f"timed without a CUDA graph: {reason}",) if reason else ()

    def machine(self) -> Mapping[str, str]:
        """The GPU and its driver."""
        return {**self._engine.gpu.described(), **_gpu()}

    def typical(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes for which kernels were chosen."""
        return self._engine.typical()

    def turn(self, feeds: Feeds) -> Turn:
        """Replays of one run, by the clock of the GPU."""
        return self._engine.turn(feeds)

    def __call__(self, feeds: Feeds) -> Mapping[str, Array]:
        """Run one batch."""
        return self._engine(feeds)

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._engine.close()


def opened(
    path: Path, *, threads: int | None = None, device: str = "cpu", host_code: bool = False
) -> Contestant:
    """Load a file by its ending: ``.engine`` and ``.plan`` are engines."""
    if path.suffix.lower() in ENDINGS:
        return EngineFile(path, host_code=host_code)
    return OnnxFile(path, threads=threads, device=device)


def stand_in(contestant: Contestant) -> ir.Model:
    """A model with the inputs of a contestant and nothing else, for one that is no ONNX."""
    whole = without_batch(contestant.inputs)
    typical = contestant.typical()
    inputs = []
    for spec in contestant.inputs:
        sizes = list(typical.get(spec.name, spec.shape))
        if spec.name not in whole:
            sizes[0] = spec.shape[0]
        inputs.append(
            ir.Value(
                name=spec.name,
                type=ir.TensorType(ir.DataType.from_numpy(spec.dtype)),
                shape=ir.Shape(sizes),
            )
        )
    return ir.Model(ir.Graph(inputs, [], nodes=[], opset_imports={"": 17}), ir_version=9)


def _has_half(model: ir.Model) -> bool:
    return any(
        value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT16
        for graph in model.graphs()
        for value in graph.initializers.values()
    )


def _gpu() -> dict[str, str]:
    """Clocks and power of the first GPU, as they are right after the runs."""
    values = smi.asked(*STATE)
    return dict(zip(STATE, values[0], strict=True)) if values else {}

"""An engine here, or what builds it where it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.errors import MissingRuntime
from gpusq_compiler.ir import io
from gpusq_compiler.trt.engines import bindings, ondevice
from gpusq_compiler.trt.engines.build import build
from gpusq_compiler.trt.engines.options import EngineOptions
from gpusq_compiler.trt.engines.outputs import require
from gpusq_compiler.trt.legality.rules import NEWEST, Version
from gpusq_compiler.trt.legality.taken import as_taken, differs

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.events import Events
    from gpusq_compiler.trt.engines.build import EngineInfo


def deploy(
    model: Path,
    engine: Path,
    options: EngineOptions | None = None,
    *,
    version: Version = NEWEST,
    events: Events | None = None,
) -> EngineInfo:
    """Write what builds the engine on its device, then build it here.

    Args:
        model: An ONNX file, by whatever tool.
        engine: Where the engine goes; the other files go beside it.
        options: How it is built.
        version: Of the TensorRT on the device.
        events: Receives what a person should read.

    Raises:
        MissingRuntime: There is no TensorRT or no GPU; the line names the script that was
            written.
        GpusqError: As for `build`.
    """
    options = options or EngineOptions()
    written = prepare(model, engine, options, version)
    try:
        return build(model, engine, options, events=events)
    except MissingRuntime as error:
        raise MissingRuntime(
            f"no engine was built, {error.what}",
            where=str(engine),
            remedy=f"{model} is ready, and {written.script} builds it on its device. "
            f"{error.remedy}",
        ) from error


def prepare(
    model: Path, engine: Path, options: EngineOptions, version: Version = NEWEST
) -> ondevice.DeviceFiles:
    """Write what builds an engine on its device.

    Beside a file in ONNX Runtime's form goes one that TensorRT takes, which they name.

    Raises:
        OptionError: The shapes do not fit the model.
        FileError: Something cannot be read or written.
    """
    loaded = as_taken(io.load(model))
    profiles = require(loaded, engine, options)
    if differs(loaded):
        model = io.save(loaded, engine.with_name(f"{engine.stem}.tensorrt.onnx")).path
    order = ondevice.Order.of(
        loaded, model=model, engine=engine, options=options, profiles=profiles, version=version
    )
    return ondevice.write(order)


def absent() -> str:
    """What is missing here for building engines; empty where nothing is."""
    try:
        bindings.tensorrt()
        bindings.require_gpu()
    except MissingRuntime as error:
        return error.what
    return ""

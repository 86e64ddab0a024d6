"""From an ONNX file to an engine on the GPU of this machine, with the evidence of what it is.

The engine appears whole or not at all, and beside it a JSON file with everything about it and
the builder's log.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from typing import TYPE_CHECKING, Any

from gpusq_compiler.errors import FileError, PostconditionError
from gpusq_compiler.ir import io
from gpusq_compiler.runtime.events import Silent
from gpusq_compiler.trt.engines import bindings, enginelayers, evidence
from gpusq_compiler.trt.engines.names import NodeNames
from gpusq_compiler.trt.engines.network import flags_of, is_typed, network_of
from gpusq_compiler.trt.engines.options import EngineOptions
from gpusq_compiler.trt.engines.outputs import info_file, log_file, require
from gpusq_compiler.trt.legality.taken import as_taken

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx_ir as ir

    from gpusq_compiler.runtime.events import Events
    from gpusq_compiler.trt.engines.bindings import Bindings, Device
    from gpusq_compiler.trt.engines.enginelayers import EngineLayer
    from gpusq_compiler.trt.engines.evidence import Evidence
    from gpusq_compiler.trt.engines.profiles import Profile

FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """Everything about an engine that was built.

    Attributes:
        path: The engine.
        model: What it was built from.
        size: Its bytes.
        seconds: How long the builder took.
        tensorrt: Which one built it.
        device: The GPU, which it is for.
        capability: The GPU's compute capability.
        typed: Whether types came from the model; else flags allowed them.
        flags: The builder flags.
        profiles: Shapes of inputs with free dimensions.
        layers: The layers of the engine.
        evidence: Which products of the model run how.
    """

    path: Path
    model: Path
    size: int
    seconds: float
    tensorrt: str
    device: str
    capability: str
    typed: bool
    flags: tuple[str, ...]
    profiles: tuple[Profile, ...]
    layers: tuple[EngineLayer, ...]
    evidence: Evidence

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        found = dataclasses.asdict(self)
        found |= {"path": str(self.path), "model": str(self.model)}
        found["layers"] = [
            {**layer, "nodes": sorted(layer["nodes"])} for layer in found["layers"]
        ]
        found["precisions"] = dict(self.evidence.precisions)
        return {"format": FORMAT, **found}


def build(
    model: Path,
    engine: Path,
    options: EngineOptions | None = None,
    *,
    events: Events | None = None,
) -> EngineInfo:
    """Build an engine, with a JSON file about it and the builder's log beside it.

    Args:
        model: An ONNX file, by whatever tool.
        engine: Where the engine goes.
        options: How it is built.
        events: Receives what a person should read.

    Returns:
        What is known of the engine, also which layers run on sparse kernels.

    Raises:
        MissingRuntime: There is no TensorRT or no GPU.
        ModelError: TensorRT refuses the model.
        OptionError: Options do not fit the model or this version.
        FileError: Something cannot be read or written.
    """
    options = options or EngineOptions()
    events = events or Silent()
    loaded = as_taken(io.load(model))
    profiles = require(loaded, engine, options)
    trt = bindings.tensorrt()
    device = bindings.require_gpu()
    events.note(f"{trt} builds for {device.name}, which can take minutes")
    with trt.listening() as heard:
        network = network_of(trt, model, loaded, options, profiles)
        cache = _timing_cache(trt, device, loaded, options)
        stale = cache is not None and not _take_cache(network.config, cache)
        started = time.perf_counter()
        plan = network.serialized()
        seconds = time.perf_counter() - started
        description = _inspected(trt, plan, options, profiles)
    if stale:
        events.note(f"{cache} was not made by this TensorRT and GPU and is made anew")
    names = NodeNames(loaded, heard.lines)
    layers = enginelayers.from_inspector(description, names)
    found = evidence.measured(loaded, heard.lines, layers, names, trt.rules)
    info = EngineInfo(
        path=engine,
        model=model,
        size=plan.nbytes,
        seconds=round(seconds, 3),
        tensorrt=str(trt),
        device=device.name,
        capability=".".join(map(str, device.capability)),
        typed=is_typed(trt),
        flags=flags_of(trt, loaded, options),
        profiles=profiles,
        layers=layers,
        evidence=evidence.without_sparse_cores(found, device.capability),
    )
    io.write_whole(engine, memoryview(plan), option="-o")
    text = json.dumps(info.as_json(), indent=1) + "\n"
    io.write_whole(info_file(engine), text.encode(), option="-o")
    io.write_whole(log_file(engine), "\n".join(heard.lines).encode(), option="-o")
    if cache is not None:
        timed = memoryview(network.config.get_timing_cache().serialize())
        io.write_whole(cache, timed, option="--timing-cache")
    return info


def _timing_cache(
    trt: Bindings, device: Device, model: ir.Model, options: EngineOptions
) -> Path | None:
    """The cache of this version, GPU and set of flags; timings under other flags mislead."""
    if options.timing_cache is None:
        return None
    parts = (str(trt), device.name, options.hardware, *flags_of(trt, model, options))
    stem = re.sub(r"[^a-z0-9.]+", "-", " ".join(parts).lower())
    return options.timing_cache / f"{stem}.timing"


def _take_cache(config: Any, path: Path) -> bool:
    """Let the builder use a cache; whether it takes what the file holds."""
    try:
        stored = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise FileError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="Remove it"
        ) from error
    for content in (stored, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return content == stored
    return False


def _inspected(
    trt: Bindings, plan: Any, options: EngineOptions, profiles: Sequence[Profile]
) -> str:
    """What the engine says of its layers; with free shapes it needs to be told some."""
    runtime = trt.runtime()
    if options.version_compatible:
        runtime.engine_host_code_allowed = True
    with trt.listening() as heard:
        engine = runtime.deserialize_cuda_engine(plan)
        context = engine.create_execution_context() if engine is not None else None
    if engine is None or context is None:
        what = "loaded" if engine is None else "given memory"
        raise PostconditionError(
            f"{trt} built an engine that cannot be {what} here: {heard.first_error}",
            where="engine",
            remedy="Free memory of the GPU, or choose smaller --max-shapes",
        )
    for one in profiles:
        context.set_input_shape(one.name, one.typical)
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.api.LayerInformationFormat.JSON))

"""What builds the same engine on the device that it is for, without this program there.

model.engine.trtexec.sh    one line for trtexec, which comes with TensorRT
model.engine.ort.json      the same for ONNX Runtime: session options and providers
model.engine.ort.py        a session made of that file

Paths in them are relative to their folder, so the folder can be copied.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from typing import TYPE_CHECKING, NamedTuple

from gpusq_compiler.ir import io
from gpusq_compiler.trt.engines.network import has_half, has_quantizers
from gpusq_compiler.trt.engines.profiles import text_of
from gpusq_compiler.trt.legality.rules import NEWEST, Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir

    from gpusq_compiler.trt.engines.options import EngineOptions
    from gpusq_compiler.trt.engines.profiles import Profile, Shape

LAST_UNTYPED = 8
HARDWARE = {"ampere+": "ampere+", "same-compute-capability": "sameComputeCapability"}
"""What trtexec calls compatibility with other GPUs."""

SCRIPT = """\
#!/bin/sh
# Builds {engine} with trtexec of TensorRT {version}, on the device that it is for.
# Which layers are sparse: gpusq build MODEL --log {engine}.log --layers {engine}.layers.json
cd -- "$(dirname -- "$0")" || exit 1
{command} > {log} 2>&1 && exit 0
tail -n 5 {log} >&2
exit 1
"""

SNIPPET = '''\
"""Runs a model with ONNX Runtime on TensorRT, which builds the engine at the first run."""

import json
import os
import pathlib

import onnxruntime

os.chdir(pathlib.Path(__file__).parent)  # paths in the file are relative to it
config = json.loads(pathlib.Path({config!r}).read_text(encoding="utf-8"))
options = onnxruntime.SessionOptions()
level = config["graph_optimization_level"]
options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
providers = [tuple(p) if isinstance(p, list) else p for p in config["providers"]]
if providers[0][0] not in onnxruntime.get_available_providers():
    raise SystemExit("this ONNX Runtime has no TensorRT: pip install onnxruntime-gpu")
session = onnxruntime.InferenceSession(config["model"], options, providers=providers)
print(session.get_providers())
'''


class DeviceFiles(NamedTuple):
    """Where the three files are."""

    script: Path
    config: Path
    snippet: Path

    @classmethod
    def beside(cls, engine: Path) -> DeviceFiles:
        """Their places for an engine."""
        return cls(
            script=engine.with_name(f"{engine.name}.trtexec.sh"),
            config=engine.with_name(f"{engine.name}.ort.json"),
            snippet=engine.with_name(f"{engine.name}.ort.py"),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """One engine to be built somewhere.

    Attributes:
        model: The ONNX file.
        engine: What shall be built.
        options: How.
        profiles: Shapes of inputs with free dimensions.
        version: Of the TensorRT on the device.
        half: Whether the model has half precision tensors.
        quantized: Whether it has quantizers.
    """

    model: Path
    engine: Path
    options: EngineOptions
    profiles: Sequence[Profile]
    version: Version
    half: bool
    quantized: bool

    @classmethod
    def of(
        cls,
        loaded: ir.Model,
        *,
        model: Path,
        engine: Path,
        options: EngineOptions,
        profiles: Sequence[Profile],
        version: Version = NEWEST,
    ) -> Order:
        """For a model, which is also given as it was read."""
        return cls(
            model=model,
            engine=engine,
            options=options,
            profiles=profiles,
            version=version,
            half=has_half(loaded),
            quantized=has_quantizers(loaded),
        )

    def from_there(self, path: Path) -> str:
        """A path as the engine's folder sees it; a bare name would be searched elsewhere."""
        relative = os.path.relpath(path.resolve(), self.engine.resolve().parent)
        return relative if os.sep in relative else f".{os.sep}{relative}"


def write(order: Order) -> DeviceFiles:
    """Write the three files, each whole or not at all.

    Raises:
        FileError: One cannot be written.
    """
    files = DeviceFiles.beside(order.engine)
    texts = (
        script(order),
        json.dumps(session_config(order), indent=1) + "\n",
        SNIPPET.format(config=files.config.name),
    )
    for path, text in zip(files, texts, strict=True):
        io.write_whole(path, text.encode(), option="-o")
    return files


def script(order: Order) -> str:
    """A shell script around the line for trtexec."""
    log = shlex.quote(f"./{order.engine.name}.log")
    return SCRIPT.format(
        engine=" ".join(order.engine.name.split()),
        version="10 or newer" if order.version.major > LAST_UNTYPED else order.version,
        command=shlex.join(trtexec(order)),
        log=log,
    )


def trtexec(order: Order) -> tuple[str, ...]:
    """The words of the line for trtexec, paths as the engine's folder sees them."""
    return ("trtexec", *_trtexec_options(order))


def _trtexec_options(order: Order) -> Iterator[str]:
    options, name = order.options, order.engine.name
    yield f"--onnx={order.from_there(order.model)}"
    yield f"--saveEngine=./{name}"
    if options.sparse_weights:
        yield "--sparsity=enable"
    yield from _types(order)
    for option, shapes in _shapes(order.profiles).items():
        yield f"--{option}Shapes={text_of(shapes)}"
    if options.workspace is not None:
        yield f"--memPoolSize=workspace:{options.workspace}"
    if options.timing_cache is not None:
        yield f"--timingCacheFile=./{name}.timing"
    if options.hardware in HARDWARE:
        yield f"--hardwareCompatibilityLevel={HARDWARE[options.hardware]}"
    if options.optimization_level is not None:
        yield f"--builderOptimizationLevel={options.optimization_level}"
    yield from _plugins(order)
    yield "--profilingVerbosity=detailed"
    yield f"--exportLayerInfo=./{name}.layers.json"
    yield "--skipInference"
    yield "--verbose"


def _types(order: Order) -> Iterator[str]:
    """TensorRT 11 knows nothing else than typed networks, and takes the word all the same."""
    if order.version.major > LAST_UNTYPED:
        yield "--stronglyTyped"
        return
    for name, chosen, needed in (
        ("fp16", order.options.fp16, order.half),
        ("int8", order.options.int8, order.quantized),
    ):
        if needed if chosen is None else chosen:
            yield f"--{name}"


def _plugins(order: Order) -> Iterator[str]:
    """In a version compatible engine plugins travel along."""
    along = order.options.version_compatible
    if along:
        yield "--versionCompatible"
    for path in map(order.from_there, order.options.plugins):
        if along:
            yield f"--setPluginsToSerialize={path}"
        yield f"--{'dynamicPlugins' if along else 'staticPlugins'}={path}"


def _shapes(profiles: Sequence[Profile]) -> Mapping[str, Mapping[str, Shape]]:
    if not profiles:
        return {}
    return {
        "min": {one.name: one.smallest for one in profiles},
        "opt": {one.name: one.typical for one in profiles},
        "max": {one.name: one.largest for one in profiles},
    }


def session_config(order: Order) -> dict[str, object]:
    """What an ONNX Runtime session is to be told.

    Optimizations of ONNX Runtime are off: they would fuse quantizers away before TensorRT
    sees them. Its provider chooses types by flags in every version.
    """
    return {
        "model": order.from_there(order.model),
        "graph_optimization_level": "ORT_DISABLE_ALL",
        "providers": [
            ["TensorrtExecutionProvider", _provider_options(order)],
            "CUDAExecutionProvider",
        ],
    }


def _provider_options(order: Order) -> dict[str, object]:
    options = order.options
    found: dict[str, object] = {
        "trt_sparsity_enable": options.sparse_weights,
        "trt_int8_enable": order.quantized if options.int8 is None else options.int8,
        "trt_fp16_enable": order.half if options.fp16 is None else options.fp16,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": f"./{order.engine.name}.cache",
        "trt_detailed_build_log": True,
    }
    for option, shapes in _shapes(order.profiles).items():
        found[f"trt_profile_{option}_shapes"] = text_of(shapes)
    if options.workspace is not None:
        found["trt_max_workspace_size"] = options.workspace << 20
    if options.timing_cache is not None:
        found |= {"trt_timing_cache_enable": True}
    if options.hardware == "ampere+":
        found["trt_engine_hw_compatible"] = True
    if options.optimization_level is not None:
        found["trt_builder_optimization_level"] = options.optimization_level
    if options.plugins:
        found["trt_extra_plugin_lib_paths"] = ";".join(map(order.from_there, options.plugins))
    return found

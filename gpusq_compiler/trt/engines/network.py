"""From an ONNX file to a network and its settings, for whichever version is installed.

Networks have types of their own where the version knows such networks; else flags allow what
the model needs. Everything that a version may lack is asked for by name.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from gpusq_compiler.errors import FileError, ModelError, OptionError
from gpusq_compiler.trt.engines.options import HARDWARE
from gpusq_compiler.trt.engines.refusals import builder_refusal, parser_refusal, reason_of
from gpusq_compiler.trt.legality import taken
from gpusq_compiler.trt.legality.constants import PAIR, initializers, nodes_of, prepared

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gpusq_compiler.trt.engines.bindings import Bindings
    from gpusq_compiler.trt.engines.options import EngineOptions
    from gpusq_compiler.trt.engines.profiles import Profile

HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network that is ready to be built, with all that has to live as long as it does.

    Attributes:
        bindings: The TensorRT that made it.
        builder: What builds it.
        definition: The layers.
        parser: What made the layers; some versions fail when it dies first.
        config: How it is built.
        path: The file that it came from.
        model: The same file, read.
        folder: Where what the parser read is, if that is another file.
    """

    bindings: Bindings
    builder: Any
    definition: Any
    parser: Any
    config: Any
    path: Path
    model: ir.Model
    folder: taken.Folder | None = None

    def serialized(self) -> Any:
        """The engine's bytes, as a buffer.

        Raises:
            ModelError: The builder gives up.
        """
        with self.bindings.listening() as heard:
            plan = self.builder.build_serialized_network(self.definition, self.config)
        if plan is None:
            raise builder_refusal(self.bindings, heard, self.path, self.model)
        return plan


def network_of(
    bindings: Bindings,
    path: Path,
    model: ir.Model,
    options: EngineOptions,
    profiles: Sequence[Profile],
) -> Network:
    """Parse a file and set everything that the options say.

    Args:
        bindings: The TensorRT to use.
        path: The file, which TensorRT reads itself, data files included.
        model: The same file, read, and as TensorRT takes it (`taken.as_taken`).
        options: How to build.
        profiles: Shapes of inputs with free dimensions.

    Raises:
        ModelError: The parser refuses the model.
        OptionError: This version cannot do what the options say.
        FileError: A plugin cannot be loaded.
    """
    builder = bindings.builder()
    _load_plugins(bindings, builder, options)
    definition = builder.create_network(_creation_flags(bindings))
    parser = bindings.api.OnnxParser(definition, bindings.logger)
    file, folder = taken.file_of(model, path)
    if not parser.parse_from_file(str(file)):
        raise parser_refusal(bindings, parser, path, model)
    _require_no_shape_inputs(definition)
    config = builder.create_builder_config()
    _configure(bindings, config, model, options)
    if profiles:
        profile = builder.create_optimization_profile()
        for one in profiles:
            profile.set_shape(one.name, one.smallest, one.typical, one.largest)
        config.add_optimization_profile(profile)
    return Network(
        bindings=bindings,
        builder=builder,
        definition=definition,
        parser=parser,
        config=config,
        path=path,
        model=model,
        folder=folder,
    )


def is_typed(bindings: Bindings) -> bool:
    """Whether networks of this version have types of their own."""
    return bindings.member("NetworkDefinitionCreationFlag.STRONGLY_TYPED") is not None


def flags_of(bindings: Bindings, model: ir.Model, options: EngineOptions) -> tuple[str, ...]:
    """Names of the builder flags that an engine is built with.

    Raises:
        OptionError: This version has no flag for what an option asks.
    """
    wanted = {
        "SPARSE_WEIGHTS": options.sparse_weights,
        "VERSION_COMPATIBLE": options.version_compatible,
    }
    if is_typed(bindings):
        for name, option in (("--fp16", options.fp16), ("--int8", options.int8)):
            if option is not None:
                raise OptionError(
                    f"{bindings} takes types from the model",
                    where=name,
                    remedy="Leave it out: the option is for TensorRT 8.6",
                )
    else:
        wanted["FP16"] = has_half(model) if options.fp16 is None else options.fp16
        wanted["INT8"] = has_quantizers(model) if options.int8 is None else options.int8
    chosen = tuple(name for name, on in wanted.items() if on)
    lacking = [name for name in chosen if bindings.member(f"BuilderFlag.{name}") is None]
    if lacking:
        raise OptionError(f"{bindings} has no builder flag {lacking[0]}", where="options")
    return chosen


def has_half(model: ir.Model) -> bool:
    """Whether any tensor of a model is in half precision."""
    clone = prepared(model)
    nodes = ir.traversal.RecursiveGraphIterator(clone.graph)
    computed = (value for node in nodes for value in node.outputs)
    known = (*clone.graph.inputs, *initializers(clone), *computed)
    return any(value.dtype in HALF for value in known)


def has_quantizers(model: ir.Model) -> bool:
    """Whether a model has QuantizeLinear or DequantizeLinear."""
    return any(True for _ in nodes_of(model, *PAIR))


def _creation_flags(bindings: Bindings) -> int:
    """Typed where there is such a thing, with explicit batches where these are a choice."""
    flags = 0
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        member = bindings.member(f"NetworkDefinitionCreationFlag.{name}")
        if member is not None:
            flags |= 1 << int(member)
    return flags


def _configure(
    bindings: Bindings, config: Any, model: ir.Model, options: EngineOptions
) -> None:
    config.profiling_verbosity = bindings.api.ProfilingVerbosity.DETAILED
    for name in flags_of(bindings, model, options):
        config.set_flag(bindings.member(f"BuilderFlag.{name}"))
    if options.workspace is not None:
        pool = bindings.api.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, options.workspace << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware != "none":
        level = bindings.member(f"HardwareCompatibilityLevel.{HARDWARE[options.hardware]}")
        if level is None:
            raise OptionError(
                f"{bindings} knows no compatibility '{options.hardware}'",
                where="--hardware",
                remedy="Choose another, or use a newer TensorRT",
            )
        config.hardware_compatibility_level = level
    if options.plugins and options.version_compatible:
        config.plugins_to_serialize = [str(plugin) for plugin in options.plugins]


def _load_plugins(bindings: Bindings, builder: Any, options: EngineOptions) -> None:
    bindings.api.init_libnvinfer_plugins(bindings.logger, "")
    for plugin in options.plugins:
        with bindings.listening() as heard:
            handle = builder.get_plugin_registry().load_library(str(plugin))
        if handle is None:
            raise FileError(
                f"{bindings} cannot load the plugins: {reason_of(heard)}",
                where=str(plugin),
                remedy="Give a library that was made for this version",
            )


def _require_no_shape_inputs(definition: Any) -> None:
    """An input whose values are shapes would need values, not shapes, in its profile."""
    for index in range(definition.num_inputs):
        tensor = definition.get_input(index)
        if tensor.is_shape_tensor:
            raise ModelError(
                "its values are used as a shape, for which no range can be given here",
                where=f"input '{tensor.name}'",
                remedy="Make it a constant of the model",
            )

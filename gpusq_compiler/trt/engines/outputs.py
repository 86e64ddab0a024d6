"""The files of an engine, and what can be wrong before TensorRT is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.errors import PreconditionError
from gpusq_compiler.ir import io
from gpusq_compiler.trt.engines.ondevice import DeviceFiles
from gpusq_compiler.trt.engines.profiles import profiles_of

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from gpusq_compiler.trt.engines.options import EngineOptions
    from gpusq_compiler.trt.engines.profiles import Profile


def require(model: ir.Model, engine: Path, options: EngineOptions) -> tuple[Profile, ...]:
    """Everything that can be wrong before TensorRT is asked; answers the profiles.

    Raises:
        PreconditionError: The model's file is packed.
        FileError: The engine cannot be written, or a file that the options name is missing.
        OptionError: The shapes do not fit the model.
    """
    require_unpacked(model)
    for file in files_of(engine):
        io.require_writable(file, model)
    options.require_files()
    return profiles_of(model, options.shapes)


def require_unpacked(model: ir.Model) -> None:
    """TensorRT reads the file itself, and its parser knows no BitShift.

    Raises:
        PreconditionError: The model's file is packed.
    """
    if io.packed_weights(model):
        raise PreconditionError(
            "its file is packed, which TensorRT's parser does not read",
            where="model",
            remedy="Unpack it first: gpusq unpack MODEL",
        )


def files_of(engine: Path) -> tuple[Path, ...]:
    """Every file that is written for an engine, itself first."""
    beside = DeviceFiles.beside(engine)
    return engine, info_file(engine), log_file(engine), *beside


def info_file(engine: Path) -> Path:
    """The JSON file beside an engine."""
    return engine.with_name(f"{engine.name}.json")


def log_file(engine: Path) -> Path:
    """The builder's log beside an engine, called as the script for the device calls it."""
    return engine.with_name(f"{engine.name}.log")

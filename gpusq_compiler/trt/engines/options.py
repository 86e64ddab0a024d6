"""What a user chooses about an engine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, TypeAlias

from gpusq_compiler.errors import FileError, OptionError
from gpusq_compiler.trt.engines.profiles import Shapes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Hardware: TypeAlias = Literal["none", "ampere+", "same-compute-capability"]
HARDWARE: Mapping[str, str] = {
    "none": "NONE",
    "ampere+": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}
"""Compatibility with other GPUs, and what TensorRT's API calls it."""

HIGHEST_LEVEL = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is built.

    Attributes:
        sparse_weights: Whether sparse tactics are tried.
        shapes: Of inputs with free dimensions.
        timing_cache: A folder that keeps what was timed, by version, GPU and options.
        workspace: MiB that a layer may use; None leaves the limit to TensorRT.
        hardware: On which other GPUs the engine shall run.
        version_compatible: Whether newer TensorRT versions shall load it.
        optimization_level: 0 to 5, how long the builder searches; None leaves it to TensorRT.
        plugins: Libraries of plugins that the model needs.
        fp16: For versions whose networks have no types of their own (8.6): whether layers may
            run in half precision. None: where the model has such tensors.
        int8: Likewise. None: where the model has quantizers.
    """

    sparse_weights: bool = True
    shapes: Shapes = Shapes()
    timing_cache: Path | None = None
    workspace: int | None = None
    hardware: Hardware = "none"
    version_compatible: bool = False
    optimization_level: int | None = None
    plugins: tuple[Path, ...] = ()
    fp16: bool | None = None
    int8: bool | None = None

    def __post_init__(self) -> None:
        """Refuse values that no version of TensorRT takes."""
        if self.hardware not in HARDWARE:
            raise OptionError(
                f"'{self.hardware}' is not known",
                where="--hardware",
                remedy=f"Known: {', '.join(HARDWARE)}",
            )
        if self.workspace is not None and self.workspace < 1:
            raise OptionError(
                f"{self.workspace} MiB are no room to work in",
                where="--workspace",
                remedy="Give a number above 0, or leave the option out",
            )
        level = self.optimization_level
        if level is not None and not 0 <= level <= HIGHEST_LEVEL:
            raise OptionError(
                f"{level} is no optimization level",
                where="--optimization-level",
                remedy=f"Give one from 0 to {HIGHEST_LEVEL}, or leave the option out",
            )

    def require_files(self) -> None:
        """What it names must be there.

        Raises:
            FileError: A plugin is not, or the cache is no folder.
        """
        for plugin in self.plugins:
            if not plugin.is_file():
                raise FileError(
                    "there is no such library", where=str(plugin), remedy="Check --plugin"
                )
        cache = self.timing_cache
        if cache is not None and not cache.is_dir():
            raise FileError(
                "there is no such folder",
                where=str(cache),
                remedy="Make it, or choose another with --timing-cache",
            )

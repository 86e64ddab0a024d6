"""Evidence from a build on another machine: the log and the layers that trtexec wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.errors import DataError, FileError, GpusqError
from gpusq_compiler.ir import io
from gpusq_compiler.trt.engines import enginelayers, evidence
from gpusq_compiler.trt.engines.names import NodeNames
from gpusq_compiler.trt.legality.rules import NEWEST, Version
from gpusq_compiler.trt.legality.taken import as_taken

if TYPE_CHECKING:
    from pathlib import Path


def evidence_of(
    model: Path, log: Path, layers: Path | None = None, version: Version = NEWEST
) -> evidence.Evidence:
    """What a log says of the layers of a model.

    Args:
        model: The ONNX file that was built there.
        log: Of ``trtexec --verbose``, or of `build.build`.
        layers: What ``--exportLayerInfo`` wrote.
        version: Of the TensorRT there.

    Raises:
        FileError: A file cannot be read.
        DataError: Log and layers say nothing.
    """
    loaded = as_taken(io.load(model))
    lines = _text(log).splitlines()
    names = NodeNames(loaded, lines)
    engine: tuple[enginelayers.EngineLayer, ...] = ()
    if layers is not None:
        try:
            engine = enginelayers.from_inspector(_text(layers), names)
        except GpusqError as error:
            raise DataError(error.what, where=str(layers), remedy=error.remedy) from error
    found = evidence.measured(loaded, lines, engine, names, version)
    if not found.pairs and not engine:
        raise DataError(
            "nothing in it is about sparsity",
            where=str(log),
            remedy="Build with trtexec --sparsity=enable --verbose",
        )
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FileError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="Check the path"
        ) from error

"""Files that `freeze` wrote for ONNX Runtime, as TensorRT takes them.

Their activations are uint8 and their biases int32, which TensorRT's parser refuses. What asks
TensorRT, or says what it would do, looks at a repaired copy of them; the file stays.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

import onnx_ir as ir

from gpusq_compiler.ir import claims, io, query
from gpusq_compiler.trt.legality.constants import code_type
from gpusq_compiler.trt.legality.repair import repair

REPAIRED = "gpusq.repaired"


class Folder:
    """A folder that is there as long as this object is.

    Attributes:
        path: Where it is.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="gpusq-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def as_taken(model: ir.Model) -> ir.Model:
    """The model itself, or a repaired copy where it is in ONNX Runtime's form."""
    if not _is_formed(model):
        return model
    copy = repair(model).model
    copy.meta.update({**model.meta, REPAIRED: True})
    return copy


def differs(model: ir.Model) -> bool:
    """Whether a model is such a copy, so that its file is not what TensorRT takes."""
    return bool(model.meta.get(REPAIRED))


def file_of(model: ir.Model, path: Path) -> tuple[Path, Folder | None]:
    """The file that TensorRT reads, and the folder that it lives in where that is not its own.

    Args:
        model: As `as_taken` gave it.
        path: Its own file.
    """
    if not differs(model):
        return path, None
    folder = Folder()
    return io.save(model, folder.path / path.name).path, folder


def _is_formed(model: ir.Model) -> bool:
    return any(
        claims.PASS in node.metadata_props
        and query.is_op(node, "QuantizeLinear")
        and code_type(node) == ir.DataType.UINT8
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
    )

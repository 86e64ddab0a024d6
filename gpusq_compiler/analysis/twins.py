"""The four twins of a compile: dense or sparse, float or INT8.

Each is compared with the one that differs from it in a single thing: what sparsity gains is
dense INT8 over sparse INT8, never FP16 over sparse INT8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.errors import FileError
from gpusq_compiler.trt.engines.engine import ENDINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DENSE_INT8, SPARSE_INT8 = "dense-int8", "sparse-int8"
FLOATS = ("fp16", "bf16", "fp32")
NAMES = (
    *(f"dense-{kind}" for kind in FLOATS),
    DENSE_INT8,
    *(f"sparse-{kind}" for kind in FLOATS),
)
"""What a file beside the sparse INT8 one may be called, in the order of the table."""
COMPILED = ".gpusq"


def against(twin: str, twins: Sequence[str]) -> int | None:
    """Which one a twin is compared with, as an index; None where it is not there.

    Args:
        twin: ``sparse-int8`` is compared with ``dense-int8``, ``sparse-fp16`` with
            ``dense-fp16``, ``dense-int8`` with the dense float one.
        twins: Those that are there.
    """
    kind, _, dtype = twin.partition("-")
    others = [f"dense-{dtype}"] if kind == "sparse" else []
    if twin == DENSE_INT8:
        others = [f"dense-{one}" for one in FLOATS]
    return next((twins.index(other) for other in others if other in twins), None)


def twins_of(sparse: Path, folder: Path) -> Mapping[str, Path]:
    """The files by twin, in the order of the table; those that are not there are left out.

    They are called ``<stem>.dense-int8.onnx`` and so on, with the stem of the sparse INT8 file
    or what stands there before ``.gpusq``, and end as that file does.

    Args:
        sparse: The sparse INT8 file.
        folder: Where the others are.

    Raises:
        FileError: There are none.
    """
    stem = sparse.stem.removesuffix(f".{SPARSE_INT8}")
    stems = dict.fromkeys((stem, stem.removesuffix(COMPILED)))
    endings = ENDINGS if sparse.suffix.lower() in ENDINGS else (sparse.suffix,)
    found = {}
    for twin in NAMES:
        names = [f"{one}.{twin}{ending}" for one in stems for ending in endings]
        there = [folder / name for name in names if (folder / name).is_file()]
        if there:
            found[twin] = there[0]
    if not found:
        raise FileError(
            f"holds no twin of {sparse.name}",
            where=str(folder),
            remedy=f"One would be called {stem}.{DENSE_INT8}{endings[0]}: "
            "gpusq-compile ... --target tensorrt --twins DIR",
        )
    return {**found, SPARSE_INT8: sparse}

"""The four twins of a compile: dense or sparse, FP16 or INT8.

Each is compared with the one that differs from it in a single thing: what sparsity gains is
dense INT8 over sparse INT8, never FP16 over sparse INT8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.errors import FileError
from gpusq_compiler.trt.engine import ENDINGS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DENSE_FP16, DENSE_INT8 = "dense-fp16", "dense-int8"
SPARSE_FP16, SPARSE_INT8 = "sparse-fp16", "sparse-int8"

AGAINST = {
    DENSE_FP16: None,
    DENSE_INT8: DENSE_FP16,
    SPARSE_FP16: DENSE_FP16,
    SPARSE_INT8: DENSE_INT8,
}
"""What each twin is compared with, in the order of the table."""

COMPILED = ".gpusq"


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
    for twin in AGAINST:
        names = [f"{stem}.{twin}{ending}" for stem in stems for ending in endings]
        there = [folder / name for name in names if (folder / name).is_file()]
        if twin == SPARSE_INT8:
            found[twin] = sparse
        elif there:
            found[twin] = there[0]
    if len(found) == 1:
        wanted = [f"{list(stems)[-1]}.{twin}{endings[0]}" for twin in AGAINST]
        raise FileError(
            f"holds no twin of {sparse.name}",
            where=str(folder),
            remedy=f"They would be called {', '.join(wanted[:3])}",
        )
    return found

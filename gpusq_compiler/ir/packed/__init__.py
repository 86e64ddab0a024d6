"""Packed weights: a form for files that every runtime unpacks by itself.

    positions ▶ BitShift ▶ Mod ▶ Cast ─┐
        zeros (one for each shape) ────┼▶ ScatterElements ▶ Reshape ──▶ the weight's old name
                                 kept ─┘

All of it is constant, so ONNX Runtime computes a weight once, when it loads the file. The
value that layers read stays the same object, with its name and its claims; a node computes it
now. `form` says what the constants are, `writing` and `reading` change graphs.
"""

from gpusq_compiler.ir.packed.chain import AUTHOR
from gpusq_compiler.ir.packed.form import Packed, pack, packed_bytes
from gpusq_compiler.ir.packed.reading import packed_values, read, unpack
from gpusq_compiler.ir.packed.writing import store

__all__ = [
    "AUTHOR",
    "Packed",
    "pack",
    "packed_bytes",
    "packed_values",
    "read",
    "store",
    "unpack",
]

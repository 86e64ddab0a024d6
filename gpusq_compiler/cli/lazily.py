"""Parts of other packages that are loaded when they are first used, for most runs never do.

onnx_ir imports SymPy for arithmetic with named dimensions, onnxscript all operators of ONNX's
reference for folding: a third of the time in which a verb starts. Python's own lazy loader
puts them off; whoever imports the package gets everything at once.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

LATER = frozenset({"sympy", "onnx_ir._symbolic_shapes", "onnx.reference.ops"})


class Later:
    """Finds the modules of `LATER` where they are, with a loader that waits."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module as Python finds it; None for all others."""
        if name not in LATER:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def import_lazily() -> None:
    """From now on; what is imported already stays as it is."""
    if Later not in sys.meta_path:
        sys.meta_path.insert(0, Later)

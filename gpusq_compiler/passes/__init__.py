"""Passes and what carries them: contract, facts, pipeline, registry.

``from gpusq_compiler.passes import Prune`` loads that pass alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpusq_compiler.passes.adapters import ForOnnxIr, IrPass, SurgeonPass
    from gpusq_compiler.passes.canonicalize import Canonicalize
    from gpusq_compiler.passes.distill import Distill
    from gpusq_compiler.passes.freeze import Freeze
    from gpusq_compiler.passes.lower import Lower
    from gpusq_compiler.passes.pack import Pack
    from gpusq_compiler.passes.prune import Prune
    from gpusq_compiler.passes.qat import Qat
    from gpusq_compiler.passes.quantize import Quantize

__all__ = [
    "Canonicalize",
    "Prune",
    "Distill",
    "Quantize",
    "Qat",
    "Freeze",
    "Lower",
    "Pack",
    "SurgeonPass",
    "IrPass",
    "ForOnnxIr",
]

_ADAPTERS = ("SurgeonPass", "IrPass", "ForOnnxIr")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'gpusq_compiler.passes' has no attribute '{name}'")
    home = "adapters" if name in _ADAPTERS else name.lower()
    return getattr(importlib.import_module(f"gpusq_compiler.passes.{home}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]

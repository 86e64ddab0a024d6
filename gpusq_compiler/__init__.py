"""gpusq-compiler: from any ONNX file to a proven 2:4 sparse INT8 one.

    from gpusq_compiler import compile_model

    report = compile_model("model.onnx", passes="prune,qat", data="samples.npz")
    print(report.output.path)

``compile_model`` goes from file to file. One pass on a model in memory is a call, too:
``gpusq_compiler.passes.prune.Prune()(model)`` for an ``onnx.ModelProto`` or an
``onnx_ir.Model``. ``Pass``, ``PassResult``, ``Finding``, ``Fact`` and ``Context`` are what a
pass of your own needs, ``load`` and ``save`` read and write models, ``plan_of`` and
``Pipeline`` run passes step by step.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str

    from gpusq_compiler.compile import compile_model
    from gpusq_compiler.context import open_context
    from gpusq_compiler.errors import GpusqError
    from gpusq_compiler.ir.io import load, save
    from gpusq_compiler.passes.base import Context, Fact, Finding, Pass, PassResult
    from gpusq_compiler.passes.pipeline import Pipeline
    from gpusq_compiler.recipe import Overrides, plan_of

__all__ = [
    "compile_model",
    "load",
    "save",
    "Pipeline",
    "Pass",
    "PassResult",
    "Finding",
    "Fact",
    "Context",
    "open_context",
    "Overrides",
    "plan_of",
    "GpusqError",
]

_HOMES = {
    "compile_model": "compile",
    "load": "ir.io",
    "save": "ir.io",
    "Pipeline": "passes.pipeline",
    "Pass": "passes.base",
    "PassResult": "passes.base",
    "Finding": "passes.base",
    "Fact": "passes.base",
    "Context": "passes.base",
    "open_context": "context",
    "Overrides": "recipe",
    "plan_of": "recipe",
    "GpusqError": "errors",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'gpusq_compiler' has no attribute '{name}'")
    return getattr(importlib.import_module(f"gpusq_compiler.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__, "__version__"]


def _version() -> str:
    """Of the installed package; a checkout also runs where it is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version("gpusq-compiler")
    except importlib.metadata.PackageNotFoundError:
        return "a checkout, not installed"

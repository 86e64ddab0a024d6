"""Passes in another language: GraphSurgeon's or onnx_ir's as ours, and ours as onnx_ir's."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from typing import TYPE_CHECKING, final

import onnx_ir as ir

from gpusq_compiler.errors import OptionError, PassBug, first_line
from gpusq_compiler.ir import packed
from gpusq_compiler.ir.changes import Snapshot
from gpusq_compiler.ir.surgeon import surgery
from gpusq_compiler.passes.base import Pass, PassResult
from gpusq_compiler.passes.pipeline import Pipeline, standing_alone

if TYPE_CHECKING:
    from gpusq_compiler.ir.surgeon import Graph
    from gpusq_compiler.passes.base import Context


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurgeonPass(Pass):
    """Base of a pass that edits a GraphSurgeon graph.

    Structure may be changed freely; values are readable only for constants of at most 1 KiB
    in types of numpy's own.
    """

    @abc.abstractmethod
    def operate(self, graph: Graph, ctx: Context) -> PassResult:
        """Edit the ``onnx_graphsurgeon.Graph`` in place; nodes may be left in any order."""

    @final
    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Operate, remove what is unused, sort, and carry it over to the model."""
        with surgery(model, author=self.name) as graph:
            return self.operate(graph, ctx)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IrPass(Pass):
    """Base of a pass that is one of onnx_ir's, with our checks and options."""

    @abc.abstractmethod
    def step(self) -> ir.passes.InPlacePass:
        """The onnx_ir pass that these options stand for."""

    @final
    def wants_samples(self) -> bool:
        """Never: onnx_ir's passes see the model alone."""
        return False

    @final
    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Run it and look at what it changed.

        Raises:
            PassBug: It failed.
        """
        del ctx
        before = Snapshot(model)
        try:
            self.step()(model)
        except ir.passes.PassError as error:
            raise PassBug(f"failed: {first_line(error)}", where=self.name) from error
        changes = before.until(Snapshot(model))
        return PassResult(changed=(*changes.nodes, *changes.tensors, *changes.interface))


class ForOnnxIr(ir.passes.InPlacePass):
    """Our passes as one step of an ``onnx_ir.passes.Sequential``, with all their checks.

    Args:
        steps: In the order in which they run.
        ctx: Samples, teacher, trainer for those that want some; default: none of them.
    """

    def __init__(self, *steps: Pass, ctx: Context | None = None) -> None:
        if not steps:
            raise OptionError("takes at least one pass", where="ForOnnxIr")
        self._pipeline = Pipeline(passes=steps)
        self._ctx = ctx

    def __str__(self) -> str:
        return f"gpusq {', '.join(step.name for step in self._pipeline.passes)}"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run them on the model, in place; packed weights are unpacked before.

        Raises:
            GpusqError: Any error of a pass. The model may be half changed then.
        """
        before = Snapshot(model)
        packed.unpack(model)
        with contextlib.ExitStack() as stack:
            self._pipeline.run(model, self._ctx or stack.enter_context(standing_alone()))
        return ir.passes.PassResult(model, modified=bool(before.until(Snapshot(model))))

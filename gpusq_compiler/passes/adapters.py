"""Passes written in another language: GraphSurgeon's, or that of onnx_ir."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, final

import onnx_ir as ir

from gpusq_compiler.errors import PassBug, first_line
from gpusq_compiler.ir.changes import Snapshot
from gpusq_compiler.ir.surgeon import surgery
from gpusq_compiler.passes.base import Pass, PassResult

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

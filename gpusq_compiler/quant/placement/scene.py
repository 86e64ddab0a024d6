"""What placement rules look at: the graph, the layers to quantize, the options."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from gpusq_compiler.ir import query
from gpusq_compiler.quant.placement.topology import (
    LINEAR,
    end_of,
    is_computed,
    is_never_negative,
    readers_of,
)
from gpusq_compiler.quant.scheme import QuantScheme

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.quant.placement.sites import Reader


@dataclasses.dataclass(frozen=True, kw_only=True)
class Join:
    """A residual Add that runs inside a convolution: ``conv(...) + skip``.

    Attributes:
        add: The Add.
        main: What the convolution gives to it.
        skip: The other input.
    """

    add: ir.Node
    main: ir.Value
    skip: ir.Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A graph as rules see it.

    Attributes:
        graph: The main graph; bodies of If and Loop have only their layers quantized.
        layers: Uses of weights that are to be quantized, in graph order.
        weights: Integer type of weights.
        activations: Integer type of activations.
        attention: Whether products of activations in attention are quantized.
        unsigned: Whether what is never negative gets codes from 0 to 255.
    """

    graph: ir.Graph
    layers: tuple[query.WeightUse, ...]
    weights: str = "int8"
    activations: str = "int8"
    attention: Literal["all", "none"] = "all"
    unsigned: bool = False

    @property
    def activation(self) -> QuantScheme:
        """The quantizer of activations of either sign."""
        return QuantScheme(dtype=self.activations)

    def scheme_of(self, value: ir.Value) -> QuantScheme:
        """The quantizer of an activation."""
        if self.unsigned and is_never_negative(value):
            return QuantScheme(dtype=f"u{self.activations}")
        return self.activation

    @cached_property
    def ends(self) -> dict[ir.Node, ir.Value]:
        """The last tensor of every layer's epilogue."""
        inner = (use.node for use in self.layers if use.node.graph is self.graph)
        return {node: end_of(node.outputs[0]) for node in inner}

    @cached_property
    def nodes(self) -> frozenset[ir.Node]:
        """The nodes of the layers."""
        return frozenset(use.node for use in self.layers)

    @cached_property
    def joins(self) -> dict[ir.Node, Join]:
        """Residual Adds that fuse into a convolution, which has only bias and norm before.

        Where both inputs are convolutions, the one at the end of the longer path takes it.
        """
        found: dict[ir.Node, Join] = {}
        for node in self.ends:
            if not query.is_op(node, "Conv", "ConvTranspose"):
                continue
            main = end_of(node.outputs[0], LINEAR)
            add, index = _only_reader(main)
            skip = None if add is None else add.inputs[1 - index]
            if add is None or skip is None or skip is main or not is_computed(skip):
                continue
            rival = found.get(add)
            if rival is None or self._depth(main) > self._depth(rival.main):
                found[add] = Join(add=add, main=main, skip=skip)
        return found

    @cached_property
    def fused(self) -> frozenset[ir.Value]:
        """Outputs of convolutions that exist only inside a fused residual Add."""
        return frozenset(join.main for join in self.joins.values())

    def _depth(self, value: ir.Value) -> int:
        producer = value.producer()
        return 0 if producer is None else self._depths.get(producer, 0)

    @cached_property
    def _depths(self) -> dict[ir.Node, int]:
        """Nodes on the longest path to each node of the main graph."""
        depths: dict[ir.Node, int] = {}
        for node in self.graph:
            above = (read.producer() for read in node.inputs if read is not None)
            depths[node] = 1 + max(
                (depths.get(p, 0) for p in above if p is not None), default=0
            )
        return depths


def _only_reader(value: ir.Value) -> tuple[ir.Node | None, int]:
    """The Add that alone reads a tensor."""
    readers: tuple[Reader, ...] = () if value.is_graph_output() else readers_of(value)
    if len(readers) != 1 or not query.is_op(readers[0][0], "Add"):
        return None, 0
    node, index = readers[0]
    return (node, index) if node.graph is value.graph else (None, 0)

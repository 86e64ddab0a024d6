"""What stays float32 when the rest of a model becomes half precision, and why.

Every rule answers nodes with a reason. A node that stays float32 reads and writes float32;
casts stand where a neighbour does not. Rules about values hold for bfloat16 only as far as
its precision is concerned: its range is that of float32.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import query
from gpusq_compiler.trt.half import norms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

END = 65504.0
"""The largest number of float16."""

LARGEST = 1e4
"""Magnitude on samples above which a tensor stays float32: float16 ends at 65504, so what is
below keeps room for six times what was seen."""

SMALLEST_NORMAL = 2.0**-14
"""Of float16. A number below it, such as an epsilon, loses its digits or becomes 0. In what is
only added, as most tensors of parameters are, that is lost beside the rest."""

DIVISORS = (("Div", 1), ("BatchNormalization", 4))
"""What is divided by: operator and input."""

LONGEST_ROW = {ir.DataType.FLOAT16: 1 << 11, ir.DataType.BFLOAT16: 1 << 8}
"""Up to this many ones a type counts without an error: the sum of a longer Softmax row, added
up in that type, would stand still."""

SUMS_OF_SQUARES = (
    "GlobalLpPool", "LpNormalization", "LpPool", "ReduceL2", "ReduceLogSumExp",
    "ReduceSumSquare",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """A node that stays float32.

    Attributes:
        node: Of the main graph.
        rule: Short name.
        where: The node, or the tensor that is the reason.
        reason: One sentence.
    """

    node: ir.Node
    rule: str
    where: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight:
    """A model and what was seen of it.

    Attributes:
        graph: The main graph.
        kind: The half precision that the rest becomes.
        opset: Of the default domain.
        largest: Largest magnitude of tensors on samples, by name.
        rows: Longest row of every Softmax on samples, by node.
    """

    graph: ir.Graph
    kind: ir.DataType
    opset: int
    largest: Mapping[str, float]
    rows: Mapping[str, int]

    @property
    def narrow_range(self) -> bool:
        """Whether the half precision ends far below float32."""
        return self.kind == ir.DataType.FLOAT16


def kept(sight: Sight) -> list[Kept]:
    """Every node that stays float32, with its first reason, in graph order."""
    found: dict[ir.Node, Kept] = {}
    for rule in RULES:
        for one in rule(sight):
            found.setdefault(one.node, one)
    order = {node: index for index, node in enumerate(sight.graph)}
    return sorted(found.values(), key=lambda one: order[one.node])


def _norms(sight: Sight) -> Iterator[Kept]:
    """Statistics of norms: squares and sums of many values, then a small difference."""
    for node in sight.graph:
        inside = norms.computes_in_float(node, sight.opset)
        if query.is_op(node, *norms.OPERATORS) and not inside:
            yield _named(node, "norm", f"{node.op_type} takes statistics of many values")
    for norm in norms.written_out(sight.graph):
        for node in norm:
            yield _named(node, "norm", "is part of a norm that is written out")


def _sums_of_squares(sight: Sight) -> Iterator[Kept]:
    for node in sight.graph:
        if query.is_op(node, *SUMS_OF_SQUARES):
            yield _named(node, "sum-of-squares", f"{node.op_type} adds up squares or powers")


def _long_rows(sight: Sight) -> Iterator[Kept]:
    longest = LONGEST_ROW[sight.kind]
    for node in sight.graph:
        row = sight.rows.get(node.name or "", 0)
        if row > longest:
            name = sight.kind.name.lower()
            reason = f"a row of {row} is longer than the {longest} that {name} counts exactly"
            yield _named(node, "long-softmax", reason)


def _constants(sight: Sight) -> Iterator[Kept]:
    """Constants that half precision does not hold; scales of quantizers are judged apart."""
    if not sight.narrow_range:
        return
    for value in sight.graph.initializers.values():
        reason = _misfit(value)
        for node, index in value.uses() if reason else ():
            scale = query.is_op(node, *query.QUANTIZERS) and index == 1
            if node.graph is sight.graph and not scale:
                name = value.name or ""
                yield Kept(node=node, rule="constant", where=name, reason=reason)


def _misfit(value: ir.Value) -> str:
    """Why float16 does not hold a constant; empty if it does."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or not tensor.size:
        return ""
    array, uses = np.abs(tensor.numpy()), value.uses()
    array = array[np.isfinite(array)]
    largest = float(array.max(initial=0.0))
    if largest > END:
        return f"holds {largest:g}, and float16 ends at {END:g}"
    divides = any(query.is_op(node, op) and i == j for op, j in DIVISORS for node, i in uses)
    if 0 < largest < SMALLEST_NORMAL and (tensor.size == 1 or divides):
        return f"holds {largest:g}, and float16 loses digits below {SMALLEST_NORMAL:.1e}"
    return ""


def _large(sight: Sight) -> Iterator[Kept]:
    """Tensors that came near the end of float16: who writes and who reads them."""
    values = [*sight.graph.inputs, *(v for node in sight.graph for v in node.outputs)]
    for value in values if sight.narrow_range else ():
        largest = sight.largest.get(value.name or "", 0.0)
        if largest <= LARGEST:
            continue
        seen = f"{largest:.6g}" if math.isfinite(largest) else "a value that is not finite"
        reason = f"reached {seen} on samples, above {LARGEST:g}"
        around = [node for node, _ in value.uses() if node.graph is sight.graph]
        producer = value.producer()
        for node in around if producer is None else (producer, *around):
            yield Kept(node=node, rule="large", where=value.name or "", reason=reason)


def _untyped(sight: Sight) -> Iterator[Kept]:
    """Nodes around something whose type is not known, or which is no tensor."""
    for node in sight.graph:
        values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name]
        unknown = [v for v in values if not isinstance(v.type, ir.TensorType)]
        if unknown:
            reason = f"'{unknown[0].name}' is not known to be a tensor"
            yield _named(node, "unknown-type", reason)


def _named(node: ir.Node, rule: str, reason: str) -> Kept:
    return Kept(node=node, rule=rule, where=node.name or "", reason=reason)


RULES: tuple[Callable[[Sight], Iterator[Kept]], ...] = (
    _norms,
    _sums_of_squares,
    _long_rows,
    _constants,
    _large,
    _untyped,
)

"""Norms, as one operator or written out in primitives.

x ─▶ ReduceMean ─▶ Sub ─▶ Pow(2) ─▶ ReduceMean ─▶ Add(eps) ─▶ Sqrt ─▶ Div ─▶ gain, bias
x ───────────────▶   └─────────────────────────────────────────────▶
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.ir import query
from gpusq_compiler.quant.placement.topology import is_channelwise, is_computed
from gpusq_compiler.trt.legality.constants import known

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATORS = (
    "GroupNormalization", "InstanceNormalization", "LayerNormalization",
    "MeanVarianceNormalization", "RMSNormalization",
)  # fmt: skip
STASHING = {"GroupNormalization": 21, "LayerNormalization": 17, "RMSNormalization": 23}
"""Operators with an attribute for the type of their statistics, and since which opset."""
SUMS = ("ReduceMean", "ReduceSum", "ReduceSumSquare")
_LONGEST = 6


def computes_in_float(node: ir.Node, opset: int) -> bool:
    """Whether an operator takes its statistics in float32 whatever the type of its input.

    TensorRT's importer does as ``stash_type`` says, whose default is float32.
    """
    stash = query.int_attribute(node, "stash_type", int(ir.DataType.FLOAT))
    since = STASHING.get(node.op_type)
    return since is not None and opset >= since and stash == ir.DataType.FLOAT


def float_inside(graph: ir.Graph, opset: int) -> Iterator[ir.Node]:
    """Norms that take half precision and compute in float32."""
    for node in graph:
        if query.is_op(node, *OPERATORS) and computes_in_float(node, opset):
            yield node


def written_out(graph: ir.Graph) -> Iterator[list[ir.Node]]:
    """The nodes of every norm that is written out, gain and bias included."""
    for node in graph:
        if _is_root(node):
            above = _statistics(node)
            if above is not None:
                yield [*above, node, *_below(node)]


def _is_root(node: ir.Node) -> bool:
    if query.is_op(node, "Sqrt"):
        return True
    exponent = known(node.inputs[1]) if query.is_op(node, "Pow") else None
    return exponent is not None and exponent.size == 1 and abs(float(exponent.item())) == 0.5


def _statistics(root: ir.Node) -> list[ir.Node] | None:
    """From the mean, where there is one, to the epsilon; None if no squares are added up."""
    found: list[ir.Node] = []
    node = _producer(root.inputs[0])
    while query.is_op(node, "Add", "Clip", "Div", "Max", "Mul") and len(found) < _LONGEST:
        assert node is not None
        computed = [read for read in node.inputs if is_computed(read) and read is not None]
        if len(computed) != 1:
            return None
        found.append(node)
        node = computed[0].producer()
    if node is None or not query.is_op(node, *SUMS):
        return None
    found.append(node)
    square = node if node.op_type == "ReduceSumSquare" else _producer(node.inputs[0])
    if square is None or not _squares(square):
        return None
    return list(dict.fromkeys((*found, square, *_centring(_producer(square.inputs[0])))))


def _squares(node: ir.Node) -> bool:
    if query.is_op(node, "Mul"):
        return node.inputs[0] is node.inputs[1]
    exponent = known(node.inputs[1]) if query.is_op(node, "Pow") else None
    square = exponent is not None and exponent.size == 1 and float(exponent.item()) == 2
    return square or query.is_op(node, "ReduceSumSquare")


def _centring(node: ir.Node | None) -> list[ir.Node]:
    """``x - ReduceMean(x)``; a norm without a mean has none."""
    if node is None or not query.is_op(node, "Sub"):
        return []
    mean = _producer(node.inputs[1])
    return [node, mean] if mean is not None and query.is_op(mean, "ReduceMean") else [node]


def _below(root: ir.Node) -> list[ir.Node]:
    """The division by the root, in one step or two, then gain and bias."""
    found: list[ir.Node] = []
    value, divided = root.outputs[0], False
    for _ in range(_LONGEST):
        readers = {node for node, _ in value.uses()}
        if len(readers) != 1 or value.is_graph_output():
            break
        node = readers.pop()
        others = [read for read in node.inputs if read is not value]
        constant = all(not is_computed(read) and is_channelwise(read) for read in others)
        divides = not divided and query.is_op(node, "Div", "Mul", "Reciprocal")
        if not (divides or (constant and query.is_op(node, "Add", "Mul"))):
            break
        divided |= bool(others) and not constant
        found.append(node)
        value = node.outputs[0]
    return found


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()

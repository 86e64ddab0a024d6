"""Raising the opset in place: objects, metadata and large weights stay what they are.

ONNX's own converter, which `io.raise_opset` uses, writes everything anew and loses metadata;
that will do before the first claim is made. Between opsets 13 and 19 only few operators
changed their meaning:

    ReduceMean<axes>(x)     →   ReduceMean(x, axes)
    Split(x)                →   Split<num_outputs>(x)
    RoiAlign(x, ...)        →   RoiAlign<coordinate_transformation_mode>(x, ...)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import edit, query

if TYPE_CHECKING:
    from collections.abc import Callable

OLDEST, NEWEST = 13, 19
IR_VERSION = 9
"""Of the ONNX release that opset 19 came with."""

REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSumSquare",
)  # fmt: skip
_SAME = """
Add AveragePool Bernoulli Cast CastLike Constant CumSum DequantizeLinear Div Equal GRU
GreaterOrEqual Identity If LSTM LeakyRelu LessOrEqual Loop LpPool Mul Optional
OptionalGetElement OptionalHasElement PRelu Pad Pow QuantizeLinear RNN Relu Reshape Resize
Scan ScatterElements ScatterND Shape Size Sub Where
"""
SAME = frozenset(_SAME.split())
"""Operators that took on types and optional attributes, and else mean what they meant."""


def obstacle(model: ir.Model, opset: int) -> str | None:
    """Why a model cannot be raised to this opset here; None if it can."""
    current = model.opset_imports.get("", opset)
    if current < OLDEST or opset > NEWEST:
        return f"opset {current} is not raised to {opset} here"
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        statistics = any(value.name for value in node.outputs[1:])
        if query.is_op(node, "BatchNormalization") and statistics and current < 14:
            return f"'{node.name}' computes statistics, which opset 14 defines anew"
        if node.version is not None:
            return f"'{node.name}' has an opset of its own"
    return None


def lift(model: ir.Model, opset: int) -> None:
    """Raise the opset of the default domain, in place.

    Args:
        model: Without functions and without `obstacle`; a newer one is left.
        opset: Between 13 and 19.
    """
    current = model.opset_imports.get("", opset)
    if current >= opset:
        return
    names = edit.Names(model)
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        for op_type, since, step in STEPS:
            if query.is_op(node, op_type) and current < since <= opset:
                step(node, names)
    model.opset_imports[""] = opset
    model.ir_version = max(model.ir_version or 0, IR_VERSION)


def _axes_become_input(node: ir.Node, names: edit.Names) -> None:
    axes = node.attributes.pop("axes", None)
    graph = node.graph
    if axes is None or not isinstance(graph, ir.Graph):
        return
    array = np.array(axes.as_ints(), np.int64)
    value = edit.new_initializer(graph, names.fresh(f"{node.name}.axes"), array)
    node.resize_inputs(2)
    node.replace_input_with(1, value)


def _parts_are_counted(node: ir.Node, names: edit.Names) -> None:
    del names
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


def _mode_is_named(node: ir.Node, names: edit.Names) -> None:
    del names
    mode = "coordinate_transformation_mode"
    if mode not in node.attributes:
        node.attributes[mode] = ir.AttrString(mode, "output_half_pixel")


STEPS: tuple[tuple[str, int, Callable[[ir.Node, edit.Names], None]], ...] = (
    *((op_type, 18, _axes_become_input) for op_type in REDUCTIONS),
    ("Split", 18, _parts_are_counted),
    ("RoiAlign", 16, _mode_is_named),
)
"""Operator, the opset that changed it, and what its old form becomes."""

"""Making a model acceptable to TensorRT, where that follows from the model alone.

zero points, uint8     symmetric int8 with a range that holds the old one; a quantizer whose
                       range began at 0 cut off what is negative (tools leave out a Relu
                       before one), and a Relu does that now
codes of constants     moved or rounded to int8
scale 0                a tiny one: what it multiplies stays 0
int32 bias             float
functions              inlined
second outputs         dropped where nobody reads them
GELU of a runtime      in operators that TensorRT knows

Everything else is left: `legal.lint` of the result says what.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import edit
from gpusq_compiler.ir.surgeon import surgery
from gpusq_compiler.quant.arithmetic import SMALLEST_SCALE
from gpusq_compiler.quant.placement.topology import commutes
from gpusq_compiler.trt.legality import symmetric
from gpusq_compiler.trt.legality.constants import PAIR, is_blocked, known, nodes_of, prepared
from gpusq_compiler.trt.legality.graphs import ONE_OUTPUT, second_output
from gpusq_compiler.trt.legality.rules import NEWEST, Place, at_node
from gpusq_compiler.trt.legality.surgery import FORMS, drop_dead_outputs, spell_out

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

AUTHOR = "repair"
SMALLEST_HALF = 2.0**-24
"""The smallest positive number of float16."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repaired:
    """A model after `repair`.

    Attributes:
        model: A new one.
        places: What was changed, in graph order.
    """

    model: ir.Model
    places: tuple[Place, ...]


def repair(model: ir.Model) -> Repaired:
    """Repair what is mechanical, on a copy.

    Functions are inlined and constants are initializers in the copy. What lay in the range of
    an old quantizer differs by half a step of the old and half a step of the new one at most;
    what a range with both signs cut off may pass now, as the new one is not narrower.
    """
    places = [
        Place(where=f"function '{function.name}'", what="inlined")
        for function in model.functions.values()
    ]
    clone = prepared(model)
    places += _operated(clone)
    writer = _Writer(clone)
    return Repaired(model=writer.model, places=(*places, *writer.write()))


def _operated(model: ir.Model) -> list[Place]:
    """What GraphSurgeon does, to models that need it."""
    spelled = {node.name: node for node in nodes_of(model, *FORMS)}
    cut = {node.name: node for node in nodes_of(model, *ONE_OUTPUT)}
    if not spelled and not any(True for _ in second_output(model, NEWEST)):
        return []
    with surgery(model, author=AUTHOR) as graph:
        written, dropped = spell_out(graph), drop_dead_outputs(graph)
    said = "stands in operators that TensorRT knows"
    places = [at_node(spelled[name], said) for name in written]
    said = "its second output went, which nobody reads"
    return [*places, *(at_node(cut[name], said) for name in dropped)]


class _Writer:
    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._names = edit.Names(model)
        self._places: list[Place] = []
        self._replaced: dict[ir.Value, None] = {}
        self._moved: set[ir.Value] = set()
        self._growths: dict[ir.Node, Array] = {}

    def write(self) -> tuple[Place, ...]:
        quantizers = [
            node
            for node in nodes_of(self.model, *PAIR)
            if known(node.inputs[1]) is not None and not is_blocked(node)
        ]
        # Before anything changes: what a DequantizeLinear reads tells its range.
        self._growths = {
            node: symmetric.growth(node)
            for node in quantizers
            if symmetric.is_asymmetric(node)
        }
        for node in quantizers:
            if not self._became_float(node):
                self._revive(node)
                if node in self._growths and np.all(_scale(node) > 0):
                    self._make_symmetric(node)
        for value in self._replaced:
            if isinstance(value.graph, ir.Graph):
                edit.drop_unused(value.graph, [value])
        return tuple(self._places)

    def _became_float(self, node: ir.Node) -> bool:
        """Replace int32 codes of a constant, a bias, by the numbers they stand for."""
        codes, result, graph = _constant(node), node.outputs[0], node.graph
        if codes is None or codes.dtype != np.int32 or result.is_graph_output():
            return False
        assert isinstance(graph, ir.Graph)
        name = self._names.fresh(f"{result.name}.float")
        values = symmetric.decoded(node, codes, _scale(node))
        edit.redirect(tuple(result.uses()), edit.new_initializer(graph, name, values))
        self._replaced.update(dict.fromkeys(v for v in node.inputs if v is not None))
        self._say(node, f"its int32 values are float in '{name}'")
        graph.remove(node, safe=True)
        return True

    def _revive(self, node: ir.Node) -> None:
        """Give dead channels a scale."""
        scale = _scale(node)
        dead = scale == 0
        if np.any(dead):
            tiny = SMALLEST_HALF if scale.dtype == np.float16 else SMALLEST_SCALE
            self._replace(node, 1, np.where(dead, np.asarray(tiny, scale.dtype), scale))
            self._say(node, f"{np.count_nonzero(dead)} scales of 0 are {tiny:g}")

    def _make_symmetric(self, node: ir.Node) -> None:
        scale, codes = _scale(node), _constant(node)
        widened = np.asarray(scale * self._growths[node], scale.dtype)
        if node.op_type == "QuantizeLinear":
            if self._may_move(node.outputs[0], symmetric.zeros_of(node)):
                self._cut(node)
                self._set(node, widened)
                node.attributes.pop("output_dtype", None)
                self._move(node.outputs[0])
        elif codes is not None:
            fresh, scale = symmetric.requantized(node, codes, scale)
            self._replace(node, 0, fresh)
            self._set(node, scale)
        elif node.inputs[0] in self._moved:
            self._set(node, widened)

    def _may_move(self, codes: ir.Value, zeros: Array) -> bool:
        """Whether only DequantizeLinear with this zero point reads them, behind moves."""
        return not codes.is_graph_output() and all(
            (
                node.op_type == "DequantizeLinear"
                and node in self._growths
                and np.all(_scale(node) >= 0)
                and np.array_equal(symmetric.zeros_of(node), zeros)
            )
            or (commutes(node) and all(self._may_move(v, zeros) for v in node.outputs))
            for node, _ in codes.uses()
        )

    def _move(self, codes: ir.Value) -> None:
        """These are int8 from now on."""
        codes.type = ir.TensorType(ir.DataType.INT8)
        self._moved.add(codes)
        for node, _ in codes.uses():
            if commutes(node):
                for output in node.outputs:
                    self._move(output)

    def _cut(self, node: ir.Node) -> None:
        """Where the range begins at 0, a Relu does what that did."""
        value, graph = node.inputs[0], node.graph
        low, _ = symmetric.ends_of(node)
        if np.any(low < 0) or symmetric.never_negative(value):
            return
        assert value is not None
        assert graph is not None
        relu = edit.new_node(
            "Relu",
            [value],
            name=self._names.fresh(f"{value.name}.Relu"),
            author=AUTHOR,
            output=self._names.fresh(f"{value.name}.positive"),
            like=value,
        )
        graph.insert_before(node, relu)
        node.replace_input_with(0, relu.outputs[0])
        self._say(node, f"its range began at 0, which '{relu.name}' does now")

    def _set(self, node: ir.Node, scale: Array) -> None:
        self._replace(node, 1, scale)
        self._replace(node, 2, np.zeros(scale.shape, np.int8))
        shown = f"{scale.reshape(-1)[0]:g}" + (" ..." if scale.size > 1 else "")
        self._say(node, f"symmetric int8, scale {shown}")

    def _replace(self, node: ir.Node, index: int, array: Array) -> None:
        """Let one node read another constant; others may still need the old one."""
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        old = node.inputs[index]
        stem = f"{node.outputs[0].name}.constant" if old is None else old.name or ""
        fresh = edit.new_initializer(graph, self._names.fresh(stem), array)
        node.replace_input_with(index, fresh)
        if old is not None:
            self._replaced[old] = None

    def _say(self, node: ir.Node, what: str) -> None:
        self._places.append(at_node(node, what))


def _scale(node: ir.Node) -> Array:
    scale = known(node.inputs[1])
    assert scale is not None, "chosen by it"
    return scale


def _constant(node: ir.Node) -> Array | None:
    """The codes that a DequantizeLinear reads, where they stand in the model."""
    value = node.inputs[0]
    if node.op_type != "DequantizeLinear" or value is None or value.const_value is None:
        return None
    return value.const_value.numpy()

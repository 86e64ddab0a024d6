"""How large every tensor of a model gets on samples, in one pass and without keeping any.

x ─▶ Abs ─▶ ReduceMax
x ─▶ Shape ─▶ Gather[axis]
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import edit, query
from gpusq_compiler.runtime.events import Events, Silent
from gpusq_compiler.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.runtime.samples import Samples

AUTHOR = "magnitudes"
SUMMED = ("LogSoftmax", "Softmax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Magnitudes:
    """What was seen.

    Attributes:
        largest: The largest magnitude of every float32 tensor of the main graph that is
            computed or fed, by name; infinite or NaN where a value was, 0 where none was.
        rows: The longest row that each Softmax of the main graph summed over, by node.
    """

    largest: Mapping[str, float]
    rows: Mapping[str, int]


def magnitudes(
    model: ir.Model,
    samples: Samples,
    *,
    batch_size: int,
    threads: int | None = None,
    device: str = "cpu",
    events: Events | None = None,
) -> Magnitudes:
    """Run a model over all samples.

    Args:
        model: Left as it is.
        samples: What it is run on.
        batch_size: Samples per run; a fixed batch dimension of the model wins.
        threads: Threads of the runtime.
        device: ``cpu``, ``cuda`` or ``auto``.
        events: Receives progress.
    """
    events = events or Silent()
    probe = _Probe(model)
    if not probe.outputs:
        return Magnitudes(largest={}, rows={})
    session = Session(probe.model, outputs=list(probe.outputs), threads=threads, device=device)
    found = dict.fromkeys(probe.outputs, 0.0)
    events.begin(AUTHOR, samples.count)
    done = 0
    for feeds, results in session.over(samples, batch_size):
        for name, value in results.items():
            found[name] = float(np.maximum(found[name], np.max(value)))
        done += max((len(array) for array in feeds.values() if array.ndim), default=1)
        events.advance(min(done, samples.count))
    events.end()
    measured = {probe.outputs[name]: found[name] for name in probe.tensors}
    return Magnitudes(
        largest={**dict.fromkeys(probe.empty, 0.0), **measured},
        rows={probe.outputs[name]: int(found[name]) for name in probe.rows},
    )


class _Probe:
    """A clone whose outputs are measurements: ``outputs`` says of which tensor or node."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model.clone()
        self.outputs: dict[str, str] = {}
        self.tensors: list[str] = []
        self.empty: list[str] = []
        self.rows: list[str] = []
        self._names = edit.Names(self.model)
        graph = self.model.graph
        weights = graph.initializers
        computed = [value for node in graph for value in node.outputs if value.name]
        fed = [value for value in graph.inputs if value.name not in weights]
        softmaxes = [node for node in graph if query.is_op(node, *SUMMED)]
        for value in (*fed, *computed):
            if value.shape is not None and 0 in value.shape:
                self.empty.append(value.name or "")
            elif value.type == ir.TensorType(ir.DataType.FLOAT):
                self.tensors.append(self._measure(value))
        for node in softmaxes:
            self.rows.append(self._count(node))

    def _measure(self, value: ir.Value) -> str:
        size = self._add("Abs", [value], value)
        largest = self._add("ReduceMax", [size], value, keepdims=0)
        self.outputs[largest.name or ""] = value.name or ""
        return largest.name or ""

    def _count(self, node: ir.Node) -> str:
        value = node.inputs[0]
        assert value is not None
        shape = self._add("Shape", [value], value)
        axis = np.array(query.int_attribute(node, "axis", -1), np.int64)
        name = self._names.fresh(f"{value.name}.axis")
        index = edit.new_initializer(self.model.graph, name, axis)
        length = self._add("Gather", [shape, index], value, axis=0)
        self.outputs[length.name or ""] = node.name or ""
        return length.name or ""

    def _add(
        self, op_type: str, inputs: list[ir.Value], like: ir.Value, **attributes: int
    ) -> ir.Value:
        name = self._names.fresh(f"{like.name}.{op_type}")
        node = edit.new_node(
            op_type,
            inputs,
            name=name,
            author=AUTHOR,
            output=self._names.fresh(name),
            like=like,
            attributes=attributes,
        )
        node.outputs[0].shape = node.outputs[0].type = None
        self.model.graph.append(node)
        return node.outputs[0]

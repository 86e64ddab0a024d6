"""What a dry run tells about a graph: all shapes, and what shape arithmetic gives.

Exporters hide sizes behind chains of Shape, Gather and Concat that inference cannot follow.
The runtime follows them: each tensor's Shape becomes an output of a private copy, which is run
with two numbers of samples. What stays the same is a constant of the model.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.session import session_options
from gpusq_compiler.train.protograph import Shape, names_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gpusq_compiler.runtime.samples import Array, Feeds

SIZES_OF_DATA = frozenset(
    {"Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"}
)
"""Operators whose outputs' sizes follow from values, not from sizes."""
NOT_REPEATABLE = frozenset({"RandomNormal", "RandomUniform", "Multinomial", "Bernoulli"})
MOST_VALUES = 1 << 16
"""Elements of shape arithmetic that are kept as constants."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observed:
    """Facts about the tensors of a main graph.

    Attributes:
        shapes: Shapes; None stands for a size that follows from samples or their number.
        values: Integer tensors that follow from shapes alone and never change.
        volatile: Tensors whose sizes follow from the values of samples.
    """

    shapes: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    volatile: frozenset[str] = frozenset()


def observe(model: onnx.ModelProto, batches: Sequence[Feeds]) -> Observed:
    """Run a model on batches of different length; nothing is known where it cannot run.

    Args:
        model: Left as it is.
        batches: Feeds of all its inputs.
    """
    volatile = frozenset(_below(model.graph.node, SIZES_OF_DATA))
    runs = _runs(model, batches)
    if not runs:
        return Observed(volatile=volatile)
    ranked = {
        name: _common([shapes[name] for shapes, _ in runs], known=name not in volatile)
        for name in runs[0][0]
    }
    shapes = {name: shape for name, shape in ranked.items() if shape is not None}
    values = {
        name: value
        for name, value in runs[0][1].items()
        if all(np.array_equal(value, others[name]) for _, others in runs)
        and value.size <= MOST_VALUES
    }
    return Observed(shapes=shapes, values=values, volatile=volatile)


def _common(shapes: Sequence[Shape], *, known: bool) -> Shape | None:
    """Sizes on which all runs agree."""
    if len({len(shape) for shape in shapes}) != 1:
        return None
    sizes = zip(*shapes, strict=True)
    return tuple(size[0] if known and len(set(size)) == 1 else None for size in sizes)


def _runs(
    model: onnx.ModelProto, batches: Sequence[Feeds]
) -> list[tuple[dict[str, Shape], dict[str, Array]]]:
    """Shapes of all tensors and values of shape arithmetic, once per batch."""
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names, arithmetic = _with_shapes(copy)
    runs: list[tuple[dict[str, Shape], dict[str, Array]]] = []
    try:
        session = onnxruntime.InferenceSession(
            copy.SerializeToString(),
            session_options(optimize=False),
            providers=["CPUExecutionProvider"],
        )
        for feeds in batches:
            found = session.run(None, dict(feeds))
            shapes: dict[str, Shape] = {
                name: tuple(int(size) for size in shape)
                for name, shape in zip(names, found[: len(names)], strict=True)
            }
            shapes.update((name, np.shape(array)) for name, array in feeds.items())
            runs.append((shapes, dict(zip(arithmetic, found[len(names) :], strict=True))))
    except flavour.refusals():
        return []
    return runs


def _with_shapes(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Make shapes and shape arithmetic the only outputs; say of which tensors."""
    graph, taken = model.graph, names_in(model.graph)
    arithmetic = _of_shapes(model)
    names = [
        name
        for node in graph.node
        if not node.op_type.startswith(("Sequence", "Optional", "SplitToSequence"))
        for name in node.output
        if name
    ]
    prefix = "shape of "
    while any(name.startswith(prefix) for name in taken):
        prefix = f"the {prefix}"
    del graph.output[:]
    for name in names:
        graph.node.append(helper.make_node("Shape", [name], [prefix + name]))
        graph.output.append(
            helper.make_tensor_value_info(prefix + name, TensorProto.INT64, None)
        )
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in arithmetic)
    return names, arithmetic


def _of_shapes(model: onnx.ModelProto) -> list[str]:
    """Integer tensors computed from nothing but shapes and constants."""
    known = {tensor.name for tensor in model.graph.initializer} | {""}
    found = []
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    for node in model.graph.node:
        if node.op_type in NOT_REPEATABLE or any(a.HasField("g") for a in node.attribute):
            continue
        if node.op_type in {"Shape", "Size"} or set(node.input) <= known:
            known.update(node.output)
            integer = kinds.get(node.output[0]) in {TensorProto.INT64, TensorProto.INT32}
            if integer and node.op_type != "Constant":
                found.append(node.output[0])
    return found


def _below(nodes: Iterable[onnx.NodeProto], op_types: frozenset[str]) -> set[str]:
    """Everything computed from the outputs of these operators."""
    found: set[str] = set()
    for node in nodes:
        if node.op_type in op_types or found & set(node.input):
            found.update(node.output)
    return found - {""}

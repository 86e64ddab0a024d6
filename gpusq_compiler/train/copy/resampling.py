"""Rewrites of operators that are linear along single axes; see `rewrites`.

What such an operator does to one axis is a matrix, and its columns are the operator's own
answers to unit vectors: the runtime is asked, so that every mode means what it means there.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.session import session_options
from gpusq_compiler.train.protograph import integer_of, integers_of, word_of

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.train.copy.copygraph import CopyGraph

LONGEST = 4096
"""Elements of an axis up to which a matrix is made."""
OWN_ATTRIBUTES = frozenset({"axes", "keep_aspect_ratio_policy"})


def cumulative_sum(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """A triangular matrix."""
    shape, axis = graph.shape(node.input[0]), graph.constant_integers(node, 1)
    counts = graph.kinds.get(node.input[0]) not in {None, TensorProto.FLOAT}
    if shape is None or not axis or counts:
        return None
    where = axis[0] % len(shape)
    size = shape[where]
    if size is None or size > LONGEST:
        return None
    rows = np.arange(size)
    strict = bool(integer_of(node, "exclusive", 0))
    seen = rows[None] < rows[:, None] if strict else rows[None] <= rows[:, None]
    matrix = seen.T if integer_of(node, "reverse", 0) else seen
    return along(graph, node.input[0], where, matrix.astype(np.float32))


def resize(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """One matrix per resized axis."""
    shape, result = graph.shape(node.input[0]), graph.shape(node.output[0])
    if shape is None or result is None:
        return None
    if word_of(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return None
    x, factors = str(node.input[0]), _factors(graph, node, len(shape))
    for axis, (size, wanted) in enumerate(zip(shape, result, strict=True)):
        if size == wanted and factors.get(axis, 1.0) == 1.0:
            continue
        if size is None or wanted is None or max(size, wanted) > LONGEST:
            return None
        matrix = _answers(graph, node, size, wanted, factors.get(axis))
        if matrix is None:
            return None
        x = along(graph, x, axis, matrix)
    return x


def along(graph: CopyGraph, x: str, axis: int, matrix: Array) -> str:
    """Multiply one axis of a tensor by a matrix [new size, old size]."""
    rank, (wanted, size) = graph.rank(x), matrix.shape
    times = wanted // size
    if np.array_equal(matrix, np.repeat(np.eye(size), times, axis=0)):
        return _repeated(graph, x, axis, size, times)
    if axis == rank - 2:
        result = graph.node("MatMul", graph.constant(matrix), x)
    elif axis == rank - 1:
        result = graph.node("MatMul", x, graph.constant(np.ascontiguousarray(matrix.T)))
    else:
        order = [*(a for a in range(rank) if a != axis), axis]
        moved = graph.node("Transpose", x, perm=order)
        product = graph.node("MatMul", moved, graph.constant(np.ascontiguousarray(matrix.T)))
        result = graph.node("Transpose", product, perm=[int(a) for a in np.argsort(order)])
    return _shaped(graph, x, axis, wanted, result)


def _repeated(graph: CopyGraph, x: str, axis: int, size: int, times: int) -> str:
    """Every element ``times`` times: cheaper than a product, and so is its gradient."""
    rank = graph.rank(x)
    apart = graph.node("Unsqueeze", x, graph.integers([axis + 1]))
    copies = [1] * (rank + 1)
    copies[axis + 1] = times
    wide = graph.node("Expand", apart, graph.integers(copies))
    if axis == 0:
        rest = [s if s is not None else -1 for s in graph.shape(x) or ()][1:]
        whole = [size * times, *rest]
    else:
        kept = [s if s is not None else 0 for s in graph.shape(x) or ()]
        whole = [*kept[:axis], size * times, *[-1 if s == 0 else s for s in kept[axis + 1 :]]]
    return _shaped(
        graph, x, axis, size * times, graph.node("Reshape", wide, graph.integers(whole))
    )


def _shaped(graph: CopyGraph, x: str, axis: int, size: int, result: str) -> str:
    """Note the new tensor's shape for whoever goes on with it."""
    shape = list(graph.shape(x) or ())
    shape[axis] = size
    graph.shapes[result] = tuple(shape)
    return result


def _factors(graph: CopyGraph, node: onnx.NodeProto, rank: int) -> dict[int, float]:
    """Given scales by axis; an axis with a given size has none."""
    axes = [a % rank for a in integers_of(node, "axes", range(rank))]
    scales = graph.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if scales is not None and scales.size:
        return dict(zip(axes, map(float, scales), strict=True))
    policy, shape = (
        word_of(node, "keep_aspect_ratio_policy", "stretch"),
        graph.shape(node.input[0]),
    )
    sizes = graph.constant_integers(node, 3)
    if policy == "stretch" or not sizes or shape is None:
        return {}
    ratios = [wanted / (shape[a] or math.inf) for a, wanted in zip(axes, sizes, strict=True)]
    return dict.fromkeys(axes, min(ratios) if policy == "not_larger" else max(ratios))


def _answers(
    graph: CopyGraph, node: onnx.NodeProto, size: int, wanted: int, factor: float | None
) -> Array | None:
    """The matrix [new size, old size] of a Resize along one axis, None if it cannot run."""
    alone = onnx.NodeProto(op_type="Resize", input=["x", "", "", ""], output=["y"])
    alone.attribute.extend(a for a in node.attribute if a.name not in OWN_ATTRIBUTES)
    matrix = _run_on_units(
        alone.SerializeToString(deterministic=True), graph.opset, size, wanted, factor
    )
    return matrix if matrix is not None and matrix.shape == (wanted, size) else None


@functools.lru_cache(maxsize=64)
def _run_on_units(
    content: bytes, opset: int, size: int, wanted: int, factor: float | None
) -> Array | None:
    import onnxruntime

    node = onnx.NodeProto.FromString(content)
    if factor is None:
        node.input[3] = "sizes"
        how = numpy_helper.from_array(np.array([1, 1, size, wanted], np.int64), "sizes")
    else:
        del node.input[3:]
        node.input[2] = "scales"
        how = numpy_helper.from_array(np.array([1, 1, 1, factor], np.float32), "scales")
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, size, None])
        for name in "xy"
    ]
    graph = helper.make_graph([node], "units", sides[:1], sides[1:], [how])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
        )
        found: Array = session.run(None, {"x": np.eye(size, dtype=np.float32)[None, None]})[0]
    except flavour.refusals():
        return None
    return np.ascontiguousarray(found[0, 0].T)

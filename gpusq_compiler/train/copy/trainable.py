"""The training copy: the model as float arithmetic that has a gradient everywhere it can.

    x -> QuantizeLinear -> DequantizeLinear -> y
    becomes  y = s * clip(round(x / s), low, high)

With the quantizers left out it equals the float model, with them it equals the Q/DQ graph.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from gpusq_compiler.train.copy.copygraph import CopyGraph
from gpusq_compiler.train.copy.observed import observe
from gpusq_compiler.train.copy.rewrites import NAMES_ALL_OUTPUTS, REWRITES, key_of
from gpusq_compiler.train.copy.widened import private_float32, widened
from gpusq_compiler.train.protograph import Shape, attribute, tensor_types

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array, Feeds
    from gpusq_compiler.train.quantizers import Quantizer

CODES: Mapping[int, tuple[int, int]] = {
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingCopy:
    """A private float32 model with the student's inputs, outputs and tensor names.

    Attributes:
        model: Parameters are still initializers.
        kinds: Element types of its tensors, where known.
        shapes: Shapes of its tensors, where known.
        volatile: Tensors whose sizes follow from the values of samples.
    """

    model: onnx.ModelProto
    kinds: Mapping[str, int]
    shapes: Mapping[str, Shape]
    volatile: frozenset[str] = frozenset()


def training_copy(
    student: ir.Model,
    quantizer: Quantizer,
    *,
    quantize: bool = True,
    batches: Sequence[Feeds] = (),
) -> TrainingCopy:
    """Write the student anew in operators that train.

    Args:
        student: Left as it is.
        quantizer: Builds what stands in for each Q/DQ pair.
        quantize: Off leaves the quantizers out, to compare with the float model.
        batches: Inputs of the student, of two different lengths where its batch is free; they
            tell sizes that its graph does not state.

    Raises:
        ModelError: The runtime cannot take the model's operator set.
        TrainingError: A rank that a rewrite needs is not known.
    """
    model = private_float32(student)
    observed = observe(model, [widened(feeds) for feeds in batches])
    graph = CopyGraph(model, observed)
    pairs = _Pairs(graph, quantizer, quantize=quantize)
    for node in graph.source:
        if not pairs.take(node):
            _rewrite(graph, node)
    kinds, shapes = tensor_types(model)
    return TrainingCopy(
        model=model,
        kinds=kinds,
        shapes={**shapes, **graph.shapes},
        volatile=observed.volatile,
    )


def _rewrite(graph: CopyGraph, node: onnx.NodeProto) -> None:
    key = key_of(node)
    extra = any(graph.uses.get(name) for name in node.output[1:])
    replaced = None
    if key in REWRITES and (not extra or key in NAMES_ALL_OUTPUTS):
        replaced = REWRITES[key](graph, node)
    if replaced is None:
        graph.add(node)
    else:
        graph.name(replaced, node.output[0])


class _Pairs:
    """Replaces quantizers and dequantizers while the graph is written."""

    def __init__(self, graph: CopyGraph, quantizer: Quantizer, *, quantize: bool) -> None:
        self._graph = graph
        self._quantizer = quantizer
        self._quantize = quantize
        self._outputs = {value.name for value in graph.graph.output}
        self._fake: dict[str, str] = {}

    def take(self, node: onnx.NodeProto) -> bool:
        """Replace this node if it is part of a pair; say whether it was."""
        if node.op_type == "QuantizeLinear":
            return self._take_quantize(node)
        if node.op_type == "DequantizeLinear":
            return self._take_dequantize(node)
        return False

    def _take_quantize(self, node: onnx.NodeProto) -> bool:
        codes = node.output[0]
        users = self._graph.uses.get(codes, [])
        paired = users and all(
            user.op_type == "DequantizeLinear" and user.input[1] == node.input[1]
            for user in users
        )
        bounds = self._bounds(node)
        if not paired or codes in self._outputs or bounds is None:
            return False
        x = node.input[0]
        if self._quantize:
            scale = self._broadcast_scale(node)
            self._fake[codes] = self._quantizer.build(self._graph, x, scale, *bounds)
        else:
            self._fake[codes] = x
        return True

    def _take_dequantize(self, node: onnx.NodeProto) -> bool:
        codes = node.input[0]
        if codes in self._fake:
            self._graph.name(self._fake[codes], node.output[0])
            return True
        values = self._dequantized(node)
        if values is None:
            return False
        self._graph.name(self._graph.constant(values), node.output[0])
        return True

    def _bounds(self, node: onnx.NodeProto) -> tuple[int, int] | None:
        """Code range around the zero point; weights leave out the most negative code."""
        kind, zero = int(TensorProto.UINT8), 0
        if len(node.input) > 2 and node.input[2]:
            values = self._graph.value(node.input[2])
            if values is None or np.unique(values.astype(np.int64)).size != 1:
                return None
            kind, zero = self._graph.kinds[node.input[2]], int(values.reshape(-1)[0])
        elif stated := attribute(node, "output_dtype", 0):
            kind = int(str(stated))
        if kind not in CODES or attribute(node, "block_size", 0):
            return None
        low, high = CODES[kind]
        if node.input[0] in self._graph.initializers and low < 0:
            low = -high
        return low - zero, high - zero

    def _broadcast_scale(self, node: onnx.NodeProto) -> str:
        x, scale = node.input[:2]
        if all(size == 1 for size in self._graph.shape(scale) or ()):
            return str(scale)
        shape = _axis_shape(node, self._graph.rank(x))
        return self._graph.node("Reshape", scale, self._graph.integers(shape))

    def _dequantized(self, node: onnx.NodeProto) -> Array | None:
        parts = [self._graph.value(name) for name in node.input]
        if any(part is None for part in parts) or attribute(node, "block_size", 0):
            return None
        codes, scale, *zero = (p for p in parts if p is not None)
        shape = _axis_shape(node, codes.ndim) if scale.size > 1 else ()
        centred = codes.astype(np.float32)
        if zero:
            centred = centred - zero[0].astype(np.float32).reshape(shape)
        return centred * scale.astype(np.float32).reshape(shape)


def _axis_shape(node: onnx.NodeProto, rank: int) -> list[int]:
    axis = int(str(attribute(node, "axis", 1))) % rank
    return [1] * axis + [-1] + [1] * (rank - axis - 1)

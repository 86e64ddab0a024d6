"""A graph that is written anew in nodes that run fast; see `kernels`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from gpusq_compiler.train.gradients.blocks import read_instead
from gpusq_compiler.train.gradients.reach import has_body
from gpusq_compiler.train.protograph import ProtoGraph, opset_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from gpusq_compiler.train.kernels.fakequant import Fake
    from gpusq_compiler.train.protograph import Shape

LEAST_IN_ROW, MOST_IN_ROW = 512, 8192
RANDOM = ("Random", "Dropout", "Multinomial", "Bernoulli")


class KernelGraph(ProtoGraph):
    """Knows the codes and scales of what is fake-quantized.

    Args:
        model: Its node list is emptied; ``source`` keeps the old nodes.
        fakes: Fake-quantized tensors by name.
    """

    def __init__(self, model: onnx.ModelProto, fakes: Mapping[str, Fake]) -> None:
        super().__init__(model.graph, opset_of(model))
        self.source, same = distinct(model.graph)
        self.fakes = {name: fake.reading(same) for name, fake in fakes.items()}
        self.imports = model.opset_import
        self._sizes = stated_sizes(model.graph)
        self._weights = {t.name for t in model.graph.initializer}
        self._weights.update(f.x for f in self.fakes.values() if f.axis is not None)
        self._positive = {n.output[0] for n in self.source if n.op_type == "Relu"}
        self._codes: dict[str, str] = {}
        self._scales: dict[str, str] = {}
        self._zeros: dict[tuple[int, int | None], str] = {}
        del model.graph.node[:]

    def size(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor of ``source``, if all of it is stated."""
        if name in self._sizes:
            return self._sizes[name]
        known = self.fakes[name].size if name in self.fakes else None
        sizes = tuple(entry for entry in known or () if entry is not None)
        return sizes if known is not None and len(sizes) == len(known) else None

    def never_negative(self, name: str) -> bool:
        """Whether a tensor of ``source`` is a Relu's."""
        return name in self._positive

    def codes(self, fake: Fake) -> str:
        """The unsigned codes of a fake-quantized tensor, computed once."""
        if fake.y not in self._codes:
            self._codes[fake.y] = self._quantized(fake)
        return self._codes[fake.y]

    def _quantized(self, fake: Fake) -> str:
        if fake.direct:
            zero = self.zeros(fake)
            along = {} if fake.axis is None else {"axis": fake.axis}
            codes = self.node("QuantizeLinear", fake.x, self._flat(fake), zero, **along)
        else:
            ratio, one = self.node("Div", fake.x, fake.scale), self.constant(1.0)
            codes = self.node("QuantizeLinear", ratio, one, self.zero(fake))
        if fake.high - fake.low == 255:
            return codes
        bounds = (np.array(value, np.uint8) for value in (0, fake.high - fake.low))
        return self.node("Clip", codes, *map(self.constant, bounds))

    def scale(self, fake: Fake) -> str:
        """The scales in one dimension or none, NaN where an activation is not finite.

        Codes are numbers whatever they stand for; a loss must tell.
        """
        if fake.y not in self._scales:
            scale = self._flat(fake)
            if fake.x not in self._weights:
                doubt = self.node("ReduceSum", fake.x, keepdims=0)
                doubt = self.node("Mul", doubt, self.constant(0.0))
                scale = self.node("Add", scale, doubt)
            self._scales[fake.y] = scale
        return self._scales[fake.y]

    def _flat(self, fake: Fake) -> str:
        if len(fake.shape) <= 1:
            return fake.scale
        return self.node("Reshape", fake.scale, self.integers([-1]))

    def zero(self, fake: Fake) -> str:
        """The code of 0, once."""
        return self.byte(fake.zero)

    def zeros(self, fake: Fake) -> str:
        """The code of 0, as often as there are scales."""
        return self.byte(fake.zero, None if fake.axis is None else fake.shape[fake.axis])

    def byte(self, value: int, count: int | None = None) -> str:
        """A constant of one byte, or a vector of it."""
        if (value, count) not in self._zeros:
            array = np.full(() if count is None else count, value, np.uint8)
            self._zeros[value, count] = self.constant(array)
        return self._zeros[value, count]

    def inner(self, a: str, b: str, size: Shape | None) -> str:
        """The sum of products of two tensors of one size, row by row: so it loses little."""
        count = math.prod(entry or 0 for entry in size or (0,))
        row = max((n for n in range(1, MOST_IN_ROW) if count % n == 0), default=0)
        if count and row >= LEAST_IN_ROW:
            return self.node("ReduceSum", self._rows(a, b, [-1, 1, row]), keepdims=0)
        rows = self.node("ReduceSum", self.node("Mul", a, b), self.integers([-1]), keepdims=0)
        return self.node("ReduceSum", rows, keepdims=0)

    def inner_by_first(self, a: str, b: str) -> str:
        """The sums of products along all axes but the first one, in one dimension."""
        return self.node("Reshape", self._rows(a, b, [0, 1, -1]), self.integers([-1]))

    def _rows(self, a: str, b: str, shape: Sequence[int]) -> str:
        """Products of rows: half of what Mul and ReduceSum take."""
        flat = self.integers(shape)
        pair = (self.node("Reshape", name, flat) for name in (a, b))
        return self.node_of("com.microsoft", "FusedMatMul", *pair, transB=1)

    def selected(self, x: str, chosen: str, result: str) -> None:
        """``x`` where a bool tensor holds, else 0."""
        byte = self.node("Cast", chosen, to=TensorProto.UINT8)
        factor = self.node("DequantizeLinear", byte, self.constant(1.0), self.byte(0))
        self.into(result, "Mul", x, factor)

    def node_of(self, domain: str, op_type: str, *inputs: str, **attributes: object) -> str:
        """Add a node of another domain with one output and return the output's name."""
        result = self.fresh(op_type)
        self.into(result, op_type, *inputs, domain=domain, **attributes)
        return result

    def into(
        self, result: str, op_type: str, *inputs: str, domain: str = "", **attributes: object
    ) -> None:
        """Add a node whose output has this name."""
        name = self.fresh(op_type)
        node = helper.make_node(op_type, inputs, [result], name=name, domain=domain)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.add(node)


def stated_sizes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """The shapes that a graph states and that leave nothing open."""
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shape = value.type.tensor_type.shape
        if value.type.tensor_type.HasField("shape") and all(
            d.HasField("dim_value") for d in shape.dim
        ):
            found[value.name] = tuple(int(d.dim_value) for d in shape.dim)
    return found


def distinct(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], dict[str, str]]:
    """The nodes without those that only rename or repeat another, which is read instead.

    Returns:
        The nodes, and what is read in place of the results that are gone.
    """
    lasting = {value.name for value in graph.output}
    same: dict[str, str] = {}
    known: dict[bytes, onnx.NodeProto] = {}
    kept = []
    for node in graph.node:
        read_instead([node], same)
        if lasting.isdisjoint(node.output):
            if node.op_type == "Identity":
                same[node.output[0]] = node.input[0]
                continue
            twin = known.setdefault(_key(node), node)
            if twin is not node:
                same.update(zip(node.output, twin.output, strict=True))
                continue
        kept.append(node)
    return kept, same


def _key(node: onnx.NodeProto) -> bytes:
    """What a node computes; its own name where that may differ from run to run."""
    if node.op_type.startswith(RANDOM) or has_body(node):
        return bytes(node.SerializeToString())
    like = helper.make_node(node.op_type, node.input, [""] * len(node.output))
    like.domain = node.domain
    like.attribute.extend(sorted(node.attribute, key=lambda entry: entry.name))
    return bytes(like.SerializeToString(deterministic=True))

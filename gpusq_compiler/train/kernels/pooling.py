"""The largest code of a window and its place as one number, so that one pass finds both.

    k = code * S + (S - 1 - place)       MaxPool k  ->  code, place
                                         S >= places, a power of two; k < 2^24 is exact

The runtime's MaxPool that also says where the largest element stands takes 24 times as long
as the one that does not. Of equal elements the first one counts, as there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from gpusq_compiler.train.protograph import integer_of

if TYPE_CHECKING:
    import onnx

    from gpusq_compiler.train.kernels.fakequant import Fake
    from gpusq_compiler.train.kernels.kernelgraph import KernelGraph

MOST = 2**24
"""Integers up to here are floats."""


def take(graph: KernelGraph, node: onnx.NodeProto) -> bool:
    """Write a MaxPool of codes that also gives places; say whether it was one."""
    if (
        node.op_type != "MaxPool"
        or len(node.output) < 2
        or integer_of(node, "storage_order", 0)
    ):
        return False
    fake, size = graph.fakes.get(node.input[0]), graph.size(node.input[0])
    if fake is None or fake.axis is not None or size is None:
        return False
    step = 1 << (math.prod(size[2:]) - 1).bit_length()
    if (fake.high - fake.low + 1) * step > MOST:
        return False
    _write(graph, node, fake, size, step)
    return True


def _write(
    graph: KernelGraph, node: onnx.NodeProto, fake: Fake, size: tuple[int, ...], step: int
) -> None:
    places = np.arange(math.prod(size[2:]))
    last = (step - 1 - places).astype(np.float32).reshape(1, 1, *size[2:])
    scaled = graph.node(
        "DequantizeLinear", graph.codes(fake), graph.constant(float(step)), graph.byte(0)
    )
    kept = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    best = graph.node("MaxPool", graph.node("Add", scaled, graph.constant(last)), **kept)
    code = graph.node("Floor", graph.node("Mul", best, graph.constant(1 / step)))
    centred = graph.node("Sub", code, graph.constant(float(fake.zero)))
    graph.into(node.output[0], "Mul", centred, graph.scale(fake))
    rest = graph.node("Sub", best, graph.node("Mul", code, graph.constant(float(step))))
    place = graph.node("Sub", graph.constant(float(step - 1)), rest)
    whole = graph.node("Cast", place, to=TensorProto.INT64)
    images = np.arange(size[0] * size[1], dtype=np.int64) * len(places)
    first = graph.constant(images.reshape(*size[:2], *[1] * len(size[2:])))
    graph.into(node.output[1], "Add", whole, first)

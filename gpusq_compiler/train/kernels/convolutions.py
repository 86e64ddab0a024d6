"""Gradients of convolutions, each part on the kernel that is fastest at it.

    input    dx = Conv(dy, w turned)     in and out swapped, taps in reverse, in blocks
    scale    ds s = <dy, Conv(e, w)>     where nothing but the input's scale asks for dx
    weight   dw                          the runtime's own kernel, which makes its matrix of x

The second holds because <dx, e> = <dy, Conv(e, w)> for every e. A model's first layer, and
each that begins a block of a block by block training, needs no other product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import helper

from gpusq_compiler.train.kernels import blocked, strided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.train.kernels.kernelgraph import KernelGraph

GRADIENT = "ConvGrad"


def take(graph: KernelGraph, node: onnx.NodeProto) -> bool:
    """Write a convolution, or a gradient's parts, if there is a faster way; say whether."""
    if node.op_type == "Conv" and not node.domain:
        return _convolved(graph, node, list(node.input), node.output[0])
    if node.op_type != GRADIENT or not node.output[0]:
        return False
    if not _input_gradient(graph, node):
        return False
    without_input(graph, node)
    return True


def without_input(graph: KernelGraph, node: onnx.NodeProto) -> None:
    """Add the gradient of weight and bias alone."""
    if any(node.output[1:]):
        rest = onnx.NodeProto()
        rest.CopyFrom(node)
        rest.output[0] = ""
        graph.add(rest)


def _input_gradient(graph: KernelGraph, node: onnx.NodeProto) -> bool:
    """As blocked convolutions of ``dy``, if it is one or several."""
    dy, _, weight = node.input
    form = blocked.images(graph, node, weight)
    if form is None:
        return False
    turned = form.turned()
    if turned is None:
        return strided.take(graph, node, form)
    weight = blocked.turned_weight(graph, weight, turned)
    blocked.write(graph, dy, weight, turned, node.output[0])
    return True


def along(graph: KernelGraph, node: onnx.NodeProto, error: str) -> str:
    """The sum of ``dx`` times ``error``, without ``dx``."""
    dy, _, weight = node.input
    moved = graph.fresh("moved")
    if not _convolved(graph, node, [error, weight], moved):
        kept = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        graph.into(moved, "Conv", error, weight, **kept)
    return graph.inner(dy, moved, graph.size(dy))


def _convolved(
    graph: KernelGraph, node: onnx.NodeProto, inputs: Sequence[str], result: str
) -> bool:
    """Write a blocked convolution of the node's attributes, if there is one."""
    x, weight, *bias = inputs
    form = blocked.images(graph, node, weight)
    if form is None or not form.fits:
        return False
    blocked.write(graph, x, blocked.weight_of(graph, weight, form), form, result, *bias)
    return True

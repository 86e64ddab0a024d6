"""Fake quantization in as few passes over memory as the runtime's CPU kernels allow.

    written:    x -> Div s -> Add c -> Sub c -> Clip -> Mul s -> y
    run:        x -> QuantizeLinear -> codes -> DequantizeLinear -> y
    backward:   dx = dy * [low - 1/2 <= x/s <= high + 1/2]
                ds = (sum dy y - sum dx x) / s

What a quantizer writes is what is differentiated, and the numbers are the same: the codes are
those of the Q/DQ graph. For the gradient builder each chain is one node that it knows nothing
about; the nodes that compute it, and its gradient, are put in afterwards. Codes are unsigned,
one byte each, and stand ready for `integers`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from gpusq_compiler.train.gradients.reach import inputs_of
from gpusq_compiler.train.protograph import array_of, tensor_types
from gpusq_compiler.train.quantizers import INTEGERS_FROM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpusq_compiler.train.protograph import Shape

CHAIN = ("Div", "Add", "Sub", "Clip", "Mul")
OPERATOR, DOMAIN = "ATen", "org.pytorch.aten"
"""An operator of any inputs and outputs, told apart by its attribute ``operator``."""
FORWARD, BACKWARD = "gpusq::fake_quant", "gpusq::fake_quant_grad"
MOST_CODES = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fake:
    """One fake-quantized tensor.

    Attributes:
        x: What is quantized.
        size: Its shape, as far as that is known.
        scale: Broadcasts against ``x``.
        shape: Of the scale.
        y: The result.
        low: Smallest code around zero.
        high: Largest code.
    """

    x: str
    size: Shape | None
    scale: str
    shape: tuple[int, ...]
    y: str
    low: int
    high: int

    @property
    def axis(self) -> int | None:
        """The axis along which scales differ, None where there is one."""
        wide = [axis for axis, size in enumerate(self.shape) if size != 1]
        return wide[0] if wide else None

    @property
    def direct(self) -> bool:
        """Whether QuantizeLinear is fast: along a later axis it takes 24 ns per element."""
        return self.axis in {None, 0}

    @property
    def zero(self) -> int:
        """The unsigned code of 0."""
        return -self.low

    def reading(self, same: Mapping[str, str]) -> Fake:
        """The same, of other names for what it reads."""
        x, scale = (same.get(name, name) for name in (self.x, self.scale))
        return dataclasses.replace(self, x=x, scale=scale)


def find(model: onnx.ModelProto) -> dict[str, Fake]:
    """The chains of a graph that can be run as one, by their results."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output if name}
    uses: dict[str, int] = {value.name: 1 for value in graph.output}
    for node in graph.node:
        for name in inputs_of(node):
            uses[name] = uses.get(name, 0) + 1
    constants = {t.name: t for t in graph.initializer}
    shapes = tensor_types(model)[1]
    found = {}
    for node in graph.node:
        chain = _chain(node, producers, uses)
        fake = None if chain is None else _fake(chain, constants, shapes)
        if fake is not None:
            found[fake.y] = fake
    return found


def _chain(
    last: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], uses: Mapping[str, int]
) -> list[onnx.NodeProto] | None:
    """The five nodes that end here, if each but the last is read by the next alone."""
    nodes = [last]
    for op_type in reversed(CHAIN):
        if nodes[0].op_type != op_type:
            return None
        if op_type == CHAIN[0]:
            return nodes if nodes[0].input[1] == last.input[1] else None
        before = producers.get(nodes[0].input[0])
        if before is None or uses[nodes[0].input[0]] != 1:
            return None
        nodes.insert(0, before)
    return None


def _fake(
    chain: Sequence[onnx.NodeProto],
    constants: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, Shape],
) -> Fake | None:
    """What the chain computes, None where it is another function or sizes are unknown."""
    x, scale = chain[0].input
    bounds, shape = _bounds(chain, constants), _known(shapes.get(scale))
    if bounds is None or shape is None or sum(size != 1 for size in shape) > 1:
        return None
    if len(shape) > 1 and len(shape) != len(shapes.get(x, ())):
        return None
    return Fake(
        x=x,
        size=shapes.get(x),
        scale=scale,
        shape=shape,
        y=chain[-1].output[0],
        low=bounds[0],
        high=bounds[1],
    )


def _bounds(
    chain: Sequence[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> tuple[int, int] | None:
    """The range of codes, if the chain rounds and a byte holds them."""
    _, add, sub, clip, _ = chain
    numbers = [add.input[1], sub.input[1], *clip.input[1:]]
    if len(numbers) != 4 or any(name not in constants for name in numbers):
        return None
    values = [array_of(constants[name]) for name in numbers]
    if any(value.size != 1 for value in values):
        return None
    up, down, low, high = (float(value.reshape(())) for value in values)
    if (up, down) != (INTEGERS_FROM,) * 2 or not (low.is_integer() and high.is_integer()):
        return None
    return (int(low), int(high)) if low <= 0 <= high < low + MOST_CODES else None


def _known(shape: Shape | None) -> tuple[int, ...] | None:
    sizes = tuple(size for size in shape or () if size is not None)
    return sizes if shape is not None and len(sizes) == len(shape) else None


def collapsed(optimized: bytes) -> tuple[bytes, dict[str, Fake]]:
    """One node per chain, for the gradient builder: `with_kernels` puts others in their place.

    Returns:
        The graph, and the chains by their results.
    """
    model = onnx.load_from_string(optimized)
    fakes = find(model)
    if not fakes:
        return optimized, fakes
    _teach()
    collapse(model.graph, fakes)
    graph = model.graph
    stated = {value.name for value in graph.value_info}
    graph.value_info.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, fake.size)
        for name, fake in fakes.items()
        if name not in stated
    )
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model.SerializeToString(), fakes


def collapse(graph: onnx.GraphProto, fakes: Mapping[str, Fake]) -> None:
    """Let one node stand for each chain."""
    producers = {node.output[0]: node for node in graph.node}
    gone = {name for fake in fakes.values() for name in _inner(producers, fake)}
    nodes = [node for node in graph.node if node.output[0] not in gone]
    for index, node in enumerate(nodes):
        if node.output[0] in fakes:
            fake = fakes[node.output[0]]
            nodes[index] = helper.make_node(
                OPERATOR,
                [fake.x, fake.scale],
                [fake.y],
                name=node.name,
                domain=DOMAIN,
                operator=FORWARD,
            )
    del graph.node[:]
    graph.node.extend(nodes)


@functools.cache
def _teach() -> None:
    """Tell the builder, once per process, what stands for the gradient."""
    from onnxruntime.capi import _pybind_state as state

    operator = state.GradientNodeAttributeDefinition()
    operator.name, operator.dtype, operator.is_tensor = "operator", "string", False
    operator.value_json = f'"{BACKWARD}"'
    definition = state.GradientNodeDefinition()
    definition.op_type, definition.domain = OPERATOR, DOMAIN
    definition.inputs = ["GO(0)", "I(0)", "I(1)", "O(0)"]
    definition.outputs = ["GI(0)", "GI(1)"]
    definition.attributes = [operator]
    state.register_gradient_definition(f"{DOMAIN}::{OPERATOR}::{FORWARD}::", [definition])


def _inner(producers: Mapping[str, onnx.NodeProto], fake: Fake) -> list[str]:
    """What only the chain itself reads."""
    names, node = [], producers[fake.y]
    for _ in CHAIN[1:]:
        node = producers[node.input[0]]
        names.append(node.output[0])
    return names

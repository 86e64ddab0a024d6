"""Where attention is scaled by 1/sqrt(d): in the projection of q, or right behind it.

    softmax(c · q kᵀ)   →   softmax((c · q) kᵀ)          TensorRT fuses the scale on q
                        →   softmax(q' kᵀ), W' = c · W    where q has a projection of its own

Folded in before quantization, the scale disappears in the scales of weight and activation. One
projection of q, k and v has one scale for all three, in which a q that is 1/sqrt(d) as large
has less bits (docs/placement.md has the figures), so there it stays an operator on q.

A tensor that holds other values afterwards has another name: names are how models are compared.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import edit, query
from gpusq_compiler.quant.placement.attention import attentions
from gpusq_compiler.quant.placement.topology import commutes, is_scalar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpusq_compiler.ir.query import WeightUse

AUTHOR = "canonicalize"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factor:
    """The way from a projection to the product of queries and keys.

    Attributes:
        scalings: Mul and Div by one number on it, the last one first.
        parameters: Weight and bias of the projection; empty where others depend on them.
        unscaled: Tensors on it with a scaling behind them, the last one first.
        scaled: The others.
    """

    scalings: tuple[ir.Node, ...] = ()
    parameters: tuple[ir.Value, ...] = ()
    unscaled: tuple[ir.Value, ...] = ()
    scaled: tuple[ir.Value, ...] = ()


def settle(model: ir.Model) -> None:
    """Fold the scale of every attention into W_q, or put it onto q; the function stays."""
    uses = {use.node: use for use in query.weight_uses(model)}
    names = edit.Names(model)
    for found in attentions(model.graph):
        product = found.scoring
        behind = _scaling_behind(product)
        q, k = (_factor(product, index, uses) for index in (0, 1))
        if q.parameters:
            _fold(q, behind, names)
        elif behind:
            _put_onto_q(product, behind[0], names)
        if k.parameters:
            _fold(k, (), names)


def _scaling_behind(product: ir.Node) -> tuple[ir.Node, ...]:
    """The scaling that alone reads the product."""
    value = product.outputs[0]
    readers = [node for node, _ in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or not _scales(readers[0], value):
        return ()
    return (readers[0],)


def _scales(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node does nothing but multiply a tensor with one number."""
    if not query.is_op(node, "Mul", "Div") or node.outputs[0].is_graph_output():
        return False
    index = next(i for i, read in enumerate(node.inputs) if read is value)
    return is_scalar(node.inputs[1 - index]) and (index == 0 or node.op_type == "Mul")


def _factor(product: ir.Node, index: int, uses: dict[ir.Node, WeightUse]) -> Factor:
    scalings: list[ir.Node] = []
    unscaled: list[ir.Value] = []
    scaled: list[ir.Value] = []
    value = product.inputs[index]
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        node = value.producer()
        if node is None:
            break
        computed = [read for read in node.inputs if read is not None and not is_scalar(read)]
        if len(computed) == 1 and _scales(node, computed[0]):
            scalings.append(node)
            value = computed[0]
            continue
        (unscaled if scalings else scaled).append(value)
        if commutes(node) and len(node.outputs) == 1:
            value = node.inputs[0]
            continue
        layer, parameters = _projection(node, uses)
        if layer is not node:
            (unscaled if scalings else scaled).append(layer.outputs[0])
        return Factor(
            scalings=tuple(scalings),
            parameters=parameters,
            unscaled=tuple(unscaled),
            scaled=tuple(scaled),
        )
    return Factor()


def _projection(
    node: ir.Node, uses: dict[ir.Node, WeightUse]
) -> tuple[ir.Node, tuple[ir.Value, ...]]:
    """The layer of the projection that ends in a node; weight and bias, if they serve it alone."""
    biases: list[ir.Value] = []
    if query.is_op(node, "Add"):
        biases = [read for read in node.inputs if read is not None and _is_constant(read)]
        others = [read for read in node.inputs if read is not None and read not in biases]
        layer = others[0].producer() if len(others) == 1 else None
        if layer is None or len(others[0].uses()) > 1 or others[0].is_graph_output():
            return node, ()
        node = layer
    use = uses.get(node)
    if use is None or use.path or use.operand != 1:
        return node, ()
    own = (use.value, *biases, *(read for read in node.inputs[2:] if read is not None))
    return node, own if all(_is_constant(v) and _serves_one(v) for v in own) else ()


def _is_constant(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype in query.FLOATS


def _serves_one(value: ir.Value) -> bool:
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    return alone and not value.is_graph_input()


def _fold(factor: Factor, behind: Sequence[ir.Node], names: edit.Names) -> None:
    """Multiply weight and bias with all scalings, which go."""
    scalings = (*factor.scalings, *behind)
    scale = float(np.prod([_number(node) for node in scalings]))
    for value in factor.parameters if scalings else ():
        assert value.const_value is not None
        array = value.const_value.numpy().astype(np.float32) * np.float32(scale)
        edit.replace_weight(value, array)
    for value in factor.unscaled + (factor.scaled if behind else ()):
        value.name = names.fresh(f"{value.name}.scaled")
    for node in factor.scalings:
        _take_out(node, final=not behind)
    for node in behind:
        _take_out(node)


def _put_onto_q(product: ir.Node, scaling: ir.Node, names: edit.Names) -> None:
    q, graph = product.inputs[0], product.graph
    assert q is not None
    assert graph is not None
    number = next(read for read in scaling.inputs if is_scalar(read))
    name = names.fresh(f"{scaling.name}.on_q")
    moved = edit.new_node(
        scaling.op_type,
        [q, number],
        name=name,
        author=AUTHOR,
        output=names.fresh(name),
        like=q,
    )
    graph.insert_before(product, moved)
    _take_out(scaling)
    product.replace_input_with(0, moved.outputs[0])


def _take_out(scaling: ir.Node, *, final: bool = True) -> None:
    """Have its readers read what it scaled: now, where that is final, the very same values."""
    graph, constants = scaling.graph, [v for v in scaling.inputs if is_scalar(v)]
    data = next(read for read in scaling.inputs if not is_scalar(read))
    assert data is not None
    assert isinstance(graph, ir.Graph)
    name = scaling.outputs[0].name
    scaling.outputs[0].replace_all_uses_with(data)
    graph.remove(scaling, safe=True)
    if final:
        data.name = name
    edit.drop_unused(graph, [value for value in constants if value is not None])


def _number(scaling: ir.Node) -> float:
    (constant,) = _scalars(scaling)
    number = float(constant.numpy().astype(np.float64).item())
    return 1 / number if scaling.op_type == "Div" else number


def _scalars(scaling: ir.Node) -> Iterator[ir.TensorProtocol]:
    for value in scaling.inputs:
        if is_scalar(value) and value is not None and value.const_value is not None:
            yield value.const_value

"""Rewrites of products and choices of tensors; see `rewrites`."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from gpusq_compiler.train.protograph import attribute, integer_of, number_of, word_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from gpusq_compiler.train.copy.copygraph import CopyGraph
    from gpusq_compiler.train.protograph import Shape


def transpose(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Write the default permutation out: the gradient wants it."""
    if attribute(node, "perm") is not None:
        return None
    order = list(reversed(range(graph.rank(node.input[0]))))
    return graph.node("Transpose", node.input[0], perm=order)


def matmul(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """A vector becomes a matrix for as long as the product takes."""
    left, right = node.input
    shapes = graph.shape(left), graph.shape(right)
    if None in shapes or all(len(shape or ()) > 1 for shape in shapes):
        return None
    row, column = (len(shape or ()) == 1 for shape in shapes)
    if row:
        left = graph.node("Unsqueeze", left, graph.integers([0]))
    if column:
        right = graph.node("Unsqueeze", right, graph.integers([1]))
    product = graph.node("MatMul", left, right)
    return graph.squeezed(product, [-2] * row + [-1] * column)


def fused_matmul(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Transposes, a product and a factor."""
    if integer_of(node, "transBatchA", 0) or integer_of(node, "transBatchB", 0):
        return None
    sides = []
    for name, key in zip(node.input, ("transA", "transB"), strict=True):
        order = list(range(graph.rank(name)))
        if integer_of(node, key, 0) and len(order) > 1:
            order[-2:] = reversed(order[-2:])
            name = graph.node("Transpose", name, perm=order)  # noqa: PLW2901
        sides.append(name)
    product, factor = graph.node("MatMul", *sides), number_of(node, "alpha", 1.0)
    return product if factor == 1.0 else graph.node("Mul", product, graph.constant(factor))


def where(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Spread what is broadcast: its gradient comes back in the wrong shape otherwise."""
    condition, *choices = node.input
    whole = graph.shape(node.output[0])
    narrow = [name for name in choices if graph.shape(name) != whole or whole is None]
    narrow = [name for name in narrow if not _is_scalar(graph, name)]
    if not narrow:
        return None
    size = graph.node("Shape", graph.node("Where", condition, *choices))
    spread = [graph.node("Expand", n, size) if n in narrow else n for n in choices]
    return graph.node("Where", condition, *spread)


def _is_scalar(graph: CopyGraph, name: str) -> bool:
    value = graph.value(name)
    return value is not None and value.size == 1


@dataclasses.dataclass(frozen=True)
class _Operand:
    """A tensor with one letter per axis."""

    name: str
    letters: str


def einsum(graph: CopyGraph, node: onnx.NodeProto) -> str | None:
    """Transposes, reductions and a product per further operand."""
    shapes = [graph.shape(name) for name in node.input]
    parsed = _parsed(word_of(node, "equation", ""), shapes)
    if parsed is None:
        return None
    letters, result = parsed
    if any(len(set(term)) < len(term) for term in (*letters, result)):
        return None
    sizes = _sizes(letters, shapes)
    operands = [_Operand(*pair) for pair in zip(node.input, letters, strict=True)]
    first, *others = operands
    for index, other in enumerate(others):
        later = "".join(operand.letters for operand in others[index + 1 :])
        product = _contracted(graph, first, other, result + later, sizes)
        if product is None:
            return None
        first = product
    return _arranged(graph, _reduced(graph, first, result), result)


def _parsed(equation: str, shapes: Sequence[Shape | None]) -> tuple[list[str], str] | None:
    """Letters of each operand and of the result, capitals from Z on for an ellipsis."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes) or None in shapes:
        return None
    hidden = [
        len(shape or ()) - len(term.replace("...", ""))
        for term, shape in zip(terms, shapes, strict=True)
    ]
    spare = [chr(code) for code in range(0x100, 0x100 + max(0, *hidden, 0))]
    written = [
        term.replace("...", "".join(spare[len(spare) - count :]))
        if count
        else term.replace("...", "")
        for term, count in zip(terms, hidden, strict=True)
    ]
    if not arrow:
        together = "".join(term.replace("...", "") for term in terms)
        once = sorted(letter for letter in set(together) if together.count(letter) == 1)
        right = ("..." if spare else "") + "".join(once)
    return written, right.replace("...", "".join(spare))


def _sizes(letters: Sequence[str], shapes: Sequence[Shape | None]) -> dict[str, int | None]:
    sizes: dict[str, int | None] = {}
    for term, shape in zip(letters, shapes, strict=True):
        for letter, size in zip(term, shape or (), strict=True):
            known = sizes.get(letter)
            sizes[letter] = size if known in {None, 1} else known
    return sizes


def _contracted(
    graph: CopyGraph,
    left: _Operand,
    right: _Operand,
    wanted: str,
    sizes: dict[str, int | None],
) -> _Operand | None:
    """Sum over what both have and nobody wants, as one MatMul with leading batch axes."""
    left = _reduced(graph, left, wanted + right.letters)
    right = _reduced(graph, right, wanted + left.letters)
    shared = [letter for letter in left.letters if letter in right.letters]
    batch = "".join(letter for letter in shared if letter in wanted)
    summed = "".join(letter for letter in shared if letter not in wanted)
    rows = "".join(letter for letter in left.letters if letter not in shared)
    columns = "".join(letter for letter in right.letters if letter not in shared)
    groups = [_length(group, sizes) for group in (rows, summed, columns)]
    if any(length is None for length in groups):
        return None
    high, inner, width = (length or 0 for length in groups)
    if [high, inner].count(-1) > 1 or [inner, width].count(-1) > 1:
        return None
    a = _matrix(graph, left, batch, rows + summed, [high, inner])
    b = _matrix(graph, right, batch, summed + columns, [inner, width])
    product = graph.node("MatMul", a, b)
    shape = [sizes[letter] or -1 for letter in rows + columns]
    if shape.count(-1) > 1:
        return None
    whole = graph.node("Reshape", product, graph.integers([0] * len(batch) + shape))
    return _Operand(whole, batch + rows + columns)


def _length(letters: str, sizes: dict[str, int | None]) -> int | None:
    """Elements of a group of axes; -1 with one unknown size, None with more."""
    unknown = sum(sizes[letter] is None for letter in letters)
    if unknown:
        return -1 if unknown == 1 else None
    return math.prod(sizes[letter] or 1 for letter in letters)


def _matrix(
    graph: CopyGraph, operand: _Operand, batch: str, rest: str, sides: list[int]
) -> str:
    arranged = _arranged(graph, operand, batch + rest)
    return graph.node("Reshape", arranged, graph.integers([0] * len(batch) + sides))


def _arranged(graph: CopyGraph, operand: _Operand, letters: str) -> str:
    if operand.letters == letters:
        return operand.name
    order = [operand.letters.index(letter) for letter in letters]
    return graph.node("Transpose", operand.name, perm=order)


def _reduced(graph: CopyGraph, operand: _Operand, wanted: str) -> _Operand:
    """Sum over axes that nobody else has."""
    lonely = [i for i, letter in enumerate(operand.letters) if letter not in wanted]
    if not lonely:
        return operand
    total = graph.node("ReduceSum", operand.name, graph.integers(lonely), keepdims=0)
    return _Operand(total, "".join(c for c in operand.letters if c in wanted))

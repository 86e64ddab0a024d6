"""What a compiled file keeps of its promises, judged from the file alone.

Knows onnx and numpy and nothing of the package: weights are found by walking back from the
layer's input, the pattern is counted on the integer codes, pairs are looked for by operator.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

Array = npt.NDArray[Any]
LAYERS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
LAYOUT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast")
MOVES = (*LAYOUT, "MaxPool", "Slice", "Split", "Gather", "Expand", "Resize", "DepthToSpace")
"""Operators behind which a quantized tensor still holds nothing but quantized values."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One product or convolution with a constant weight.

    Attributes:
        name: Its node.
        operator: MatMul, Gemm, Conv or ConvTranspose.
        weight: Integer codes, or floats where nothing dequantizes them; as the layer reads it.
        axis: What the product sums over.
        groups: Of a convolution.
        stem: Whether it is a convolution on an input of the model.
        weight_pair: Whether the weight arrives through DequantizeLinear.
        activation_pair: Whether the activation does, moves in between allowed.
        direct_pair: Whether it does with nothing in between.
    """

    name: str
    operator: str
    weight: Array
    axis: int
    groups: int
    stem: bool
    weight_pair: bool
    activation_pair: bool
    direct_pair: bool

    @property
    def length(self) -> int:
        """How many consecutive values one output of the layer sums over."""
        size = int(self.weight.shape[self.axis])
        return size // self.groups if self.operator == "ConvTranspose" else size

    @property
    def eligible(self) -> bool:
        """Whether 2:4 is owed: whole groups of four, neither depthwise nor stem."""
        return self.length % 4 == 0 and not self.stem

    @property
    def in_pattern(self) -> bool:
        """Whether of every four consecutive codes at least two are zero."""
        lines = np.moveaxis(self.weight, self.axis, -1)
        kept = (lines.reshape(*lines.shape[:-1], -1, 4) != 0).sum(axis=-1)
        return self.weight.dtype.kind in "iu" and int(kept.max(initial=0)) <= 2


class Graph:
    """The main graph of a file, by name."""

    def __init__(self, path: Path) -> None:
        self.proto = onnx.load(path).graph
        self.constants = {t.name: t for t in self.proto.initializer}
        self.inputs = {v.name for v in self.proto.input} - set(self.constants)
        self.producers = {out: node for node in self.proto.node for out in node.output}

    def layers(self) -> list[Layer]:
        """Every layer, in graph order."""
        found = (self._layer(node) for node in self.proto.node if node.op_type in LAYERS)
        return [layer for layer in found if layer is not None]

    def _layer(self, node: onnx.NodeProto) -> Layer | None:
        for operand in (1,) if "Conv" in node.op_type else (1, 0):
            weight, quantized = self._constant(node.input[operand])
            if weight is not None and weight.ndim >= 2:
                break
        else:
            return None
        activation = node.input[1 - operand]
        return Layer(
            name=node.name,
            operator=node.op_type,
            weight=weight,
            axis=_axis(node, operand, weight.ndim),
            groups=int(_attribute(node, "group", 1)),
            stem="Conv" in node.op_type and self._above(activation) in self.inputs,
            weight_pair=quantized,
            activation_pair=self._dequantized(activation, MOVES),
            direct_pair=self._dequantized(activation, ()),
        )

    def _constant(self, name: str) -> tuple[Array | None, bool]:
        """Values (codes before their scale) of a tensor that follows from one initializer."""
        if name in self.constants:
            return numpy_helper.to_array(self.constants[name]), False
        node = self.producers.get(name)
        if node is None or node.op_type not in {*LAYOUT, "DequantizeLinear"}:
            return None, False
        array, quantized = self._constant(node.input[0])
        if array is None or node.op_type == "DequantizeLinear":
            return array, array is not None
        if node.op_type == "Transpose":
            array = array.transpose(_attribute(node, "perm", None))
        elif node.op_type == "Reshape":
            array = array.reshape(numpy_helper.to_array(self.constants[node.input[1]]))
        elif node.op_type not in {"Identity", "Cast"}:
            return None, False
        return array, quantized

    def _dequantized(self, name: str, through: tuple[str, ...]) -> bool:
        node = self.producers.get(name)
        while node is not None and node.op_type in through:
            node = self.producers.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    def _above(self, name: str) -> str:
        """The tensor before any quantizer."""
        node = self.producers.get(name)
        while node is not None and node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            name = node.input[0]
            node = self.producers.get(name)
        return name

    def orphans(self) -> list[str]:
        """Initializers that nothing reads."""
        read = {name for node in self.proto.node for name in _reads(node)}
        read |= {value.name for value in self.proto.output}
        return [name for name in self.constants if name not in read]


def pattern_share(layers: list[Layer]) -> float:
    """Share of the weight values owed to the pattern whose tensor obeys it in codes."""
    owed = sum(layer.weight.size for layer in layers if layer.eligible)
    kept = sum(layer.weight.size for layer in layers if layer.eligible and layer.in_pattern)
    return kept / owed if owed else 1.0


def coverage(layers: list[Layer], *, direct: bool = False) -> float:
    """Share of the layers that read both sides through DequantizeLinear."""
    covered = [
        layer.weight_pair and (layer.direct_pair if direct else layer.activation_pair)
        for layer in layers
    ]
    return sum(covered) / len(covered) if covered else 1.0


def _axis(node: onnx.NodeProto, operand: int, rank: int) -> int:
    if node.op_type == "Conv":
        return 1
    if node.op_type == "ConvTranspose":
        return 0
    last = operand == 0
    if _attribute(node, "transA" if operand == 0 else "transB", 0):
        last = not last
    return rank - 1 if last else rank - 2


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _reads(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for entry in node.attribute:
        if entry.HasField("g"):
            names |= {name for inner in entry.g.node for name in _reads(inner)}
            names |= {value.name for value in entry.g.output}
    return names

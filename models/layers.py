"""Layers drawn straight into an ONNX graph, with the names that a good exporter gives.

A layer is a function of a `Sketch`, the tensor that flows in, and a dotted scope such as
``blocks.0.attn.qkv``. Its parameters are initializers named ``scope.weight``, its nodes
``/scope/Operator``, its tensors ``/scope/Operator_output_0``. Everything else is a Constant
node, so the float initializers of a graph are exactly what a network has learned.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Sequence

Array: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.int64]

OPSET = 17
IR_VERSION = 8
EPSILON = 1e-5


class Sketch:
    """A graph under construction.

    Args:
        seed: Where the starting values of the parameters come from.
        training: Draw the form that is trained. Batch normalization then stands in primitives,
            over the mean and variance of the batch at hand; otherwise the operator stands in
            its inference form, with running statistics as initializers.
    """

    def __init__(self, seed: int, *, training: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.training = training
        self._inputs: list[ir.Value] = []
        self._nodes: dict[str, ir.Node] = {}
        self._parameters: list[ir.Value] = []

    def input(self, name: str, kind: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """Add an input of the graph."""
        self._inputs.append(ir.val(name, kind, shape))
        return self._inputs[-1]

    def parameter(self, name: str, value: npt.NDArray[np.floating]) -> ir.Value:
        """Add an initializer."""
        tensor = ir.tensor(value.astype(np.float32), name=name)
        held = ir.val(name, ir.DataType.FLOAT, value.shape, const_value=tensor)
        self._parameters.append(held)
        return held

    def constant(self, scope: str, value: Array) -> ir.Value:
        """Add a Constant node."""
        return self.node(scope, "Constant", value=ir.tensor(value))

    def scalar(self, scope: str, value: float) -> ir.Value:
        """Add a Constant node with one number."""
        return self.constant(scope, np.array(value, dtype=np.float32))

    def node(
        self, scope: str, operator: str, *inputs: ir.Value, **attributes: object
    ) -> ir.Value:
        """Add a node and return its one output."""
        base = name = f"/{scope}/{operator}" if scope else f"/{operator}"
        repeats = 0
        while name in self._nodes:
            repeats += 1
            name = f"{base}_{repeats}"
        added = ir.node(operator, inputs, attributes, name=name)  # type: ignore[arg-type]
        self._nodes[name] = added
        added.outputs[0].name = f"{name}_output_0"
        return added.outputs[0]

    def model(self, name: str, output: ir.Value) -> ir.Model:
        """Finish the graph."""
        graph = ir.Graph(
            self._inputs,
            [output],
            nodes=self._nodes.values(),
            initializers=self._parameters,
            opset_imports={"": OPSET},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="gpusq-compiler models")


def named(x: ir.Value, name: str, shape: Sequence[int | str]) -> ir.Value:
    """Declare a float32 tensor as the graph's output."""
    x.name, x.dtype, x.shape = name, ir.DataType.FLOAT, ir.Shape(shape)
    return x


def linear(sketch: Sketch, x: ir.Value, scope: str, fan_in: int, fan_out: int) -> ir.Value:
    """``x @ weight + bias`` over the last axis; weight [in, out], Xavier uniform."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    weight = sketch.rng.uniform(-bound, bound, (fan_in, fan_out))
    product = sketch.node(scope, "MatMul", x, sketch.parameter(f"{scope}.weight", weight))
    bias = sketch.parameter(f"{scope}.bias", np.zeros(fan_out))
    return sketch.node(scope, "Add", product, bias)


def classifier(sketch: Sketch, x: ir.Value, scope: str, width: int, classes: int) -> ir.Value:
    """Gemm with weight [out, in], Xavier uniform."""
    bound = math.sqrt(6 / (width + classes))
    weight = sketch.rng.uniform(-bound, bound, (classes, width))
    parameters = (
        sketch.parameter(f"{scope}.weight", weight),
        sketch.parameter(f"{scope}.bias", np.zeros(classes)),
    )
    return sketch.node(scope, "Gemm", x, *parameters, transB=1)


def layer_norm(sketch: Sketch, x: ir.Value, scope: str, width: int) -> ir.Value:
    """Layer normalization over the last axis."""
    weight = sketch.parameter(f"{scope}.weight", np.ones(width))
    bias = sketch.parameter(f"{scope}.bias", np.zeros(width))
    return sketch.node(scope, "LayerNormalization", x, weight, bias, axis=-1, epsilon=EPSILON)


def reshape(sketch: Sketch, x: ir.Value, scope: str, shape: Sequence[int]) -> ir.Value:
    """Reshape; 0 keeps a dimension, so the batch stays free."""
    return sketch.node(
        scope, "Reshape", x, sketch.constant(scope, np.array(shape, dtype=np.int64))
    )


def conv(
    sketch: Sketch,
    x: ir.Value,
    scope: str,
    channels: tuple[int, int],
    *,
    kernel: int,
    stride: int = 1,
    pad: int = 0,
    bias: bool = False,
    gain: float = 1.0,
) -> ir.Value:
    """Square convolution, weight [out, in, kernel, kernel], He normal over the outputs."""
    fan_in, fan_out = channels
    deviation = gain * math.sqrt(2 / (fan_out * kernel * kernel))
    weight = sketch.rng.normal(0, deviation, (fan_out, fan_in, kernel, kernel))
    parameters = [sketch.parameter(f"{scope}.weight", weight)]
    if bias:
        parameters.append(sketch.parameter(f"{scope}.bias", np.zeros(fan_out)))
    return sketch.node(
        scope,
        "Conv",
        x,
        *parameters,
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[pad] * 4,
    )


def batch_norm(sketch: Sketch, x: ir.Value, scope: str, width: int) -> ir.Value:
    """Batch normalization over axis 1, in the form that the sketch asks for."""
    weight = sketch.parameter(f"{scope}.weight", np.ones(width))
    bias = sketch.parameter(f"{scope}.bias", np.zeros(width))
    if sketch.training:
        return _normalized_by_batch(sketch, x, scope, weight, bias)
    mean = sketch.parameter(f"{scope}.running_mean", np.zeros(width))
    variance = sketch.parameter(f"{scope}.running_var", np.ones(width))
    return sketch.node(
        scope, "BatchNormalization", x, weight, bias, mean, variance, epsilon=EPSILON
    )


def _normalized_by_batch(
    sketch: Sketch, x: ir.Value, scope: str, weight: ir.Value, bias: ir.Value
) -> ir.Value:
    """The training form; its statistics carry the names that they have as initializers."""
    mean = sketch.node(scope, "ReduceMean", x, axes=[0, 2, 3], keepdims=1)
    mean.name = f"{scope}.running_mean"
    centred = sketch.node(scope, "Sub", x, mean)
    squares = sketch.node(scope, "Mul", centred, centred)
    variance = sketch.node(scope, "ReduceMean", squares, axes=[0, 2, 3], keepdims=1)
    variance.name = f"{scope}.running_var"
    raised = sketch.node(scope, "Add", variance, sketch.scalar(scope, EPSILON))
    unit = sketch.node(scope, "Div", centred, sketch.node(scope, "Sqrt", raised))
    along_channels = (1, -1, 1, 1)
    scaled = sketch.node(scope, "Mul", unit, reshape(sketch, weight, scope, along_channels))
    return sketch.node(scope, "Add", scaled, reshape(sketch, bias, scope, along_channels))

"""Chains of sparse INT8 products, as they come out of a compile for TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Collection

    from gpusq_compiler.runtime.samples import Array

STEP, ZERO = np.array(0.02, np.float32), np.zeros((), np.int8)


def chain(
    length: int, *, width: int = 16, dense: Collection[int] = (), outputs: str = "int8"
) -> ir.Model:
    """``length`` times ``fc → bias → relu``, quantized before each and behind the last.

    Args:
        length: How many.
        width: Of every matrix.
        dense: Numbers of those that are not 2:4.
        outputs: Whether what each hands on is ``int8``; else a float Tanh stands between.
    """
    lines: list[str] = []
    constants: dict[str, Array] = {"s": STEP, "z": ZERO, "b": np.ones(width, np.float32)}
    value = "x"
    for number in range(length):
        lines.append(
            f"q{number}_ = QuantizeLinear({value}, s, z) "
            f"d{number} = DequantizeLinear(q{number}_, s, z) "
            f"w{number} = DequantizeLinear<axis = 1>(c{number}, t) "
            f"m{number} = MatMul(d{number}, w{number}) a{number} = Add(m{number}, b) "
            f"r{number} = Relu(a{number})"
        )
        value = f"r{number}"
        if outputs != "int8":
            lines.append(f"n{number} = LayerNormalization(r{number}, b)")
            value = f"n{number}"
        constants[f"c{number}"] = _codes(width, dense=number in dense)
    lines.append(f"qy = QuantizeLinear({value}, s, z) y = DequantizeLinear(qy, s, z)")
    constants["t"] = np.full(width, 0.02, np.float32)
    header = '<ir_version: 9, opset_import: ["" : 17]>'
    signature = f"g (float[4, {width}] x) => (float[4, {width}] y)"
    proto = onnx.parser.parse_model(f"{header} {signature} {{ {' '.join(lines)} }}")
    for name, value_ in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(value_, name))
    _name(proto)
    return ir.from_proto(proto)


def _codes(width: int, *, dense: bool) -> Array:
    codes = np.random.default_rng(0).integers(1, 128, (width, width)).astype(np.int8)
    if not dense:
        codes[1::4] = codes[2::4] = 0
    return codes


def _name(proto: onnx.ModelProto) -> None:
    """``fc0``, ``bias0``, ``relu0``, and others after what they compute."""
    words = {"MatMul": "fc", "Add": "bias", "Relu": "relu"}
    for node in proto.graph.node:
        word = words.get(node.op_type)
        node.name = f"{word}{node.output[0][1:]}" if word else node.output[0].rstrip("_")

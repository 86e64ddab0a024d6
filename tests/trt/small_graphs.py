"""How the small graphs of `cases` are written: ONNX text, constants, the rules they break."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.runtime.samples import Array

RNG = np.random.default_rng(0)
ZERO = np.zeros((), np.int8)
STEP = np.array(0.02, np.float32)
STEPS = np.full(8, 0.02, np.float32)
ZEROS = np.zeros(8, np.int8)
WEIGHT = RNG.normal(0, 0.3, (16, 8)).astype(np.float32)
CODES = RNG.integers(-127, 128, (16, 8)).astype(np.int8)
MORE = ', "com.microsoft" : 1, "my" : 1'


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph in ONNX text with its constants, and the names of the rules that it breaks."""

    name: str
    text: str
    broken: frozenset[str]
    constants: Mapping[str, Any]
    opset: int = 17

    def proto(self) -> onnx.ModelProto:
        ir_version = 9 if self.opset < 21 else 10
        header = f'<ir_version: {ir_version}, opset_import: ["" : {self.opset}{MORE}]>'
        proto = onnx.parser.parse_model(header + self.text)
        for name, value in self.constants.items():
            array = numpy_helper.from_array(value, name) if _is_array(value) else value
            proto.graph.initializer.append(array)
        for node in proto.graph.node:
            node.name = node.name or node.output[0]
        return proto

    def model(self) -> ir.Model:
        return ir.from_proto(self.proto())


CASES: list[Case] = []


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray | np.generic)


def case(name: str, text: str, *broken: str, opset: int = 17, **constants: Any) -> None:
    CASES.append(Case(name, text, frozenset(broken), constants, opset))


def with_element(array: Array, index: int, value: float) -> Array:
    changed: Array = array.copy()
    changed[index] = value
    return changed


def narrow(name: str, kind: int, shape: tuple[int, ...]) -> TensorProto:
    codes = RNG.integers(0, 8, int(np.prod(shape)))
    return helper.make_tensor(name, kind, shape, codes)


def product(
    name: str,
    *broken: str,
    weight: str = "",
    pair: str = "",
    opset: int = 17,
    **constants: Any,
) -> None:
    """``x → Q → DQ → MatMul`` with an int8 weight; parts and constants can be replaced."""
    pair = pair or "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
    weight = weight or "wd = DequantizeLinear<axis = 1>(w8, sw, zw)"
    text = f"g (float[4, 16] x) => (float[4, 8] y) {{ {pair} {weight} y = MatMul(d, wd) }}"
    given = {"s": STEP, "z": ZERO, "sw": STEPS, "zw": ZEROS, "w8": CODES, "w": WEIGHT}
    merged = {**given, **constants}
    used = {k: v for k, v in merged.items() if f"{k}," in text or f"{k})" in text}
    case(name, text, *broken, opset=opset, **{k: v for k, v in used.items() if v is not None})

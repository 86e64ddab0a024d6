"""The cases of ``operators.txt``, for tests and for the table in ``docs/gradients.md``."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from gpusq_compiler.train.copy.widened import graphs

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

RNG = np.random.default_rng(11)


def _normal(*shape: int) -> Array:
    return RNG.normal(0, 0.7, shape).astype(np.float32)


def _integers(*values: int) -> Array:
    return np.array(values, np.int64)


CONSTANTS: dict[str, Array] = {
    "half": np.array(0.5, np.float32),
    "low": np.array(-0.8, np.float32),
    "high": np.array(0.9, np.float32),
    "four": np.array([0.5, 1, 1.5, 2], np.float32),
    "quarter": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    "four1": np.array([0.5, -1, 1.5, 2], np.float32).reshape(4, 1, 1),
    "six": np.arange(1, 7).astype(np.float32),
    "bias6": _normal(6),
    "group": np.array([1.5, 0.5], np.float32),
    "shift": np.array([0.5, -0.5], np.float32),
    "positive": np.array([0.5, 1.3, 2, 3], np.float32).reshape(4, 1, 1),
    "matrix": _normal(6, 6),
    "tall": _normal(36, 5),
    "wide": _normal(5, 36),
    "bias5": _normal(5),
    "cube": _normal(4, 6, 5),
    "kernel": _normal(8, 4, 3, 3),
    "grouped": _normal(8, 2, 3, 3),
    "deep": _normal(4, 1, 3, 3),
    "bias8": _normal(8),
    "up": _normal(4, 3, 3, 3),
    "upgroup": _normal(4, 2, 3, 2),
    "bias3": _normal(3),
    "lstm_w": _normal(1, 12, 6),
    "lstm_r": _normal(1, 12, 3),
    "gru_w": _normal(1, 9, 6),
    "gru_r": _normal(1, 9, 3),
    "pads": _integers(0, 0, 1, 2, 0, 0, 2, 1),
    "crop": _integers(0, 0, -1, 2, 0, 0, 2, -1),
    "pads2": _integers(1, 2, 2, 1),
    "negatives2": _integers(-1, -2),
    "one": _integers(1),
    "zero0": np.array(0, np.int64),
    "three": _integers(3),
    "axes": _integers(3),
    "axes23": _integers(2, 3),
    "axis0": np.array(3, np.int64),
    "two": np.array([2], np.int64),
    "starts": _integers(5, 0),
    "ends": _integers(-100, 6),
    "steps": _integers(-2, 3),
    "rows": np.array([[3, 0], [1, 1]], np.int64),
    "row": np.array(2, np.int64),
    "picks": np.random.default_rng(3).integers(0, 6, (2, 4, 6, 3)),
    "places": np.array([0, 2, 4, 1, 3, 5], np.int64)[:3].reshape(1, 1, 1, 3)
    * np.ones((2, 4, 6, 1), np.int64),
    "points": np.array([[0, 1], [1, 3]], np.int64),
    "spots": np.array([[0, 1, 2], [1, 3, 0]], np.int64),
    "patch": _normal(2, 6),
    "updates": _normal(2, 4, 6, 3),
    "shape": _integers(3, 1, 4, 6, 6),
    "flat": _integers(0, -1),
    "halves": _integers(2, 2),
    "uneven": _integers(1, 3),
    "repeats": _integers(1, 2, 1, 3),
    "scales": np.array([1, 1, 2, 1.5], np.float32),
    "scales2": np.array([2, 1.5], np.float32),
    "down": np.array([1, 1, 0.5, 0.7], np.float32),
    "sizes2": _integers(9, 4),
    "empty": np.zeros(0, np.float32),
    "mask": np.random.default_rng(5).random((4, 6, 6)) < 0.5,
    "true": np.array(True),
    "count": np.array(3, np.int64),
    "ramp": np.linspace(-1, 1, 36).astype(np.float32).reshape(1, 1, 6, 6),
    "qkv": _normal(6, 18),
    "bias18": _normal(18),
    "half2": np.array(0.6, np.float32),
    "diagonal": np.array(1, np.int64),
    "flat3": _integers(0, 0, -1),
    "shape5": _integers(0, 4, 4, 3, 3),
    "flat4": _integers(1, 4, 6, 6),
    "kernel1": _normal(5, 4, 3),
    "kernel3": _normal(3, 4, 2, 2, 2),
    "up1": _normal(4, 3, 3),
    "tokens": _integers(0, 24, 6),
    "offsets": _normal(2, 18, 4, 4),
    "grid": np.random.default_rng(8).uniform(-0.9, 0.9, (2, 3, 3, 2)).astype(np.float32),
    "roi": np.array([0, 0, 0.1, 0.2, 1, 1, 0.9, 0.8], np.float32),
    "lengths": _integers(6, 3, 1, 2),
    "zeros1": _integers(0),
    "ones1": _integers(1),
    "zeros2": _integers(0, 0),
    "ones2": _integers(1, 4),
    "axes02": _integers(0, 1),
}


SETTINGS = frozenset({"down", "roi", "scales", "grid", "offsets"})
"""Float constants that say what to do and are never trained."""


TWO_SAMPLES = frozenset({"picks", "points", "spots", "places", "updates", "grid", "one"})
"""Constants that want exactly two samples."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        name: Operator, then what is special about the case.
        body: Statements that end with ``y = ...``.
        opset: Of the default domain.
    """

    name: str
    body: str
    opset: int = 18

    @property
    def operator(self) -> str:
        """Operator under test, its domain in front where it is not the default."""
        return self.name.split(",", maxsplit=1)[0]

    @functools.cached_property
    def proto(self) -> onnx.ModelProto:
        """The model, its constants as initializers."""
        model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": {self.opset}, "com.microsoft": 1]>
        g (float[N,4,6,6] x) => (float y) {{ {self.body} }}""")
        model.graph.output[0].type.tensor_type.ClearField("shape")
        used = {name for graph in graphs(model.graph) for n in graph.node for name in n.input}
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name)
            for name, value in CONSTANTS.items()
            if name in used
        )
        return model

    @property
    def parameters(self) -> list[str]:
        """Float constants with several elements that train."""
        return [
            t.name
            for t in self.proto.graph.initializer
            if t.data_type == onnx.TensorProto.FLOAT and t.dims and t.name not in SETTINGS
        ]

    @property
    def free(self) -> bool:
        """Whether the model takes any number of samples."""
        names = {tensor.name for tensor in self.proto.graph.initializer}
        return not names & TWO_SAMPLES

    def model(self) -> ir.Model:
        """The model for the program under test."""
        return ir.from_proto(self.proto)

    def x(self) -> Array:
        """Two samples."""
        return np.random.default_rng(3).normal(0, 1.3, (2, 4, 6, 6)).astype(np.float32)


PREPARED = {
    "pos": "a = Abs(x) pos = Add(a, half)",
    "small": "a = Sin(x) small = Mul(a, half)",
    "large": "a = Abs(x) b = Add(a, half) large = Add(b, half2)",
}


def _case(name: str, body: str, opset: int) -> Case:
    before = [text for key, text in PREPARED.items() if re.search(rf"\b{key}\b", body)]
    stated = body if re.match(r"[\w, ]+ = ", body) else f"y = {body}"
    return Case(name=name, body=" ".join([*before, stated]), opset=opset)


CASES = {
    name: _case(name, body, int(opset))
    for name, opset, body in (
        line.split(" | ")
        for line in Path(__file__).with_suffix(".txt").read_text().splitlines()
        if not line.startswith("#")
    )
}

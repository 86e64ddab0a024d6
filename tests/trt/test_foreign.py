"""Models that ONNX Runtime's own quantizer made: found bad, repaired, and still the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from gpusq_compiler.ir import io
from gpusq_compiler.trt.legality.legal import lint
from gpusq_compiler.trt.legality.repair import repair
from gpusq_compiler.trt.legality.rules import Severity
from tests import tiny
from tests.trt.test_repair import run

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Array


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """The same values once."""

    def __init__(self, x: Array) -> None:
        self.left = [{"x": x}]

    def get_next(self) -> dict[str, Array] | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("name", ["mlp", "residual"])
@pytest.mark.parametrize(
    ("activations", "weights", "per_channel"),
    [
        (QuantType.QUInt8, QuantType.QUInt8, False),
        (QuantType.QUInt8, QuantType.QInt8, False),
        (QuantType.QInt8, QuantType.QInt8, True),
    ],
)
def test_a_quantized_model_becomes_legal(
    name: str, activations: QuantType, weights: QuantType, per_channel: bool, tmp_path: Path
) -> None:
    model = tiny.MODELS[name]()
    x = tiny.samples(model, 16).arrays["x"]
    dense, quantized = tmp_path / "dense.onnx", tmp_path / "quantized.onnx"
    io.save(model, dense)
    quantize_static(
        dense,
        quantized,
        Batches(x),
        activation_type=activations,
        weight_type=weights,
        per_channel=per_channel,
    )
    foreign = io.load(quantized)
    found = {one.rule.name for one in lint(foreign)}
    assert {"zero-point", "codes"} & found
    repaired = repair(foreign).model
    serious = {Severity.REFUSED, Severity.DIFFERS}
    assert [str(one) for one in lint(repaired) if one.severity in serious] == []
    first = run(onnx.load(quantized), {"x": x})["y"]
    second = run(ir.to_proto(repaired), {"x": x})["y"]
    reference = run(onnx.load(dense), {"x": x})["y"]
    # Scales at most double, so errors of rounding do; 3 leaves room for the first quantizer's.
    error = float(np.sqrt(np.mean((first - reference) ** 2)))
    assert np.sqrt(np.mean((second - reference) ** 2)) < 3 * error

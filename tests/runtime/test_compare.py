from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from gpusq_compiler.calibration.batches import from_arrays
from gpusq_compiler.errors import ModelError
from gpusq_compiler.runtime import metrics
from gpusq_compiler.runtime.compare import compare
from gpusq_compiler.runtime.session import input_specs

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Samples

X = np.random.default_rng(0).standard_normal((23, 4)).astype(np.float32)


def model(*, factor: float = 1.0, batch: str = "batch", output: str = "y") -> ir.Model:
    return ir.from_onnx_text(
        f"""
        <ir_version: 9, opset_import: ["" : 17]>
        net (float[{batch}, 4] x)
            => (float[{batch}, 4] {output}, float[{batch}, 2, 2] image, bool[{batch}, 4] sign)
        <float four = {{4}}, float factor = {{{factor}}}, int64[3] shape = {{-1, 2, 2}}>
        {{
            x4 = Mul(x, four)
            round = Round(x4)
            mixed = Mul(round, factor)
            rest = Sub(x4, mixed)
            {output} = Sub(x4, rest)
            image = Reshape({output}, shape)
            sign = Greater({output}, four)
        }}
        """
    )


def values(factor: float) -> npt.NDArray[Any]:
    x4 = X * np.float32(4)
    values: npt.NDArray[Any] = x4 - (x4 - np.round(x4) * np.float32(factor))
    return values


def samples() -> Samples:
    return from_arrays({"x": X}, input_specs(model()), workdir=Path("unused"))


def test_a_model_equals_itself() -> None:
    found = compare(model(), model(), samples(), batch_size=5, threads=1)
    assert list(found) == ["y", "image"], "numeric outputs, in order"
    for one in found.values():
        assert one.cosine == pytest.approx(1)
        assert one.sqnr == math.inf
        assert one.max_error == 0
    assert found["y"].agreement == 1
    assert found["image"].agreement is None


@pytest.mark.parametrize(("first", "second"), [("batch", "batch"), ("4", "batch"), ("b", "4")])
def test_differences_are_those_of_whole_arrays(first: str, second: str) -> None:
    reference, other = model(batch=first), model(factor=0.5, batch=second)
    found = compare(reference, other, samples(), batch_size=5, threads=1)
    b, a = values(1.0), values(0.5)
    assert found["y"].cosine == pytest.approx(metrics.cosine(a, b), abs=1e-6)
    assert found["y"].sqnr == pytest.approx(metrics.sqnr(a, b), abs=1e-4)
    assert found["y"].max_error == pytest.approx(metrics.max_error(a, b), rel=1e-5)
    agreement = np.mean(a.argmax(axis=1) == b.argmax(axis=1))
    assert found["y"].agreement == pytest.approx(float(agreement))
    assert found["image"].sqnr == pytest.approx(found["y"].sqnr)


def test_models_of_different_outputs_or_inputs_are_refused() -> None:
    with pytest.raises(ModelError, match="different outputs: y, image, sign and z, image"):
        compare(model(), model(output="z"), samples())
    renamed = model()
    renamed.graph.inputs[0].name = "X"
    with pytest.raises(ModelError, match="different inputs: x and X"):
        compare(model(), renamed, samples())
    longer = model()
    longer.graph.inputs[0].shape = ir.Shape(["batch", 8])
    with pytest.raises(ModelError, match=r"inputs: x float32\[\?,4\] and x float32\[\?,8\]"):
        compare(model(), longer, samples())


def test_outputs_of_different_shapes_are_refused() -> None:
    flat = model()
    shape = flat.graph.initializers["shape"]
    shape.const_value = ir.tensor(np.array([-1, 4, 1]), name="shape")
    flat.graph.outputs[1].shape = ir.Shape(["batch", 4, 1])
    with pytest.raises(ModelError, match=r"output 'image': has shape \[23, 4, 1\]"):
        compare(model(), flat, samples())


def test_tensors_in_place_of_outputs() -> None:
    reference, other = model(), model(factor=0.5)
    found = compare(reference, other, samples(), tensors=["mixed", "x4"], threads=1)
    assert list(found) == ["mixed", "x4"]
    # Half of the same numbers: the angle is 0, the difference as large as what is left.
    assert found["mixed"].cosine == pytest.approx(1)
    assert found["mixed"].sqnr == pytest.approx(20 * math.log10(2), abs=1e-4)
    assert found["x4"].sqnr == math.inf

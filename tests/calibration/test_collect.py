from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from gpusq_compiler.calibration.batches import from_arrays
from gpusq_compiler.calibration.collect import collect
from gpusq_compiler.errors import DataError
from gpusq_compiler.quant.observers import MinMax, Observer, Percentile
from gpusq_compiler.runtime.events import Silent
from gpusq_compiler.runtime.session import input_specs

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Samples

COUNT = 23


def net(batch: str = "batch") -> ir.Model:
    return ir.from_onnx_text(
        f"""
        <ir_version: 9, opset_import: ["" : 17]>
        net (float[{batch}, 3] x) => (float[{batch}, 3] y)
        <float two = {{2}}>
        {{
            doubled = Mul(x, two)
            positive = Relu(doubled)
            y = Sqrt(positive)
        }}
        """
    )


def data(model: ir.Model) -> tuple[Samples, npt.NDArray[Any]]:
    x = np.random.default_rng(0).standard_normal((COUNT, 3)).astype(np.float32)
    return from_arrays({"x": x}, input_specs(model), workdir=Path("unused")), x


class Record(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, task: str, total: int) -> None:
        self.lines.append(f"{task} {total}")

    def advance(self, done: int, **values: float) -> None:
        self.lines.append(str(done))

    def end(self) -> None:
        self.lines.append("end")

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize("batch", ["batch", "4"])
def test_ranges_of_inputs_inner_tensors_and_outputs(batch: str) -> None:
    model = net(batch)
    samples, x = data(model)
    names = ["y", "x", "doubled", "positive"]
    states = collect(model, names, samples, MinMax(), batch_size=10, threads=1)
    ranges = {name: state.absmax() for name, state in states.items()}
    relu = np.maximum(2 * x, 0)
    assert list(ranges) == names
    assert ranges == {
        "y": pytest.approx(float(np.sqrt(relu).max()), rel=1e-6),
        "x": float(np.abs(x).max()),
        "doubled": float(np.abs(2 * x).max()),
        "positive": float(relu.max()),
    }


@pytest.mark.parametrize("observer", [MinMax(), Percentile(percentile=60.0)])
def test_batch_size_does_not_matter(observer: Observer) -> None:
    model = net()
    samples, _ = data(model)
    found = [
        collect(model, ["doubled"], samples, observer, batch_size=size, threads=1)
        for size in (1, 7, 64)
    ]
    assert len({states["doubled"].absmax() for states in found}) == 1


def test_the_model_stays_as_it_was() -> None:
    model = net()
    before = ir.to_proto(model).SerializeToString()
    collect(model, ["doubled", "doubled"], data(model)[0], MinMax(), threads=1)
    assert ir.to_proto(model).SerializeToString() == before


def test_inputs_alone() -> None:
    model = net()
    samples, x = data(model)
    states = collect(model, ["x"], samples, MinMax())
    assert states["x"].absmax() == float(np.abs(x).max())


def test_progress_counts_samples() -> None:
    model = net()
    events = Record()
    collect(model, ["y"], data(model)[0], MinMax(), batch_size=10, events=events)
    assert events.lines == ["calibrate 23", "10", "20", "23", "end"]


def test_a_tensor_that_is_not_finite_is_named() -> None:
    model = net()
    x = np.ones((COUNT, 3), np.float32)
    x[21] = 3e38
    samples = from_arrays({"x": x}, input_specs(model), workdir=Path("unused"))
    with pytest.raises(
        DataError, match=r"tensor 'doubled': is not finite on samples 20 to 22"
    ):
        collect(model, ["x", "doubled"], samples, MinMax(), batch_size=10, threads=1)

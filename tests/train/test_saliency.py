"""Mean squared gradients against Jacobians in numpy and by finite differences."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.runtime.samples import training_rows
from gpusq_compiler.runtime.session import Session
from gpusq_compiler.train import saliency
from gpusq_compiler.train.job import ParameterGroup, TrainJob
from gpusq_compiler.train.loop import OrtTrainer
from gpusq_compiler.train.saliency import RandomProjection, squared_gradients
from tests.train import nets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from gpusq_compiler.runtime.samples import Array, Feeds

pytestmark = [pytest.mark.training, nets.needs_training]
RNG = np.random.default_rng(5)


def scored(
    student: ir.Model, folder: Path, names: tuple[str, ...], **options: Any
) -> TrainJob:
    groups = (ParameterGroup(names=names, learning_rate=0.0),)
    return nets.job(student, folder, groups=groups, **options)


def mlp() -> tuple[ir.Model, dict[str, Array]]:
    """Two layers with a Tanh and a weight that nothing reads; 2 -> 4 -> 3."""
    net = nets.Net(3)
    hidden = net.add("Tanh", net.add("MatMul", "x", net.weight("a", 2, 4)))
    net.add("MatMul", hidden, net.weight("b", 4, 3), out="y")
    net.add("Neg", net.weight("lost", 2), out="nowhere")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in net.weights}
    return net.model(["N", 2], {"y": ["N", 3]}), weights


def jacobian_squares(x: Array, w: dict[str, Array]) -> dict[str, Array]:
    """Sum over samples and outputs of (df/dw)^2, weight by weight, over |f|^2."""
    found = {"a": np.zeros((2, 4)), "b": np.zeros((4, 3))}
    power = 0.0
    for row in x.astype(np.float64):
        hidden = np.tanh(row @ w["a"])
        power += float(np.sum((hidden @ w["b"]) ** 2))
        for out in range(3):
            found["b"][:, out] += hidden**2
            for i, j in itertools.product(range(2), range(4)):
                slope = w["b"][j, out] * (1 - hidden[j] ** 2) * row[i]
                found["a"][i, j] += slope**2
    return {name: value / power for name, value in found.items()}


class Sorted(nets.ArraySamples):
    """Batches in the order of the samples, so that each meets every vector of signs."""

    def take(self, rows: npt.NDArray[np.int64]) -> Feeds:
        return super().take(np.sort(rows))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EverySign(RandomProjection):
    """Every vector of signs in turn instead of random ones."""

    def feeds(self, step: int) -> Feeds:
        array = self.outputs["y"]
        bits = (step >> np.arange(array.size)) & 1
        signs = (2 * bits - 1).reshape(array.shape) / np.linalg.norm(array)
        return {f"{saliency.SIGNS}y": signs.astype(np.float32)}


def test_the_mean_over_all_signs_is_the_squared_jacobian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, weights = mlp()
    monkeypatch.setattr(saliency, "RandomProjection", EverySign)
    data = Sorted(nets.samples(student, 2).arrays)
    job = scored(student, tmp_path, ("a", "b", "lost"), data=data, batch_size=2)
    found = squared_gradients(job, 2**6, probe=False)
    expected = jacobian_squares(data.arrays["x"], weights)
    assert set(found) == {"a", "b"}  # nothing reaches "lost"
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        assert found[name] == pytest.approx(value, rel=1e-4)  # float32 through ten operators


def test_random_signs_estimate_it(tmp_path: Path) -> None:
    student, weights = mlp()
    data = nets.samples(student, 2)
    job = scored(student, tmp_path, ("a", "b"), data=data, batch_size=2)
    batches = 400
    found = OrtTrainer(probe=False).squared_gradients(job, batches)
    for name, value in jacobian_squares(data.arrays["x"], weights).items():
        # Var[g^2] <= 2 E[g^2]^2 for signs; five standard deviations of the mean.
        assert found[name] == pytest.approx(value, rel=5 * (2 / batches) ** 0.5)
        assert not np.array_equal(found[name], value.astype(np.float32))


def replaced(model: ir.Model, name: str, value: Array) -> ir.Model:
    copy = ir.from_proto(ir.to_proto(model))
    copy.graph.initializers[name].const_value = ir.tensor(value, name=name)
    return copy


def slopes(job: TrainJob, name: str, term: RandomProjection, step: int) -> Iterator[float]:
    """Central differences of the projection, weight by weight."""
    tensor = job.student.graph.initializers[name].const_value
    assert tensor is not None
    start = tensor.numpy()
    rows = training_rows(job.data.count, job.batch_size, job.seed, step)
    signs = term.feeds(step)
    for index in np.ndindex(start.shape):
        ends = []
        for change in (STEP, -STEP):
            moved = start.copy()
            moved[index] += change
            outputs = Session(replaced(job.student, name, moved), threads=1)(
                job.data.take(rows)
            )
            products = [
                np.sum(outputs[key].astype(np.float64) * signs[saliency.SIGNS + key])
                for key in term.outputs
            ]
            ends.append(float(sum(products)))
        yield (ends[0] - ends[1]) / (2 * STEP)


STEP = 1e-2
INTEGERS = """
<ir_version: 8, opset_import: ["": 17]>
g (int64[N,2] x) => (float[N,3] y, float[N] size, int64[N,2] same)
<float[4,3] table, float[3] gain, int64[1] last = {1}> {
    rows = Gather(table, x)
    pooled = ReduceMean<axes=[1], keepdims=0>(rows)
    bent = Tanh(pooled)
    y = Mul(bent, gain)
    size = ReduceSum<keepdims=0>(y, last)
    same = Add(x, last)
}"""


def convolution() -> tuple[ir.Model, nets.ArraySamples]:
    net = nets.Net(1)
    smooth = net.add("Sigmoid", net.add("Conv", "x", net.weight("w", 2, 2, 2, 2)))
    net.add("GlobalAveragePool", smooth, out="y")
    model = net.model(["N", 2, 3, 3], {"y": ["N", 2, 1, 1]})
    return model, nets.samples(model, 6)


def embedding() -> tuple[ir.Model, nets.ArraySamples]:
    weights = [
        ir.tensor(RNG.normal(size=shape).astype(np.float32), name=name)
        for name, shape in (("table", (4, 3)), ("gain", (3,)))
    ]
    model = ir.from_onnx_text(INTEGERS, initializers=weights)
    return model, nets.ArraySamples({"x": RNG.integers(0, 4, (6, 2))})


@pytest.mark.parametrize(
    ("build", "names"), [(convolution, ("w",)), (embedding, ("table", "gain"))]
)
def test_other_layers_match_finite_differences(
    tmp_path: Path, build: Any, names: tuple[str, ...]
) -> None:
    student, data = build()
    job = scored(student, tmp_path, names, data=data, batch_size=3, seed=4)
    found = squared_gradients(job, 2, probe=False)
    rows = training_rows(data.count, 3, job.seed, 0)
    outputs = Session(student, threads=1)(data.take(rows))
    floats = {name: a for name, a in outputs.items() if a.dtype == np.float32}
    projection = RandomProjection(outputs=floats, seed=job.seed)
    assert set(found) == set(names)
    for name in names:
        squares = [
            np.square(list(slopes(job, name, projection, step)), dtype=np.float64)
            for step in range(2)
        ]
        # A central difference errs by STEP^2/6 times a third derivative of order 1, so 2e-5,
        # and by the rounding of the outputs over STEP, 1e-7/STEP.
        expected = np.mean(squares, axis=0).reshape(found[name].shape)
        assert found[name] == pytest.approx(expected, rel=1e-2, abs=1e-5)
        assert found[name].max() > 1e-3


def test_signs_are_new_at_every_step_and_weigh_outputs_alike() -> None:
    outputs: dict[str, Array] = {
        "y": np.full((4, 5), 100.0, np.float32),
        "z": np.zeros(3, np.float16),
    }
    projection = RandomProjection(outputs=outputs, seed=1)
    first, second = (projection.feeds(step) for step in range(2))
    assert 100 * np.abs(first["signs.y"]) == pytest.approx(20**-0.5)
    assert set(np.abs(first["signs.z"])) == {1.0}
    assert not np.array_equal(first["signs.y"], second["signs.y"])


def test_same_seed_same_bytes_and_the_model_stays(tmp_path: Path) -> None:
    student = nets.transformer()
    before = ir.to_proto(student).SerializeToString()
    job = scored(student, tmp_path, nets.float_names(student, ending="_w"), threads=2)

    def found(job: TrainJob, *, probe: bool = False) -> dict[str, bytes]:
        squares = squared_gradients(job, 3, probe=probe)
        assert all(np.all(square >= 0) for square in squares.values())
        return {name: value.tobytes() for name, value in squares.items()}

    once = found(job)
    assert found(job, probe=True) == once
    assert found(dataclasses.replace(job, seed=1)) != once
    assert ir.to_proto(student).SerializeToString() == before
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_score(tmp_path: Path) -> None:
    student, _ = mlp()
    assert squared_gradients(scored(student, tmp_path, ("lost",)), 2) == {}


def test_what_is_not_finite_is_an_error(tmp_path: Path) -> None:
    student, _ = mlp()
    broken = nets.ArraySamples({"x": np.full((8, 2), np.nan, np.float32)})
    with pytest.raises(TrainingError, match=r"batch 0: the random projection .* not finite"):
        squared_gradients(scored(student, tmp_path, ("a",), data=broken), 1)


STEEP = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y) <float[2] w = {0, 1}> {
    square = Mul(x, x)
    scaled = Mul(square, w)
    y = Sqrt(scaled)
}"""


def test_a_gradient_that_is_not_finite_names_its_tensor(tmp_path: Path) -> None:
    student = ir.from_onnx_text(STEEP)
    with pytest.raises(TrainingError, match="gradient of tensor 'w'"):
        squared_gradients(scored(student, tmp_path, ("w",)), 1, probe=False)

"""Block-wise distillation: blocks read the teacher's tensors, and learn alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.utils import Extractor

from gpusq_compiler.runtime.events import Silent
from gpusq_compiler.train.checkpoints import FolderCheckpoints
from gpusq_compiler.train.gradients.lossgraph import TEACHER
from gpusq_compiler.train.job import ParameterGroup, TrainJob, TrainResult
from gpusq_compiler.train.loop import OrtTrainer
from gpusq_compiler.train.losses import FeatureError, OutputError, SoftLogits
from gpusq_compiler.train.machine import Machine
from gpusq_compiler.train.prepared import prepare
from tests.train import nets

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Array, Feeds

pytestmark = [pytest.mark.training, nets.needs_training]
TRAINER = OrtTrainer(probe=False)
TERMS = (OutputError(logits=True), FeatureError())
CUTS = ("b0_out", "b1_out")


def distillation(folder: Path, **options: object) -> TrainJob:
    """A pruned, quantized transformer of two blocks that imitates its float original."""
    teacher = nets.transformer(width=16, depth=2)
    defaults: dict[str, object] = {
        "teacher": teacher,
        "terms": TERMS,
        "features": CUTS,
        "data": nets.samples(teacher, 32),
        "blockwise": True,
    }
    student = options.pop("student", None) or nets.quantized(pruned(teacher))
    assert isinstance(student, ir.Model)
    return nets.job(student, folder, **{**defaults, **options})


def pruned(model: ir.Model) -> ir.Model:
    """The smaller half of every matrix set to zero."""
    sparse = model.clone()
    for name in nets.float_names(sparse):
        weight = weight_of(sparse, name)
        if weight.ndim == 2:
            kept = np.abs(weight) > np.median(np.abs(weight))
            sparse.graph.initializers[name].const_value = ir.tensor(weight * kept, name=name)
    return sparse


def weight_of(model: ir.Model, name: str) -> Array:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


def one_step(job: TrainJob) -> tuple[dict[str, float], dict[str, Array], Feeds]:
    """The series and gradients of the first step, and what was fed."""
    prepared = prepare(job, probe=False)
    machine = Machine(job, prepared)
    feeds = prepared.batches.training(0)
    series = machine.gradient(feeds)
    return series, {name: g.copy() for name, g in machine.gradients().items()}, feeds


def with_another_block(student: ir.Model) -> ir.Model:
    """The second block's weights negated."""
    other = student.clone()
    for name in nets.float_names(other, ending="_w"):
        if name.startswith("b1_"):
            negated = ir.tensor(-weight_of(other, name), name=name)
            other.graph.initializers[name].const_value = negated
    return other


@pytest.mark.parametrize("blockwise", [True, False])
def test_no_gradient_crosses_a_cut(tmp_path: Path, blockwise: bool) -> None:
    job = distillation(tmp_path, blockwise=blockwise)
    changed = dataclasses.replace(job, student=with_another_block(job.student))
    (_, ours, _), (_, theirs, _) = one_step(job), one_step(changed)
    first = [name for name in ours if name.startswith(("embed", "b0_"))]
    assert len(first) >= 10
    assert all(np.any(ours[name]) for name in first if name.endswith("_w"))
    same = [np.array_equal(ours[name], theirs[name]) for name in first]
    assert all(same) if blockwise else not any(same)
    assert not np.array_equal(ours["b1_up_w"], theirs["b1_up_w"])


def test_each_block_is_that_block_alone_on_the_teachers_input(tmp_path: Path) -> None:
    job = distillation(tmp_path, student=pruned(nets.transformer(width=16, depth=2)))
    series, _, feeds = one_step(job)
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(job.student))
    fed = {"x": feeds["x"], **{name: feeds[TEACHER + name] for name in (*CUTS, "logits")}}
    for start, end in zip(("x", *CUTS), (*CUTS, "logits"), strict=True):
        block = Extractor(proto).extract_model([start], [end])
        found, wanted = nets.run(block, fed)[end], fed[end]
        alone = np.mean((wanted - found) ** 2) / np.mean(wanted**2)
        told = series["output-error" if end == "logits" else f"feature/{end}"]
        assert told == pytest.approx(alone, rel=1e-5)
    together, _, _ = one_step(dataclasses.replace(job, blockwise=False))
    assert together["feature/b0_out"] == series["feature/b0_out"]
    assert together["feature/b1_out"] > 1.2 * series["feature/b1_out"]


def bytes_of(result: TrainResult) -> dict[str, bytes]:
    values = {name: value.tobytes() for name, value in result.values.items()}
    return {**values, "looks": np.array(result.held_out).tobytes()}


@pytest.mark.parametrize(
    "options", [{"terms": (SoftLogits(),)}, {"features": ()}], ids=["not compared", "none"]
)
def test_without_a_compared_feature_nothing_is_cut(
    tmp_path: Path, options: dict[str, object]
) -> None:
    on, off = (distillation(tmp_path, blockwise=b, **options) for b in (True, False))
    assert bytes_of(TRAINER.fit(on)) == bytes_of(TRAINER.fit(off))


def test_every_block_learns(tmp_path: Path) -> None:
    result = TRAINER.fit(distillation(tmp_path, steps=60, evaluate_every=60))
    assert result.frozen == {}
    for name in ("output-error", "feature/b0_out", "feature/b1_out"):
        start, end = result.series[name][0], np.mean(result.series[name][-4:])
        assert end < 0.8 * start, name


class Killed(Exception):
    pass


class Killer(Silent):
    """Events that end the run in its middle."""

    def advance(self, done: int, **values: float) -> None:
        if done == 7:
            raise Killed


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    job = distillation(tmp_path)
    whole = bytes_of(TRAINER.fit(job))
    store = FolderCheckpoints(tmp_path / "store", resume=True)
    stored = dataclasses.replace(job, checkpoints=store)
    with pytest.raises(Killed):
        TRAINER.fit(dataclasses.replace(stored, events=Killer()))
    assert bytes_of(TRAINER.fit(stored)) == whole
    together = dataclasses.replace(job, blockwise=False)
    fresh = bytes_of(TRAINER.fit(together))
    assert fresh != whole
    assert bytes_of(TRAINER.fit(dataclasses.replace(together, checkpoints=store))) == fresh


BODIES = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,4] y)
<float[4,4] a = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1},
 float[4,4] b = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1},
 float coarse = {0.5}, float fine = {0.01}, int8 zero = {0}, int64 two = {2}, bool yes = {1}> {
    p = MatMul(x, a)
    c = QuantizeLinear(p, coarse, zero)
    cd = DequantizeLinear(c, coarse, zero)
    f = QuantizeLinear(p, fine, zero)
    fd = DequantizeLinear(f, fine, zero)
    q = Loop<body = body (int64 i, bool go, float[N,4] s) => (bool on, float[N,4] t) {
        on = Identity(go)
        t = If(go)<
            then_branch = then () => (float[N,4] u) { u = Add(s, p) },
            else_branch = else () => (float[N,4] v) { v = Identity(p) }>
    }>(two, yes, cd)
    r = MatMul(q, b)
    k = Add(r, fd)
    y = Add(k, p)
}"""


def test_bodies_and_all_quantizers_read_the_teachers(tmp_path: Path) -> None:
    student = ir.from_onnx_text(BODIES)
    teacher = ir.from_onnx_text(BODIES.replace("a = {1,", "a = {2,"))
    group = ParameterGroup(names=("a", "b"), learning_rate=0.01)
    options = {"student": student, "teacher": teacher, "groups": (group,), "features": ("p",)}
    data = nets.samples(student, 32)
    job = distillation(tmp_path, **options, data=data)
    series, gradients, _ = one_step(job)
    assert series["output-error"] == pytest.approx(0, abs=1e-12)  # behind p both are alike
    assert series["feature/p"] > 0.1
    assert np.any(gradients["a"])
    assert TRAINER.fit(job).frozen == {}

"""The loop: it learns, keeps its promises about bytes, and fails with a sentence."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import MissingRuntime, TrainingError
from gpusq_compiler.runtime.events import Silent
from gpusq_compiler.train.checkpoints import FolderCheckpoints
from gpusq_compiler.train.gradients import probe
from gpusq_compiler.train.job import Loss, LossGraph, ParameterGroup, TrainJob, TrainResult
from gpusq_compiler.train.loop import OrtTrainer
from gpusq_compiler.train.losses import (
    AttentionTransfer,
    FeatureCosine,
    FeatureError,
    HardLabel,
    OutputError,
    SoftLogits,
)
from tests.train import nets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Array, Feeds

pytestmark = [pytest.mark.training, nets.needs_training]
MIXED = (HardLabel(), SoftLogits(), OutputError(), FeatureError())
TRAINER = OrtTrainer(probe=False)


def distillation(folder: Path, **options: object) -> TrainJob:
    """A sparse, quantized transformer that imitates its dense float original."""
    teacher = nets.transformer(width=16, depth=2)
    student = nets.quantized(teacher)
    masks = {name: halved(student, name) for name in nets.float_names(student, ending="_w")}
    groups = (
        ParameterGroup(names=nets.float_names(student), learning_rate=3e-3, weight_decay=0.05),
        ParameterGroup(names=nets.scale_names(student), learning_rate=1e-2, relative=True),
    )
    defaults: dict[str, object] = {
        "teacher": teacher,
        "terms": MIXED,
        "features": ("b0_out", "b1_out"),
        "groups": groups,
        "masks": masks,
        "data": nets.samples(student, 64, classes=5),
        "held_out": nets.samples(student, 20, classes=5, seed=9),
        "steps": 20,
    }
    return nets.job(student, folder, **{**defaults, **options})


def halved(model: ir.Model, name: str) -> Array:
    """True for the two largest of every four along axis 0."""
    value = model.graph.initializers[name].const_value
    assert value is not None
    groups = np.abs(value.numpy()).reshape(-1, 4, value.shape[1])
    ranks = groups.argsort(axis=1).argsort(axis=1)
    kept: Array = (ranks >= 2).reshape(value.numpy().shape)
    return kept


def bytes_of(result: TrainResult) -> dict[str, bytes]:
    series = {name: np.array(values).tobytes() for name, values in result.series.items()}
    values = {name: value.tobytes() for name, value in result.values.items()}
    looks = np.array(result.held_out).tobytes()
    return {**series, **values, "looks": looks, "best": bytes([result.best_step])}


def test_distillation_lowers_the_loss_and_moves_everything(tmp_path: Path) -> None:
    job = distillation(tmp_path, steps=60, evaluate_every=20)
    result = TRAINER.fit(job)
    looks = dict(result.held_out)
    assert sorted(looks) == [0, 20, 40, 60]
    assert looks[60] < 0.75 * looks[0]  # random labels keep a floor under it
    assert result.best_step == min(looks, key=lambda step: looks[step])
    assert result.frozen == {}
    for name, value in result.values.items():
        start = job.student.graph.initializers[name].const_value
        assert start is not None
        assert value.shape == tuple(start.shape)
        assert value.dtype == start.numpy().dtype
        assert not np.array_equal(value, start.numpy()), name
    assert set(result.series) == {
        "loss", "hard-label", "soft-logits", "feature-error",
        "feature/b0_out", "feature/b1_out",
    }  # fmt: skip
    assert {len(values) for values in result.series.values()} == {60}


@pytest.mark.parametrize("steps", range(4))
def test_the_pattern_holds_after_every_step(tmp_path: Path, steps: int) -> None:
    job = distillation(tmp_path, steps=steps, evaluate_every=1)
    values = TRAINER.fit(job).values
    for name, mask in job.masks.items():
        groups = (values[name] != 0).reshape(-1, 4, values[name].shape[1])
        assert groups.sum(axis=1).max() == 2
        assert np.all(values[name][~mask] == 0)


def test_the_best_iterate_may_be_the_start(tmp_path: Path) -> None:
    wild = (ParameterGroup(names=("head",), learning_rate=1e3),)
    job = distillation(tmp_path, groups=wild, masks={}, terms=(SoftLogits(),))
    result = TRAINER.fit(job)
    assert result.best_step == 0
    start = job.student.graph.initializers["head"].const_value
    assert start is not None
    assert np.array_equal(result.values["head"], start.numpy())
    assert min(loss for _, loss in result.held_out) == result.held_out[0][1]


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first = bytes_of(TRAINER.fit(distillation(tmp_path, threads=2)))
    assert bytes_of(TRAINER.fit(distillation(tmp_path, threads=2))) == first
    assert bytes_of(TRAINER.fit(distillation(tmp_path, threads=2, seed=1))) != first


class Killed(Exception):
    pass


@dataclasses.dataclass
class Killer(Silent):
    """Events that end the process at a step, as far as the loop can tell."""

    at: int = -1
    log: list[object] = dataclasses.field(default_factory=list)

    def begin(self, task: str, total: int) -> None:
        self.log.append((task, total))

    def advance(self, done: int, **values: float) -> None:
        assert np.isfinite(values["loss"])
        self.log.append(done)
        if done == self.at:
            raise Killed

    def end(self) -> None:
        self.log.append("end")


@pytest.mark.parametrize("at", [3, 10, 14])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, at: int) -> None:
    term = Remembering()
    build = functools.partial(distillation, tmp_path, terms=(*MIXED, term))
    whole = bytes_of(TRAINER.fit(build()))
    remembered = list(term.seen)
    folder = tmp_path / "checkpoints"
    term.seen.clear()
    with pytest.raises(Killed):
        TRAINER.fit(build(events=Killer(at), checkpoints=FolderCheckpoints(folder)))
    term.seen.clear()
    events = Killer()
    kept = FolderCheckpoints(folder, resume=True)
    assert bytes_of(TRAINER.fit(build(events=events, checkpoints=kept))) == whole
    assert events.log[1] == at // 5 * 5 + 1
    assert term.seen == remembered


def test_a_killed_average_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    build = functools.partial(distillation, tmp_path, averaging=0.8)
    whole = bytes_of(TRAINER.fit(build()))
    folder = tmp_path / "checkpoints"
    with pytest.raises(Killed):
        TRAINER.fit(build(events=Killer(8), checkpoints=FolderCheckpoints(folder)))
    kept = FolderCheckpoints(folder, resume=True)
    assert bytes_of(TRAINER.fit(build(checkpoints=kept))) == whole


def test_the_average_is_looked_at_and_kept(tmp_path: Path) -> None:
    groups = (ParameterGroup(names=("head",), learning_rate=0.1),)
    job = distillation(tmp_path, groups=groups, masks={}, evaluate_every=1)
    plain = TRAINER.fit(job)
    averaged = TRAINER.fit(dataclasses.replace(job, averaging=0.9))
    assert averaged.series == plain.series  # the parameters train on as before
    assert averaged.held_out[0] == plain.held_out[0]
    assert averaged.held_out[1:] != plain.held_out[1:]
    assert averaged.best_step > 0
    again = TRAINER.fit(replaced(job, averaged.values)).held_out[0][1]
    assert again == min(loss for _, loss in averaged.held_out)


def replaced(job: TrainJob, values: Mapping[str, Array]) -> TrainJob:
    """The job without steps, with a student that starts at these values."""
    student = ir.from_proto(ir.to_proto(job.student))
    for name, value in values.items():
        student.graph.initializers[name].const_value = ir.tensor(value, name=name)
    return dataclasses.replace(job, student=student, steps=0)


def test_averaged_weights_keep_the_pattern(tmp_path: Path) -> None:
    job = distillation(tmp_path, averaging=0.9)
    result = TRAINER.fit(job)
    assert result.best_step > 0
    for name, mask in job.masks.items():
        assert np.all(result.values[name][~mask] == 0)


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    job = distillation(tmp_path, checkpoints=FolderCheckpoints(folder))
    whole = bytes_of(TRAINER.fit(job))
    events = Killer()
    resumed = dataclasses.replace(
        job, events=events, checkpoints=FolderCheckpoints(folder, resume=True)
    )
    assert bytes_of(TRAINER.fit(resumed)) == whole
    assert events.log == []


@pytest.mark.parametrize("gives_up", [True, False])
def test_a_run_that_gets_much_worse_may_give_up(tmp_path: Path, gives_up: bool) -> None:
    job = distillation(tmp_path, evaluate_every=5, gives_up=gives_up)
    wild = tuple(dataclasses.replace(g, learning_rate=1.0) for g in job.groups)
    store = FolderCheckpoints(tmp_path / "checkpoints", resume=True)
    job = dataclasses.replace(job, groups=wild, checkpoints=store)
    result = TRAINER.fit(job)
    assert result.is_worse
    assert [step for step, _ in result.held_out] == (
        [0, 5] if gives_up else [0, 5, 10, 15, 20]
    )
    assert bytes_of(TRAINER.fit(job)) == bytes_of(result)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"averaging": 0.9}], ids=["seed", "averaging"]
)
def test_a_checkpoint_of_another_job_is_not_taken(
    tmp_path: Path, change: dict[str, object]
) -> None:
    store = FolderCheckpoints(tmp_path / "checkpoints", resume=True)
    TRAINER.fit(distillation(tmp_path, checkpoints=store))
    other = distillation(tmp_path, checkpoints=store, **change)
    expected = TRAINER.fit(dataclasses.replace(other, checkpoints=None))
    assert bytes_of(TRAINER.fit(other)) == bytes_of(expected)


def test_progress_is_told(tmp_path: Path) -> None:
    events = Killer()
    TRAINER.fit(distillation(tmp_path, steps=3, label="qat", events=events))
    assert events.log == [("qat", 3), 1, 2, 3, "end"]


ALONE = {"teacher": None, "terms": (HardLabel(),), "features": ()}


def test_a_loss_that_is_not_finite_names_step_and_term(tmp_path: Path) -> None:
    job = distillation(tmp_path, steps=8, **ALONE)
    broken = dict(job.data.take(np.arange(64)))
    broken["x"] = broken["x"].copy()
    broken["x"][40:] = np.nan
    job = dataclasses.replace(job, data=nets.ArraySamples(broken))
    with pytest.raises(TrainingError, match=r"step \d: the loss is not finite: .*hard-label"):
        TRAINER.fit(job)


def test_held_out_samples_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    job = distillation(tmp_path, steps=8, **ALONE)
    broken = {name: array.copy() for name, array in job.held_out.take(np.arange(20)).items()}
    broken["x"][0] = np.nan
    job = dataclasses.replace(job, held_out=nets.ArraySamples(broken))
    with pytest.raises(TrainingError, match="step 0, held-out samples"):
        TRAINER.fit(job)


@pytest.mark.parametrize("term", [FeatureCosine(), AttentionTransfer()])
@pytest.mark.parametrize(("build", "layer"), [
    (nets.transformer, "b0_out"), (nets.convnet, "residual"),
])  # fmt: skip
def test_a_feature_loss_teaches_alone(
    tmp_path: Path, term: Loss, build: Callable[..., ir.Model], layer: str
) -> None:
    student = build(seed=1)
    names = [n for n in nets.float_names(student) if not n.endswith(("_m", "_v"))]
    groups = (ParameterGroup(names=tuple(names), learning_rate=3e-3),)
    job = nets.job(
        student, tmp_path, teacher=build(), terms=(term,), features=(layer,),
        groups=groups, steps=60, evaluate_every=60,
    )  # fmt: skip
    result = TRAINER.fit(job)
    assert set(result.frozen.values()) == {"no-gradient: it is on no path to the loss"}
    assert set(result.frozen) == {"head", "head_b"}
    assert result.held_out[-1][1] < 0.5 * result.held_out[0][1]


BLOCKED = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,4] y)
<float[4,4] a = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1},
 float[4,4] b = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, float[2] c = {1, 2}> {
    p = MatMul(x, a)
    q = Ceil(p)
    y = MatMul(q, b)
    unused = Neg(c)
}"""


@pytest.mark.parametrize("trained", [("a", "b", "c"), ("a", "c")])
def test_what_has_no_gradient_is_frozen_and_listed(
    tmp_path: Path, trained: tuple[str, ...]
) -> None:
    student = ir.from_onnx_text(BLOCKED)
    target = ir.from_onnx_text(BLOCKED.replace("b = {1,", "b = {2,"))
    groups = (ParameterGroup(names=trained, learning_rate=0.1),)
    terms = (OutputError(logits=True),)
    job = nets.job(student, tmp_path, teacher=target, terms=terms, groups=groups)
    result = TRAINER.fit(job)
    assert result.frozen == {
        "a": "no-gradient: Ceil Ceil_1",
        "c": "no-gradient: it is on no path to the loss",
    }
    assert set(result.values) == set(trained) - {"a", "c"}
    assert len(result.held_out) == (3 if "b" in trained else 1)
    if "b" in trained:
        assert result.held_out[-1][1] < result.held_out[0][1]


@pytest.mark.parametrize("name", ["transformer", "convnet"])
def test_a_fixed_batch_wins(tmp_path: Path, name: str) -> None:
    build = {"transformer": nets.transformer, "convnet": nets.convnet}[name]
    teacher = build(batch=4)
    student = nets.quantized(build(batch=4, seed=1))
    data = nets.samples(student, 30)
    names = [n for n in nets.float_names(student) if not n.endswith(("_m", "_v"))]
    groups = (ParameterGroup(names=tuple(names), learning_rate=3e-3),)
    job = nets.job(
        student, tmp_path, teacher=teacher, terms=MIXED, data=data, groups=groups,
        steps=30, held_out=nets.samples(student, 6, seed=3), batch_size=64,
    )  # fmt: skip
    result = TRAINER.fit(job)
    assert result.held_out[-1][1] < result.held_out[0][1]
    assert "hard-label" not in result.series


def test_a_teacher_with_other_names_gives_its_outputs(tmp_path: Path) -> None:
    teacher = nets.transformer()
    teacher.graph.outputs[0].name = "elsewhere"
    student = nets.quantized(nets.transformer())
    job = nets.job(student, tmp_path, teacher=teacher, terms=(SoftLogits(),))
    assert TRAINER.fit(job).series["soft-logits"]
    for node in teacher.graph:
        node.outputs[0].name = f"theirs.{node.outputs[0].name}"
    ours = dataclasses.replace(job, terms=(FeatureError(),), features=("b0_out",))
    with pytest.raises(TrainingError, match="tensor 'b0_out': the teacher has no tensor"):
        TRAINER.fit(ours)
    nobodys = dataclasses.replace(ours, features=("nowhere",))
    with pytest.raises(TrainingError, match="tensor 'nowhere': the student has no such"):
        TRAINER.fit(nobodys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remembering(Loss):
    """A third party's loss: pulls the logits to a target that depends on what it saw."""

    name: ClassVar[str] = "remembering"
    needs_teacher: ClassVar[bool] = False
    seen: list[float] = dataclasses.field(default_factory=list, compare=False, repr=False)

    def build(self, graph: LossGraph) -> str | None:
        gap = graph.node("Sub", graph.student(graph.outputs[0]), "goal")
        spread = graph.node("ReduceMean", graph.node("Mul", gap, gap), keepdims=0)
        graph.record("spread", spread)
        return spread

    @property
    def host_inputs(self) -> tuple[str, ...]:
        return ("goal",)

    def feeds(self, step: int) -> Feeds:
        return {"goal": np.full((1, 5), 0.1 * sum(self.seen), np.float32)}

    def observe(self, step: int, outputs: Feeds) -> None:
        assert step == len(self.seen)
        self.seen.append(float(outputs["spread"]))

    def state(self) -> Mapping[str, Array]:
        return {"seen": np.array(self.seen)}

    def load(self, state: Mapping[str, Array]) -> None:
        self.seen[:] = state["seen"].tolist()


def test_a_third_partys_loss_feeds_sees_and_is_checkpointed(tmp_path: Path) -> None:
    term = Remembering()
    result = TRAINER.fit(distillation(tmp_path, terms=(term,), teacher=None))
    assert term.seen == list(result.series["spread"])
    assert result.series["remembering"] == result.series["spread"]


def test_a_wrong_name_in_a_group_is_an_error(tmp_path: Path) -> None:
    groups = (ParameterGroup(names=("merge",), learning_rate=1.0),)
    with pytest.raises(TrainingError, match="tensor 'merge': it is no float initializer"):
        TRAINER.fit(distillation(tmp_path, groups=groups))


def test_a_name_in_two_groups_is_an_error(tmp_path: Path) -> None:
    groups = (ParameterGroup(names=("head",), learning_rate=1.0),) * 2
    with pytest.raises(TrainingError, match="tensor 'head': two parameter groups"):
        TRAINER.fit(distillation(tmp_path, groups=groups))


def test_steps_can_be_timed(tmp_path: Path) -> None:
    job = distillation(tmp_path)
    assert 0 < TRAINER.seconds_per_step(job, steps=3) < 5
    assert bytes_of(TRAINER.fit(job)) == bytes_of(TRAINER.fit(job))


def test_the_first_step_is_probed(tmp_path: Path) -> None:
    probed = OrtTrainer().fit(distillation(tmp_path, steps=2))
    assert bytes_of(probed) == bytes_of(TRAINER.fit(distillation(tmp_path, steps=2)))
    assert list(tmp_path.iterdir()) == []


CHAIN = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y)
<float[2,2] w = {1, 2, 3, 4}, float[2,2] v = {1, 2, 3, 4}, float[2,2] u = {1, 2, 3, 5}> {
    a = MatMul(x, w)
    b = MatMul(a, v)
    y = MatMul(b, u)
}"""


def test_a_native_crash_freezes_what_lies_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies_above_u(gradient: bytes, *_: object) -> bool:
        outputs = {value.name for value in onnx.load_from_string(gradient).graph.output}
        return bool(outputs & {"w_grad", "v_grad"})

    monkeypatch.setattr(probe, "fails", dies_above_u)
    student = ir.from_onnx_text(CHAIN)
    target = ir.from_onnx_text(CHAIN.replace("u = {1, 2, 3, 5}", "u = {1, 2, 3, 4}"))
    job = nets.job(student, tmp_path, teacher=target, terms=(OutputError(logits=True),))
    groups = (ParameterGroup(names=("u", "v", "w"), learning_rate=0.1),)
    result = OrtTrainer().fit(dataclasses.replace(job, groups=groups))
    reason = "no-gradient: the backward pass fails behind MatMul MatMul_1"
    assert result.frozen == {"v": reason, "w": reason}
    assert set(result.values) == {"u"}
    assert result.held_out[-1][1] < result.held_out[0][1]


@pytest.mark.parametrize(("ending", "fails"), [(b"", False), (b"broken", True)])
def test_the_probe_tells_whether_a_step_works(
    tmp_path: Path, ending: bytes, *, fails: bool
) -> None:
    model = ir.to_proto(ir.from_onnx_text(CHAIN)).SerializeToString()
    feeds = {"x": np.ones((2, 2), np.float32)}
    assert probe.fails(model + ending, feeds, tmp_path, "cpu") == fails


def test_the_probe_survives_a_native_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PROGRAM", "import os; print('ready', flush=True); os.abort()")
    assert probe.fails(b"", {}, tmp_path, "cpu")


def test_a_probe_that_does_not_start_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PROGRAM", "import gpusq_compiler.no_such_module")
    with pytest.raises(MissingRuntime, match=r"does not start: .*no_such_module"):
        OrtTrainer().fit(distillation(tmp_path, steps=2))
    monkeypatch.setattr(probe, "PROGRAM", "raise SystemExit(7)")
    with pytest.raises(MissingRuntime, match="does not start: exit code 7"):
        probe.fails(b"", {}, tmp_path, "cpu")


def test_the_probe_finds_the_package_where_the_parent_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the working folder, and also where nothing is installed."""
    (tmp_path / "gpusq_compiler.py").write_text("raise ImportError('of somebody else')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    model = ir.to_proto(ir.from_onnx_text(CHAIN)).SerializeToString()
    assert not probe.fails(model, {"x": np.ones((2, 2), np.float32)}, tmp_path, "cpu")


DETECTOR = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,6] x, int64[N,2] ids) => (float[N,3,4] boxes, int64[M,3] chosen, float[M] best)
<float[6,12] w, float[8,6] table, float[6,3] v, int64[3] form = {0, 3, 4},
 int64[1] most = {2}, int64 middle = {1}, int64 last = {2}, int64[3] kind = {0, 1, -1},
 int64[1] flat = {-1}, int64[1] front = {1}> {
    rows = Gather(table, ids)
    tokens = ReduceMean<axes=[1], keepdims=0>(rows)
    mixed = Add(x, tokens)
    wide = MatMul(mixed, w)
    boxes = Reshape(wide, form)
    scores = MatMul(mixed, v)
    ranked = Unsqueeze(scores, front)
    chosen = NonMaxSuppression(boxes, ranked, most)
    box = Gather<axis=1>(chosen, last)
    line = Reshape(scores, flat)
    best = Gather(line, box)
}"""


def test_a_detector_imitates_what_keeps_its_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    models = []
    for _ in range(2):
        model = ir.from_onnx_text(
            DETECTOR,
            initializers=[
                ir.tensor(rng.normal(size=shape).astype(np.float32), name=name)
                for name, shape in (("w", (6, 12)), ("table", (8, 6)), ("v", (6, 3)))
            ],
        )
        models.append(model)
    data = nets.ArraySamples(
        {
            "x": rng.normal(size=(24, 6)).astype(np.float32),
            "ids": rng.integers(0, 8, (24, 2)),
        }
    )
    groups = (ParameterGroup(names=("w", "v"), learning_rate=0.01),)
    job = nets.job(
        models[0], tmp_path, teacher=models[1], terms=MIXED, data=data, groups=groups
    )
    result = TRAINER.fit(job)
    assert set(result.frozen) == {"output 'chosen'", "output 'best'", "v"}
    assert "size follows from the values" in result.frozen["output 'best'"]
    assert result.held_out[-1][1] < result.held_out[0][1]


BODY = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,4] y)
<float[4,4] a = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1},
 float[4,4] b = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1},
 float[4] inner = {1, 2, 3, 4}, int64 three = {3}, bool yes = {1}> {
    p = MatMul(x, a)
    q = Loop<body = body (int64 i, bool go, float[N,4] s) => (bool on, float[N,4] t) {
        on = Identity(go)
        t = Mul(s, inner)
    }>(three, yes, p)
    y = MatMul(q, b)
}"""


def test_what_a_body_uses_is_frozen_too(tmp_path: Path) -> None:
    student, target = (
        ir.from_onnx_text(t) for t in (BODY, BODY.replace("b = {1,", "b = {2,"))
    )
    groups = (ParameterGroup(names=("a", "b", "inner"), learning_rate=0.01),)
    terms = (OutputError(logits=True),)
    job = nets.job(student, tmp_path, teacher=target, terms=terms, groups=groups)
    result = TRAINER.fit(job)
    assert result.frozen == dict.fromkeys(("a", "inner"), "no-gradient: Loop Loop_1")
    assert result.held_out[-1][1] < result.held_out[0][1]

"""Every loss against its formula in numpy."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import OptionError, TrainingError
from gpusq_compiler.train.copy.trainable import training_copy
from gpusq_compiler.train.gradients.lossgraph import loss_model
from gpusq_compiler.train.job import Loss, LossGraph
from gpusq_compiler.train.losses import (
    AttentionTransfer,
    FeatureCosine,
    FeatureError,
    FeatureLoss,
    HardLabel,
    OutputError,
    SoftLogits,
)
from gpusq_compiler.train.quantizers import LearnedStep
from tests.train import nets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.runtime.samples import Array

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,4] logits, float[N,4,1] image) <int64[1] two = {2}> {
    logits = Mul(x, x)
    middle = Sin(x)
    image = Unsqueeze(middle, two)
}"""
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype(np.float32)
LABELS = RNG.integers(4, size=6)
TEACHER = {
    "logits": RNG.normal(size=(6, 4)).astype(np.float32),
    "middle": RNG.normal(size=(6, 4)).astype(np.float32),
    "image": RNG.normal(size=(6, 4, 1)).astype(np.float32),
}
STUDENT = {"logits": X * X, "middle": np.sin(X), "image": np.sin(X)[:, :, None]}


def evaluated(
    *terms: Loss,
    features: tuple[str, ...] = (),
    factors: Mapping[str, float] | None = None,
    embeddings: tuple[str, ...] = (),
    with_teacher: bool = True,
    with_labels: bool = True,
    text: str = TEXT,
) -> dict[str, float]:
    """The total as ``loss`` and every series."""
    copy = training_copy(ir.from_onnx_text(text), LearnedStep())
    loss = loss_model(
        copy,
        terms,
        features,
        factors=factors,
        embeddings=embeddings,
        with_teacher=with_teacher,
        with_labels=with_labels,
    )
    feeds: dict[str, Array] = {"x": X, "labels": LABELS}
    feeds.update({f"teacher.{name}": value for name, value in TEACHER.items()})
    found = nets.run(loss.model, feeds)
    series = {name: float(found[tensor]) for name, tensor in loss.series.items()}
    return {"loss": float(found[loss.loss]), **series}


def log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def relative(name: str) -> float:
    gap = TEACHER[name] - STUDENT[name]
    return float((gap**2).mean() / (TEACHER[name] ** 2).mean())


def test_hard_label() -> None:
    logs = log_softmax(STUDENT["logits"])
    expected = -np.mean([logs[row, label] for row, label in enumerate(LABELS)])
    found = evaluated(HardLabel(weight=3.0))
    assert found["hard-label"] == pytest.approx(expected, rel=1e-5)
    assert found["loss"] == pytest.approx(3 * expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_soft_logits(temperature: float) -> None:
    expected = 0.0
    for s, t in zip(STUDENT["logits"], TEACHER["logits"], strict=True):
        p, q = (np.exp(log_softmax(v / temperature)) for v in (t, s))
        expected += temperature**2 * float(np.sum(p * np.log(p / q))) / len(X)
    found = evaluated(SoftLogits(temperature=temperature))
    assert found["soft-logits"] == pytest.approx(expected, rel=1e-4)
    assert found["loss"] == pytest.approx(10 * expected, rel=1e-4)


def test_output_error_takes_what_soft_logits_leaves() -> None:
    assert evaluated(OutputError())["loss"] == pytest.approx(relative("image"), rel=1e-5)
    both = relative("image") + relative("logits")
    assert evaluated(OutputError(logits=True))["loss"] == pytest.approx(both, rel=1e-5)


def test_feature_error_records_every_layer() -> None:
    found = evaluated(FeatureError(), features=("middle", "image"))
    assert found["feature/middle"] == pytest.approx(relative("middle"), rel=1e-5)
    assert found["feature/image"] == pytest.approx(relative("image"), rel=1e-5)
    expected = (relative("middle") + relative("image")) / 2
    assert found["feature-error"] == pytest.approx(expected, rel=1e-5)
    assert found["loss"] == pytest.approx(5 * expected, rel=1e-5)


def test_feature_error_weighs_layers_and_records_them_unweighted() -> None:
    factors = {"image": 1.5, "middle": 0.5}
    found = evaluated(FeatureError(), features=("middle", "image"), factors=factors)
    expected = (0.5 * relative("middle") + 1.5 * relative("image")) / 2
    assert found["feature-error"] == pytest.approx(expected, rel=1e-5)
    assert found["feature/middle"] == pytest.approx(relative("middle"), rel=1e-5)


def test_the_total_is_the_weighted_sum() -> None:
    terms = (HardLabel(), SoftLogits(), OutputError(weight=2.0), FeatureError())
    found = evaluated(*terms, features=("middle",))
    expected = sum(term.weight * found[term.name] for term in terms)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_two_terms_of_one_kind_keep_their_own_series() -> None:
    found = evaluated(SoftLogits(temperature=1.0), SoftLogits(temperature=4.0))
    assert found["soft-logits"] != found["soft-logits#2"]


@pytest.mark.parametrize(("term", "options"), [
    (HardLabel(), {"with_labels": False}),
    (SoftLogits(), {"with_teacher": False}),
    (OutputError(), {"with_teacher": False}),
    (FeatureError(), {"features": ()}),
    (SoftLogits(weight=0.0), {}),
])  # fmt: skip
def test_a_term_that_does_not_apply_is_left_out(
    term: Loss, options: Mapping[str, Any]
) -> None:
    found = evaluated(term, _Plain(), **options)
    assert set(found) == {"loss", "plain"}


def test_no_applicable_term_is_an_error() -> None:
    with pytest.raises(TrainingError, match="none of the losses hard-label applies"):
        evaluated(HardLabel(), with_labels=False)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(OptionError, match=r"soft-logits\.temperature"):
        SoftLogits(temperature=temperature)


def test_soft_logits_is_zero_for_equal_logits() -> None:
    text = TEXT.replace("logits = Mul(x, x)", "logits = Identity(teacher_copy)").replace(
        "(float[N,4] x)", "(float[N,4] x, float[N,4] teacher_copy)"
    )
    copy = training_copy(ir.from_onnx_text(text), LearnedStep())
    loss = loss_model(copy, [SoftLogits()], (), with_teacher=True, with_labels=False)
    feeds = {"x": X, "teacher_copy": X, "teacher.logits": X}
    assert nets.run(loss.model, feeds)[loss.loss] == pytest.approx(0, abs=1e-6)


def test_an_embedding_is_imitated_by_its_values() -> None:
    terms = (HardLabel(), SoftLogits(), OutputError())
    found = evaluated(*terms, embeddings=("logits",))
    both = evaluated(OutputError(logits=True))
    assert found == {"loss": both["loss"], "output-error": both["output-error"]}


MAPS = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,4] logits)
<int64[4] map = {0, 2, 1, 2}, int64[3] row = {0, 2, 2}> {
    logits = Mul(x, x)
    plane = Reshape(logits, map)
    tokens = Reshape(logits, row)
    flat = Sin(logits)
}"""
FORMS: dict[str, tuple[int, ...]] = {
    "plane": (6, 2, 1, 2),
    "tokens": (6, 2, 2),
    "flat": (6, 4),
}
MAP_TEACHER: dict[str, Array] = {
    name: RNG.normal(size=form).astype(np.float32) for name, form in FORMS.items()
}


def compared(
    term: FeatureLoss, *features: str, factors: Mapping[str, float] | None = None
) -> dict[str, float]:
    copy = training_copy(ir.from_onnx_text(MAPS), LearnedStep())
    loss = loss_model(
        copy, (term,), features, factors=factors, with_teacher=True, with_labels=False
    )
    feeds: dict[str, Array] = {"x": X}
    feeds.update({f"teacher.{name}": value for name, value in MAP_TEACHER.items()})
    found = nets.run(loss.model, feeds)
    return {name: float(found[tensor]) for name, tensor in loss.series.items()}


def features_of(name: str) -> tuple[Array, Array]:
    """Student and teacher, channels last."""
    squares = X * X
    student = np.sin(squares) if name == "flat" else squares.reshape(FORMS[name])
    pair = (student.astype(np.float64), MAP_TEACHER[name].astype(np.float64))
    if name != "plane":
        return pair
    return np.moveaxis(pair[0], 1, -1), np.moveaxis(pair[1], 1, -1)


def cosine_distance(name: str) -> float:
    student, teacher = (a.reshape(-1, a.shape[-1]) for a in features_of(name))
    rows = [
        1 - s @ t / (np.sqrt(s @ s) * np.sqrt(t @ t))
        for s, t in zip(student, teacher, strict=True)
    ]
    return float(np.mean(rows))


def attention_distance(name: str) -> float:
    gaps = []
    for s, t in zip(*features_of(name), strict=True):
        maps = [np.mean(a.reshape(-1, a.shape[-1]) ** 2, axis=1) for a in (s, t)]
        first, second = (m / np.sqrt(m @ m) for m in maps)
        gaps.append(np.sum((first - second) ** 2))
    return float(np.mean(gaps))


@pytest.mark.parametrize("name", FORMS)
def test_feature_cosine_compares_channel_vectors(name: str) -> None:
    found = compared(FeatureCosine(), name)
    assert found[f"feature-cosine/{name}"] == pytest.approx(cosine_distance(name), rel=1e-5)


@pytest.mark.parametrize("name", ["plane", "tokens"])
def test_attention_transfer_compares_maps(name: str) -> None:
    found = compared(AttentionTransfer(), name)
    expected = attention_distance(name)
    assert found[f"attention-transfer/{name}"] == pytest.approx(expected, rel=1e-5)


def test_attention_transfer_leaves_out_layers_without_positions() -> None:
    factors = {"flat": 7.0, "tokens": 3.0}
    found = compared(AttentionTransfer(), "plane", "flat", "tokens", factors=factors)
    expected = (attention_distance("plane") + 3 * attention_distance("tokens")) / 2
    assert found["attention-transfer"] == pytest.approx(expected, rel=1e-5)
    assert "attention-transfer/flat" not in found
    with pytest.raises(TrainingError, match="none of the losses"):
        compared(AttentionTransfer(), "flat")


def test_feature_cosine_weighs_layers() -> None:
    factors = {"tokens": 0.5, "flat": 2.0}
    found = compared(FeatureCosine(), "tokens", "flat", factors=factors)
    expected = (0.5 * cosine_distance("tokens") + 2 * cosine_distance("flat")) / 2
    assert found["feature-cosine"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("term", [FeatureCosine(), AttentionTransfer()])
def test_equal_features_are_no_distance_even_where_they_are_zero(term: FeatureLoss) -> None:
    copy = training_copy(ir.from_onnx_text(MAPS), LearnedStep())
    loss = loss_model(copy, (term,), ("tokens",), with_teacher=True, with_labels=False)
    x = X.copy()
    x[0] = x[1, :2] = 0
    feeds: dict[str, Array] = {"x": x, "teacher.tokens": (x * x).reshape(FORMS["tokens"])}
    assert nets.run(loss.model, feeds)[loss.loss] == pytest.approx(0, abs=1e-6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plain(Loss):
    """The mean of the first output."""

    name: ClassVar[str] = "plain"
    needs_teacher: ClassVar[bool] = False

    def build(self, graph: LossGraph) -> str | None:
        return graph.node("ReduceMean", graph.student(graph.outputs[0]), keepdims=0)


TOKENS = """<ir_version: 9, opset_import: ["" : 17]>
net (float[N, 3, 2] x, int64[N, 3] attention_mask) => (float[N, 3, 2] y) {
    y = Mul(x, x)
}"""


def test_positions_without_a_token_do_not_count() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 3, 2)).astype(np.float32)
    teacher = rng.normal(size=(2, 3, 2)).astype(np.float32)
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    copy = training_copy(ir.from_onnx_text(TOKENS), LearnedStep())
    loss = loss_model(copy, (OutputError(),), (), with_teacher=True, with_labels=False)
    feeds: dict[str, Array] = {"x": x, "attention_mask": mask, "teacher.y": teacher}
    found = nets.run(loss.model, feeds)[loss.loss]
    counted = mask.astype(bool)
    error = ((x * x - teacher)[counted] ** 2).sum() / (teacher[counted] ** 2).sum()
    assert float(found) == pytest.approx(float(error), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "name", "length"),
    [("int64", "mask", 3), ("float", "attention_mask", 3), ("int64", "attention_mask", 2)],
)
def test_only_an_integer_attention_mask_of_that_length_counts(
    kind: str, name: str, length: int
) -> None:
    text = TOKENS.replace("int64[N, 3] attention_mask", f"{kind}[N, {length}] {name}")
    copy = training_copy(ir.from_onnx_text(text), LearnedStep())
    loss = loss_model(copy, (OutputError(),), (), with_teacher=True, with_labels=False)
    x = np.ones((2, 3, 2), np.float32)
    feeds: dict[str, Array] = {"x": x, "teacher.y": np.ones_like(x)}
    feeds["teacher.y"][:, 1] = 3
    feeds[name] = np.zeros((2, length), np.float32 if kind == "float" else np.int64)
    assert float(nets.run(loss.model, feeds)[loss.loss]) == pytest.approx(4 / 11, rel=1e-5)


DETECTOR = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,8,1] y) <int64[1] two = {2}> {
    boxes = Unsqueeze(x, two)
    scores = Sin(boxes)
    y = Concat<axis = 1>(boxes, scores)
}"""


def test_parts_of_an_output_count_by_their_own_size() -> None:
    copy = training_copy(ir.from_onnx_text(DETECTOR), LearnedStep())
    parts = {"y": ("boxes", "scores")}
    loss = loss_model(
        copy, (OutputError(),), (), parts=parts, with_teacher=True, with_labels=False
    )
    assert set(loss.targets) == {"boxes", "scores"}
    student = {"boxes": X[:, :, None], "scores": np.sin(X)[:, :, None]}
    teacher = {"boxes": 1.01 * student["boxes"], "scores": student["scores"] + 0.5}
    fed = {f"teacher.{name}": value for name, value in teacher.items()}
    errors = [
        np.mean((teacher[name] - student[name]) ** 2) / np.mean(teacher[name] ** 2)
        for name in parts["y"]
    ]
    found = nets.run(loss.model, {"x": X, **fed})[loss.loss]
    assert float(found) == pytest.approx(float(np.mean(errors)), rel=1e-5)

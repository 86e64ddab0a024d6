from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from gpusq_compiler.calibration import evaluate
from gpusq_compiler.calibration.batches import from_arrays
from gpusq_compiler.calibration.evaluate import Evaluator
from gpusq_compiler.calibration.synthetic import synthesize
from gpusq_compiler.errors import DataError, FileError, GpusqError, OptionError
from gpusq_compiler.runtime.session import Session, input_specs

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Samples

COUNT, CLASSES = 53, 8


def linear(seed: int = 0) -> ir.Model:
    weight = np.random.default_rng(seed).standard_normal((4, CLASSES)).astype(np.float32)
    return ir.from_onnx_text(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        linear (float[batch, 4] x) => (float[batch, 8] y) { y = MatMul(x, w) }
        """,
        initializers=[ir.tensor(weight, name="w")],
    )


def outputs_of(model: ir.Model, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    product: npt.NDArray[Any] = x @ weight.numpy()
    return product


X = np.random.default_rng(7).standard_normal((COUNT, 4)).astype(np.float32)
LABELS = np.random.default_rng(8).integers(0, CLASSES, COUNT)


def samples(labels: npt.NDArray[Any] | None = LABELS) -> Samples:
    data = {"x": X} if labels is None else {"x": X, "labels": labels}
    return from_arrays(data, input_specs(linear()), workdir=Path("unused"))


def evaluator(metric: str | None, data: Samples | None = None) -> Evaluator:
    return Evaluator.of(metric, data or samples(), linear(), batch_size=10, threads=1)


def test_accuracy_is_the_default_with_class_ids() -> None:
    score = evaluator(None)
    assert score.name == "accuracy"
    assert score.measures_accuracy
    model = linear(1)
    wanted = np.mean(outputs_of(model, X).argmax(axis=1) == LABELS)
    assert score(model) == pytest.approx(float(wanted), abs=1e-12)


def test_topk_counts_five_guesses() -> None:
    best = np.argsort(outputs_of(linear(1), X), axis=1)[:, -5:]
    wanted = np.mean([label in row for label, row in zip(LABELS, best, strict=True)])
    assert evaluator("topk")(linear(1)) == pytest.approx(float(wanted), abs=1e-12)


@pytest.mark.parametrize("labels", [None, np.zeros((COUNT, CLASSES))])
def test_cosine_to_dense_is_the_default_without_class_ids(
    labels: npt.NDArray[Any] | None,
) -> None:
    score = evaluator(None, samples(labels))
    assert score.name == "cosine"
    assert not score.measures_accuracy
    assert score(linear()) == pytest.approx(1, abs=1e-9)
    a, b = (outputs_of(linear(seed), X).ravel().astype(np.float64) for seed in (1, 0))
    wanted = a @ b / np.sqrt((a @ a) * (b @ b))
    # The runtime sums 4 products in float32, in its own order.
    assert score(linear(1)) == pytest.approx(float(wanted), abs=1e-6)


def test_cosine_of_synthetic_samples() -> None:
    assert evaluator(None, synthesize(linear(), seed=0)).name == "cosine"


def test_psnr_is_against_float_labels_or_else_the_dense_model() -> None:
    targets = np.random.default_rng(9).standard_normal((COUNT, CLASSES)).astype(np.float32)
    cases = ((samples(targets), targets), (samples(), outputs_of(linear(), X)))
    for data, reference in cases:
        error = np.mean((outputs_of(linear(1), X) - reference) ** 2, dtype=np.float64)
        wanted = 10 * math.log10(float(np.ptp(reference)) ** 2 / error)
        assert evaluator("psnr", data)(linear(1)) == pytest.approx(wanted, rel=1e-5)
    assert evaluator("psnr")(linear()) == math.inf


METRIC = """
import numpy as np

def right(outputs, feeds):
    assert len(outputs["y"]) == len(feeds["x"]) == len(feeds["labels"]) == 53
    return np.mean(outputs["y"].argmax(1) == feeds["labels"])

def array(outputs, feeds):
    return np.array([0.5])

def text(outputs, feeds):
    return "good"

def nan(outputs, feeds):
    return float("nan")

def raises(outputs, feeds):
    return outputs["logits"]
"""


@pytest.fixture
def metric_file(tmp_path: Path) -> Path:
    path = tmp_path / "metric.py"
    path.write_text(METRIC)
    return path


def test_a_users_function_sees_everything_once(metric_file: Path) -> None:
    score = evaluator(f"{metric_file}:right")
    assert score.name == f"{metric_file}:right"
    assert score(linear(1)) == pytest.approx(evaluator("accuracy")(linear(1)))
    assert evaluator(f"{metric_file}:array")(linear()) == 0.5


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("text", "metric.py:text: gives type str, not a number"),
        ("nan", "metric.py:nan: gives NaN, not a number"),
        ("raises", "metric.py:raises: raised KeyError: 'logits'"),
        ("gone", "has no function 'gone'"),
    ],
)
def test_a_users_function_that_fails(metric_file: Path, function: str, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        evaluator(f"{metric_file}:{function}")(linear())
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "metric", "labels", "sentence"),
    [
        (
            OptionError,
            "precision",
            LABELS,
            "'precision' is no metric.*accuracy, topk, psnr, cosine",
        ),
        (OptionError, "", None, None),
        (FileError, "gone.py:f", LABELS, "gone.py: there is no such file"),
        (DataError, "accuracy", None, "accuracy needs an integer array 'labels'"),
        (DataError, "topk", np.zeros(COUNT), "topk needs an integer array 'labels'"),
        (DataError, "accuracy", LABELS + 1, "class 8 is outside the model's 8 classes"),
        (
            DataError,
            "accuracy",
            np.zeros((COUNT, 2), int),
            r"'labels': has shape \[10, 2\].*y \[10, 8\]",
        ),
        (DataError, "psnr", np.zeros(COUNT), r"'labels': has shape \[10\], output 'y' has"),
    ],
)
def test_metrics_that_do_not_fit(
    kind: type[GpusqError],
    metric: str,
    labels: npt.NDArray[Any] | None,
    sentence: str | None,
) -> None:
    if sentence is None:
        assert evaluator(metric or None, samples(labels)).name == "cosine"
        return
    with pytest.raises(kind) as caught:
        evaluator(metric, samples(labels))(linear())
    assert re.search(sentence, str(caught.value)), str(caught.value)


def test_the_worst_output_speaks_for_the_model() -> None:
    text = """
        <ir_version: 9, opset_import: ["" : 17]>
        two (float[batch, 4] x) => (float[batch, 4] same, float[batch, 4] flipped, int64[2] s)
        {{ same = Identity(x) flipped = {op}(x) s = Shape(x) }}
    """
    dense, other = (ir.from_onnx_text(text.format(op=op)) for op in ("Identity", "Neg"))
    score = Evaluator.of("cosine", samples(None), dense, threads=1)
    assert score(dense) == pytest.approx(1)
    assert score(other) == pytest.approx(-1)


def test_the_reference_is_itself_and_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ir.Model] = []

    def counted(model: ir.Model, **options: Any) -> Any:
        made.append(model)
        return Session(model, **options)

    monkeypatch.setattr(evaluate, "Session", counted)
    dense = linear()
    cosine = Evaluator.of("cosine", samples(None), dense, batch_size=10, threads=1)
    assert cosine(dense) == pytest.approx(1)
    assert made == []
    assert cosine(linear()) == pytest.approx(1)
    assert len(made) == 1
    psnr = Evaluator.of("psnr", samples(None), dense, batch_size=10, threads=1)
    assert psnr(dense) == float("inf")


def test_a_model_without_float_outputs_has_no_cosine() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["" : 17]>\n'
        "g (float[batch, 4] x) => (int64[batch] y) { y = ArgMax<axis = 1, keepdims = 0>(x) }"
    )
    with pytest.raises(DataError, match="needs a floating-point output"):
        Evaluator.of(None, samples(None), model)(model)

"""The text model predicts characters of topics that it never saw, from the past alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

MODELS = Path(__file__).parents[2] / "models"
WINDOWS = {"train": (9687, 32), "test": (3953, 16)}
NEWLINE = 95


def windows(part: str) -> dict[str, Any]:
    with np.load(MODELS / "text_python" / f"{part}.npz", allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def text(part: str) -> str:
    """The text that the windows were cut from, but for its very end."""
    stride = WINDOWS[part][1]
    ids = windows(part)["ids"][:, :stride].ravel()
    return "".join("\n" if i == NEWLINE else chr(i + 32) for i in ids)


def some(part: str) -> dict[str, Any]:
    """Every fourth window: quicker, and nearly without overlap."""
    return {name: values[::4] for name, values in windows(part).items()}


def predicted(ids: Any) -> Any:
    session = onnxruntime.InferenceSession(MODELS / "text_python.onnx")
    return session.run(["logits"], {"ids": ids})[0]


@pytest.mark.parametrize("part", WINDOWS)
def test_windows_have_the_promised_shapes_types_and_range(part: str) -> None:
    data = windows(part)
    assert set(data) == {"ids", "labels"}
    assert data["ids"].shape == (WINDOWS[part][0], 64)
    assert data["labels"].shape == (WINDOWS[part][0],)
    for ids in data.values():
        assert ids.dtype == np.int64
        assert 0 <= ids.min() < ids.max() <= NEWLINE


@pytest.mark.parametrize("part", WINDOWS)
def test_windows_overlap_and_labels_follow_them(part: str) -> None:
    data, (_, stride) = windows(part), WINDOWS[part]
    whole = np.column_stack([data["ids"], data["labels"]])
    np.testing.assert_array_equal(whole[:-1, stride:], whole[1:, : 65 - stride])


def test_no_long_paragraph_is_in_both_parts() -> None:
    train = text("train")
    paragraphs = [p for p in text("test").split("\n\n") if len(p) > 100]
    assert len(paragraphs) > 100
    assert not [p for p in paragraphs if p in train]


def test_text_is_what_python_says_about_itself() -> None:
    topics = importlib.import_module("pydoc_data.topics").topics
    known = "\n\n".join(topics.values())
    paragraphs = [p for part in WINDOWS for p in text(part).split("\n\n")]
    # other versions of Python say some of it in other words
    assert np.mean([p in known for p in paragraphs]) > 0.5


def test_likeliest_character_is_often_the_right_one() -> None:
    test = some("test")
    hits = predicted(test["ids"]).argmax(axis=1) == test["labels"]
    commonest = np.bincount(windows("train")["labels"]).argmax()
    assert np.mean(test["labels"] == commonest) < 0.25
    assert hits.mean() >= 0.5


def test_model_uses_more_than_the_last_few_characters() -> None:
    test = some("test")
    blank = test["ids"].copy()
    blank[:, :-8] = 0
    nearby, whole = (
        np.mean(predicted(ids).argmax(axis=1) == test["labels"])
        for ids in (blank, test["ids"])
    )
    assert whole > nearby + 0.01


def test_attention_is_causal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(MODELS))
    architectures = importlib.import_module("architectures")
    ir = importlib.import_module("onnx_ir")
    model = architectures.build("text_python", training=True)
    shipped = onnx.load(MODELS / "text_python.onnx")
    values = {t.name: onnx.numpy_helper.to_array(t) for t in shipped.graph.initializer}
    architectures.fill(model, values)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    test = windows("test")
    ids, labels = test["ids"][:3], test["labels"][:3]
    following = np.column_stack([ids[:, 1:], labels])
    changed = ids.copy()
    changed[:, 40:] = 7
    errors, after = (
        session.run(None, {"ids": given, "following": following})[0].reshape(3, 64)
        for given in (ids, changed)
    )
    np.testing.assert_allclose(errors[:, :40], after[:, :40], atol=1e-5)
    assert np.abs(errors[:, 40:] - after[:, 40:]).min() > 0
    # its last position is what the shipped form says
    logits = predicted(ids).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(errors[:, -1], -logs[[0, 1, 2], labels], atol=1e-4)

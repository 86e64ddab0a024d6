"""Padding is cut off where nothing notices, and only there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpusq_compiler.calibration.evaluate import Evaluator
from gpusq_compiler.calibration.padding import Unpadded, by_length, unpadded
from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.errors import DataError
from gpusq_compiler.runtime.samples import IGNORED, lengths_of, training_rows, with_padding
from gpusq_compiler.runtime.session import Session
from tests.calibration.texts import EVERYTHING, LENGTHS, WIDEST, arrays, encoder, texts

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array


def test_a_batch_ends_where_its_longest_text_ends(tmp_path: Path) -> None:
    model = encoder()
    given = texts(model, tmp_path)
    found = unpadded(given, model, threads=1)
    assert isinstance(found, Unpadded)
    assert (found.count, found.has_labels) == (given.count, False)
    for rows in (np.array([0]), np.array([5, 2, 8]), np.arange(found.count)):
        longest = max(LENGTHS[row] for row in rows)
        cut, full = found.take(rows), given.take(rows)
        for name, array in full.items():
            np.testing.assert_array_equal(cut[name], array[:, :longest])
    assert with_padding(found) is given
    assert with_padding(given) is given


def test_labels_stay_whole(tmp_path: Path) -> None:
    model = encoder()
    labels = np.arange(len(LENGTHS))[:, None].repeat(WIDEST, 1)
    given = texts(model, tmp_path, {**arrays(), "labels": labels})
    found = unpadded(given, model, threads=1)
    assert found.take(np.array([0]))["labels"].shape == (1, WIDEST)


def turned(values: Array) -> Array:
    return np.ascontiguousarray(values[:, ::-1])


@pytest.mark.parametrize(
    ("model", "given"),
    [
        pytest.param(encoder(body=EVERYTHING), arrays(), id="its outputs notice"),
        pytest.param(encoder(length=str(WIDEST)), arrays(), id="the length is prescribed"),
        pytest.param(encoder(name="weights"), arrays(mask="weights"), id="there is no mask"),
        pytest.param(encoder(), arrays([WIDEST] * 9), id="no text is padded"),
        pytest.param(encoder(), arrays([0, 3, 12]), id="a text is empty"),
        pytest.param(encoder(), arrays([3]), id="there is one text"),
        pytest.param(
            encoder(), {name: turned(v) for name, v in arrays().items()}, id="on the left"
        ),
    ],
)
def test_everything_else_stays_padded(
    model: ir.Model, given: dict[str, Array], tmp_path: Path
) -> None:
    samples = texts(model, tmp_path, given)
    assert unpadded(samples, model, threads=1) is samples


def test_samples_in_the_order_of_their_lengths(tmp_path: Path) -> None:
    model = encoder()
    found = by_length(Subset(unpadded(texts(model, tmp_path), model), np.arange(1, 8)))
    lengths = lengths_of(found)
    assert lengths is not None
    assert lengths.tolist() == sorted(LENGTHS[1:8])
    assert found.take(np.array([0, 1]))["input_ids"].shape == (2, 4)
    plain = texts(model, tmp_path)
    assert by_length(plain) is plain


def test_batches_of_like_length_still_show_every_sample_alike() -> None:
    lengths = np.random.default_rng(3).integers(1, 60, 256)
    size, steps = 8, 64
    batches = [training_rows(len(lengths), size, 5, step, lengths) for step in range(steps)]
    seen = np.bincount(np.concatenate(batches), minlength=len(lengths))
    assert (seen == size * steps // len(lengths)).all()
    spans = [np.ptp(lengths[rows]) for rows in batches]
    assert np.mean(spans) < np.ptp(lengths) / 4
    first = [int(lengths[rows].mean()) for rows in batches[:16]]
    assert first != sorted(first)


def tagged(tmp_path: Path, placed: int) -> float:
    """Accuracy of an encoder on its own tags, with another label behind each text."""
    model = encoder()
    given = arrays()
    real = given["attention_mask"] != 0
    own = Session(model, threads=1)(given)["hidden"].argmax(-1)
    labels = np.where(real, own, placed)
    samples = texts(model, tmp_path, {**given, "labels": labels})
    return Evaluator.of("accuracy", samples, model, threads=1)(model)


@pytest.mark.parametrize("placed", [IGNORED, 0, 7])
def test_padding_has_no_accuracy(tmp_path: Path, placed: int) -> None:
    assert tagged(tmp_path, placed) == 1.0


def test_a_text_needs_some_label(tmp_path: Path) -> None:
    labels = np.full((len(LENGTHS), WIDEST), IGNORED)
    samples = texts(encoder(), tmp_path, {**arrays(), "labels": labels})
    with pytest.raises(DataError, match="nothing but -100"):
        Evaluator.of("accuracy", samples, encoder(), threads=1)(encoder())

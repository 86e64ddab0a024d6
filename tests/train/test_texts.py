"""Training on texts of any length: nothing is frozen, and padding changes no gradient."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.calibration.padding import unpadded
from gpusq_compiler.errors import DataError, TrainingError
from gpusq_compiler.runtime.events import Silent
from gpusq_compiler.runtime.samples import lengths_of, with_padding
from gpusq_compiler.train import prepared
from gpusq_compiler.train.job import ParameterGroup
from gpusq_compiler.train.loop import OrtTrainer
from gpusq_compiler.train.losses import FeatureError, OutputError
from gpusq_compiler.train.machine import Machine
from tests import tiny
from tests.calibration.texts import encoder, texts
from tests.train import nets

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.train.job import TrainJob
    from gpusq_compiler.train.prepared import Prepared

COUNTED = """
net (int64[N, L] input_ids, int64[N, L] attention_mask) => (float[N, L, 8] y)
    <float[11, 8] table, float[8, 8] w, float[13, 8] places, int64 along = {1}> {
    embedded = Gather(table, input_ids)
    h = MatMul(embedded, w)
    count = CumSum(attention_mask, along)
    place = Gather(places, count)
    y = Add(h, place)
}"""
pytestmark = [pytest.mark.training, nets.needs_training]


def job(folder: Path) -> TrainJob:
    """An encoder with smaller weights that imitates the original."""
    teacher = encoder()
    student = teacher.clone()
    for name in ("w1", "w2"):
        value = student.graph.initializers[name]
        assert value.const_value is not None
        value.const_value = ir.tensor(0.7 * value.const_value.numpy(), name=name)
    data = unpadded(texts(teacher, folder), teacher, threads=1)
    assert lengths_of(data) is not None
    return nets.job(
        student,
        folder,
        teacher=teacher,
        terms=(OutputError(), FeatureError()),
        features=("a",),
        groups=(ParameterGroup(names=("w1", "w2"), learning_rate=1e-2),),
        data=data,
        steps=20,
        batch_size=4,
    )


def test_it_learns_from_texts_of_any_length(tmp_path: Path) -> None:
    result = OrtTrainer(probe=True).fit(job(tmp_path))
    assert not result.frozen
    assert result.held_out[-1][1] < 0.5 * result.held_out[0][1]


def test_batches_have_the_length_of_their_texts(tmp_path: Path) -> None:
    ready = prepared.prepare(job(tmp_path), probe=False)
    lengths = {ready.batches.training(step)["input_ids"].shape[1] for step in range(8)}
    assert len(lengths) > 2
    looks = [feeds["input_ids"].shape[1] for feeds, _ in ready.batches.held_out(0)]
    assert looks == sorted(looks)
    assert len(set(looks)) > 1


def test_gradients_are_those_of_padded_texts(tmp_path: Path) -> None:
    short = job(tmp_path)
    data = with_padding(short.data)
    long = dataclasses.replace(short, data=data, held_out=data)
    ready = [prepared.prepare(one, probe=False) for one in (short, long)]
    rows = np.array([0, 3, 5, 8])
    found = [
        Machine(one, it).gradient(it.batches._batch(one.data, rows, {}))
        for one, it in zip((short, long), ready, strict=True)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


class Notes(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_what_only_works_with_padding_is_trained_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = prepared._prepared

    def refusing(job: TrainJob, *, probe: bool) -> Prepared:
        if lengths_of(job.data) is not None:
            raise TrainingError("sizes must be known")
        return real(job, probe=probe)

    monkeypatch.setattr(prepared, "_prepared", refusing)
    notes = Notes()
    ready = prepared.prepare(dataclasses.replace(job(tmp_path), events=notes), probe=False)
    assert ready.batches.training(0)["input_ids"].shape[1] == 12
    assert "pads them" in notes.said[0]


def test_positions_that_are_counted_along_the_mask_stay_integers(tmp_path: Path) -> None:
    model = tiny.model_of(COUNTED)
    student = model.clone()
    rows = nets.job(
        student,
        tmp_path,
        teacher=model,
        terms=(OutputError(),),
        groups=(ParameterGroup(names=("w",), learning_rate=1e-2),),
        data=texts(model, tmp_path),
        steps=2,
        batch_size=4,
    )
    assert not OrtTrainer(probe=False).fit(rows).frozen


def test_a_teacher_that_is_not_finite_is_named(tmp_path: Path) -> None:
    one = job(tmp_path)
    assert one.teacher is not None
    table = one.teacher.graph.initializers["table"]
    assert table.const_value is not None
    table.const_value = ir.tensor(np.inf * table.const_value.numpy(), name="table")
    with pytest.raises(DataError, match="the dense model gives NaN or infinity"):
        OrtTrainer(probe=False).fit(one)

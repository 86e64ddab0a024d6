"""The trainer that adds a known number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpusq_compiler.train.fixed import FixedTrainer
from gpusq_compiler.train.job import ParameterGroup
from tests.train import nets

if TYPE_CHECKING:
    from pathlib import Path


def test_it_adds_delta_under_the_mask(tmp_path: Path) -> None:
    student = nets.transformer()
    start = student.graph.initializers["head"].const_value
    assert start is not None
    mask = np.arange(start.size).reshape(tuple(start.shape)) % 2 == 0
    groups = (ParameterGroup(names=("head", "head_b"), learning_rate=1.0),)
    job = nets.job(
        student, tmp_path, groups=groups, masks={"head": mask}, features=("b0_out",)
    )
    result = FixedTrainer(delta=0.5).fit(job)
    assert set(result.values) == {"head", "head_b"}
    assert result.values["head"] == pytest.approx((start.numpy() + 0.5) * mask)
    assert result.values["head_b"] == pytest.approx(0.5)
    assert result.best_step == job.steps
    assert result.series["feature/b0_out"] == (1.0,) * job.steps


def test_its_squared_gradients_count_up(tmp_path: Path) -> None:
    job = nets.job(nets.transformer(), tmp_path)
    found = FixedTrainer().squared_gradients(job, 3)
    assert set(found) == set(job.groups[0].names)
    assert found["head"].dtype == np.float32
    assert found["head"].tolist()[:2] == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]

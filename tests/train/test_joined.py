"""Outputs that join tensors are imitated part by part, where teacher and student agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpusq_compiler.train.losses import OutputError
from gpusq_compiler.train.prepared import prepare
from tests import tiny
from tests.train import nets

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

pytestmark = [pytest.mark.training, nets.needs_training]


def detector(*, boxes: str = "boxes") -> ir.Model:
    return tiny.model_of(f"""
    detector (float[N, 3, 8] x) => (float[N, 3, 12] y) <float[8, 4] v, float[8, 8] w> {{
        {boxes} = MatMul(x, v)
        logits = MatMul(x, w)
        scores = Sigmoid(logits)
        y = Concat<axis = 2>({boxes}, scores)
    }}""")


@pytest.mark.parametrize(
    ("teacher", "targets"),
    [(detector(), {"boxes", "scores"}), (detector(boxes="anchors"), {"y"})],
    ids=["same names", "other names"],
)
def test_the_teacher_is_asked_for(
    teacher: ir.Model, targets: set[str], tmp_path: Path
) -> None:
    job = nets.job(detector(), tmp_path, teacher=teacher, terms=(OutputError(),))
    assert set(prepare(job, probe=False).loss.targets) == targets

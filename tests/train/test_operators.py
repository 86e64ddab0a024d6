"""Every operator: the copy keeps its function, and its gradient is right or absent."""

from __future__ import annotations

import numpy as np
import pytest

from gpusq_compiler.runtime.session import Session
from gpusq_compiler.train.copy.rewrites import REWRITES
from tests.train import nets
from tests.train.operators import CASES
from tests.train.outcomes import NONE, RIGHT, bare, copy_of, outcome

pytestmark = [pytest.mark.training, nets.needs_training]

UNTRAINED = {
    "ArgMax",
    "Ceil",
    "Det",
    "Einsum, diagonal",
    "Floor",
    "GRU",
    "GridSample",
    "Hardmax",
    "LSTM",
    "Loop",
    "NonZero",
    "Pow, exponent trained",
    "Resize, crop",
    "ReverseSequence",
    "Scan",
    "Sign",
    "com.microsoft.Attention",
}
"""Cases above which parameters are frozen."""


def test_every_rewrite_has_a_case() -> None:
    tried = {case.operator for case in CASES.values()}
    assert {key.replace("::", ".") for key in REWRITES} <= tried


@pytest.mark.parametrize("name", CASES)
def test_the_function_stays_and_the_gradient_is_right(name: str) -> None:
    case = CASES[name]
    copy, x = copy_of(case), case.x()
    for feeds in ({"x": x}, {"x": x[:1]}) if case.free else ({"x": x},):
        expected = Session(case.model())(feeds)["y"]
        found = nets.run(copy, feeds)["y"]
        assert found.shape == expected.shape
        size = max(1.0, float(np.abs(expected).max()))
        assert found == pytest.approx(expected, abs=1e-5 * size)
    assert outcome(copy, case) == (NONE if name in UNTRAINED else RIGHT)


@pytest.mark.parametrize("name", ["Conv, same", "AveragePool, dilated", "Where"])
def test_as_it_is_the_runtime_gets_it_wrong(name: str) -> None:
    """What would be trained silently wrong; the day this fails a rewrite can go."""
    assert bare(CASES[name]) != RIGHT

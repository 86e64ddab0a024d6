from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpusq_compiler.runtime import session
from gpusq_compiler.runtime.session import Remembering, Session
from tests import tiny

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array, Feeds


def test_the_second_time_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.mlp()
    samples = tiny.samples(model, 5)
    wanted = [results for _, results in Session(model, threads=1).over(samples, 2)]
    runs: list[int] = []
    one_run = Session.__call__

    def counted(self: Session, feeds: Feeds) -> dict[str, Array]:
        runs.append(1)
        return one_run(self, feeds)

    monkeypatch.setattr(Session, "__call__", counted)
    remembering = Remembering(model, threads=1)
    for _ in range(3):
        found = [results for _, results in remembering.over(samples, 2)]
        for one, other in zip(found, wanted, strict=True):
            for name, values in one.items():
                np.testing.assert_array_equal(values, other[name])
    assert len(runs) == 3
    assert not hasattr(remembering, "_session")


@pytest.mark.parametrize("reason", ["too much", "not at its end"])
def test_what_is_too_much_or_not_complete_is_computed_again(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.mlp()
    samples = tiny.samples(model, 5)
    if reason == "too much":
        monkeypatch.setattr(session, "REMEMBERED", 8)
    remembering = Remembering(model, threads=1)
    runs = remembering.over(samples, 2)
    next(runs) if reason == "not at its end" else list(runs)
    assert len(list(remembering.over(samples, 2))) == 3
    assert hasattr(remembering, "_session") == (reason == "too much")

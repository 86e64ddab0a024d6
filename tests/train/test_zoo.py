"""Models that people really have: the copy is faithful, and everything in them trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import zoo_models
from tests.train import nets, zoo_check

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.training, nets.needs_training]


@pytest.mark.parametrize("name", zoo_models.SMALL)
def test_the_copy_is_the_model_and_everything_trains(name: str, tmp_path: Path) -> None:
    found = zoo_check.measure(zoo_models.path(name), tmp_path)
    assert found.float_error <= 1e-4
    assert found.cosine >= 0.9999
    assert found.frozen == {}
    assert found.parameters > 0
    assert found.still == ()

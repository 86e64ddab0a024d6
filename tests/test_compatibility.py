"""Models that people really have, compiled with no data and no option but the number of steps.

`python -m benchmarks.compatibility` runs all of them for both targets and writes the table in
``docs/compatibility.md``; DeiT, Swin and Next-ViT take one to three minutes each on two cores
and are left to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpusq_compiler.request import TARGETS
from tests import zoo_cell, zoo_models

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.training


def failings(name: str, target: str, folder: Path) -> list[str]:
    """Where a compiled model falls short of the bar; nothing in these may stay frozen."""
    cell = zoo_cell.measure(zoo_models.path(name), target, folder)
    missing = [figure for figure in ("layers", "moved") if not cell.get(figure)]
    return zoo_cell.failings(cell) or [*missing, *cell["frozen"]]


@pytest.mark.parametrize(
    ("name", "target"), [("disc", "tensorrt"), ("cyclegan_g", "onnxruntime")]
)
def test_small_models(name: str, target: str, tmp_path: Path) -> None:
    assert failings(name, target, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["edsr", "mobilenetv2_050", "resnet18", "resnet18_bn"])
def test_larger_models(name: str, target: str, tmp_path: Path) -> None:
    assert failings(name, target, tmp_path) == []

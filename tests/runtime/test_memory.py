from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpusq_compiler.runtime import memory

if TYPE_CHECKING:
    import numpy.typing as npt

BLOCK = 64 << 20


def held() -> npt.NDArray[np.uint8]:
    return np.ones(BLOCK, np.uint8)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_what_is_held_comes_and_goes() -> None:
    before = memory.resident()
    block = held()
    during = memory.resident()
    del block
    after = memory.resident()
    assert before is not None
    assert during is not None
    assert after is not None
    # Other arrays may be freed in between, but not half of this block.
    assert during - before > BLOCK / 2
    assert during - after > BLOCK / 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
def test_the_peak_stays() -> None:
    block = held()
    during = memory.peak()
    del block
    assert during is not None
    assert during > BLOCK
    after = memory.peak()
    assert after is not None
    assert after >= during


def test_without_proc_the_peak_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STATM", Path("/no/such/file"))
    found, peak = memory.resident(), memory.peak()
    assert found == peak

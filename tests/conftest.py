"""What all tests share: a context without training, and the skip of tests that need it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gpusq_compiler import watch
from gpusq_compiler.passes.base import Context
from gpusq_compiler.runtime.flavour import INSTALL_TRAINING, can_train
from gpusq_compiler.train.fixed import FixedTrainer
from tests import shell, tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import onnx_ir as ir


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``training`` where the installed runtime cannot train."""
    if can_train():
        return
    skip = pytest.mark.skip(reason=f"needs a runtime that trains; type: {INSTALL_TRAINING}")
    for item in items:
        if item.get_closest_marker("training"):
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def _no_time_for_latencies() -> Iterator[None]:
    """A few turns are enough to see that there are figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "LATENCY_SECONDS", 0)
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a small model and samples for it."""
    monkeypatch.chdir(tmp_path)
    return shell.write(tmp_path)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """The only folder that a pass may write to."""
    folder = tmp_path / "workdir"
    folder.mkdir()
    return folder


@pytest.fixture
def context_for(workdir: Path) -> Callable[..., Context]:
    """Makes a context for one model: samples in memory, one thread, a trainer that adds."""

    def make(model: ir.Model, **fields: Any) -> Context:
        defaults: dict[str, Any] = {
            "data": tiny.samples(model),
            "held_out": tiny.samples(model, 8, seed=1),
            "trainer": FixedTrainer(),
            "threads": 1,
        }
        return Context(workdir=workdir, **{**defaults, **fields})

    return make

"""What a private copy changes so that the installed runtime loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpusq_compiler.analysis.divergence import diverge
from gpusq_compiler.runtime.compare import compare
from gpusq_compiler.runtime.session import Session, refusal
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir


def called(model: ir.Model, name: str) -> ir.Model:
    """The model with one name for all of its nodes."""
    for graph in model.graphs():
        for node in graph:
            node.name = name
    return model


@pytest.mark.parametrize("name", ["", "same"])
@pytest.mark.parametrize("which", [tiny.attention, tiny.if_branch])
def test_names_of_nodes_may_repeat(which: Callable[[], ir.Model], name: str) -> None:
    model, feeds = called(which(), name), tiny.samples(which()).arrays
    assert refusal(model, threads=1) is None
    wanted = Session(which(), threads=1)(feeds)
    found = Session(model, threads=1)(feeds)
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)
    names = {node.name for graph in model.graphs() for node in graph}
    assert names == {name}, "the model itself stays as it is"


@pytest.mark.parametrize("name", ["", "same"])
def test_models_are_compared_whatever_their_nodes_are_called(name: str) -> None:
    first, second = tiny.mlp(), called(tiny.mlp(), name)
    samples = tiny.samples(first)
    assert compare(first, second, samples, threads=1)["y"].max_error == 0
    ways = (first, second), (second, first)
    found = [diverge(*models, samples, threads=1).tensors for models in ways]
    assert [[one.name for one in tensors] for tensors in found] == [["a", "h", "z", "y"]] * 2

"""Tensors are read without being held, and made anew from others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.ir import io, tensors
from tests import shell

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def beside(tmp_path: Path) -> ir.ExternalTensor:
    """A weight in a data file."""
    shell.mlp(tmp_path / "model.onnx", external=True)
    tensor = io.load(tmp_path / "model.onnx").graph.initializers["first"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    tensor.metadata_props["theirs"] = "a note"
    tensor.doc_string = "a weight"
    return tensor


def test_reading_a_data_file_leaves_nothing_behind(beside: ir.ExternalTensor) -> None:
    first, second = tensors.values(beside), tensors.values(beside)
    assert beside.raw is None
    np.testing.assert_array_equal(first, second)
    del second
    assert first.size == beside.size
    np.testing.assert_array_equal(first, beside.numpy())


def test_what_follows_from_a_data_file_is_made_when_it_is_read(
    beside: ir.ExternalTensor,
) -> None:
    asked: list[int] = []

    def negated(weight: np.ndarray) -> np.ndarray:
        asked.append(weight.size)
        return -weight

    found = tensors.derived(beside, negated)
    assert asked == []
    assert (found.dtype, found.shape, found.name) == (beside.dtype, beside.shape, beside.name)
    assert dict(found.metadata_props) == {"theirs": "a note"}
    assert found.doc_string == "a weight"
    for _ in range(2):
        np.testing.assert_array_equal(tensors.values(found), -tensors.values(beside))
    assert len(asked) == 2
    assert found.tobytes() == (-tensors.values(beside)).tobytes()


def test_what_follows_from_memory_is_made_at_once() -> None:
    old = ir.tensor(np.ones((2, 4), ml_dtypes.bfloat16), name="w")
    found = tensors.derived(old, lambda weight: weight * 2)
    assert isinstance(found, ir.Tensor)
    assert (found.dtype, found.name) == (ir.DataType.BFLOAT16, "w")
    np.testing.assert_array_equal(found.numpy().astype(np.float32), 2)


def test_a_replaced_tensor_has_name_notes_and_rows_in_memory() -> None:
    old = ir.tensor(np.ones((2, 3), np.float32), name="w", doc_string="a weight")
    found = tensors.replaced(old, np.arange(6, dtype=np.float32).reshape(3, 2).T)
    assert (found.name, found.doc_string) == ("w", "a weight")
    assert found.numpy().flags.c_contiguous
    half = tensors.replaced(old, old.numpy(), ir.DataType.FLOAT16)
    assert half.dtype == ir.DataType.FLOAT16

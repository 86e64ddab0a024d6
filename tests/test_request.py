"""What a request reads and may write."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import onnx
import pytest

from gpusq_compiler import compile_model
from gpusq_compiler.errors import FileError, OptionError
from gpusq_compiler.ir import io
from gpusq_compiler.request import Request
from tests import shell

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("samples", ["a.npz", "a.png"])
def test_outputs_of_an_earlier_run_beside_the_data_are_no_data(
    samples: str, tmp_path: Path
) -> None:
    shell.mlp(tmp_path / "model.onnx")
    for name in (samples, "model.gpusq.onnx", "model.gpusq.json"):
        (tmp_path / name).touch()
    model = io.load(tmp_path / "model.onnx")
    request = Request(
        source=tmp_path / "model.onnx",
        data=str(tmp_path),
        out=tmp_path / "model.gpusq.onnx",
    )
    request.require_outputs(model)
    with pytest.raises(FileError, match="is an input and would be overwritten"):
        dataclasses.replace(request, out=tmp_path / samples).require_outputs(model)


def test_a_model_in_memory_is_no_file() -> None:
    with pytest.raises(OptionError, match="a ModelProto is no path of a file"):
        compile_model(onnx.ModelProto(), passes="prune")

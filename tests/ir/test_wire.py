"""Files written piece by piece are those that protobuf writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.ir import edit, io, wire
from tests import tiny, zoo_models
from tests.analysis.odd_models import MODELS

if TYPE_CHECKING:
    from pathlib import Path

TINY = (tiny.mlp, tiny.attention, tiny.if_branch, tiny.bf16_matmul, tiny.int4_weight)


def written(model: ir.Model, least: int) -> tuple[bytes, int]:
    """The pieces together, and how many weights protobuf did not see."""
    emptied, held = wire.hollow(model, least)
    return b"".join(wire.chunks(ir.to_proto(emptied), held)), len(held)


def in_memory(model: ir.Model) -> ir.Model:
    """The model with every initializer as an array."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype != ir.DataType.STRING:
            edit.replace_weight(value, tensor.numpy())
    return model


@pytest.mark.parametrize("least", [0, 64, 1 << 30])
@pytest.mark.parametrize("make", TINY, ids=lambda make: make.__name__)
def test_small_models(make: type, least: int) -> None:
    model: ir.Model = in_memory(make())
    model.doc_string, model.producer_name = "why", "me"
    model.metadata_props["theirs"] = "kept"
    first = next(iter(model.graph.initializers.values()))
    assert first.const_value is not None
    first.const_value.doc_string = "a word"
    first.const_value.metadata_props["on"] = "the tensor"
    wanted = ir.to_proto(model).SerializeToString(deterministic=True)
    found, held = written(model, least)
    assert found == wanted
    assert (held > 0) == (least < 1 << 30)
    assert first.const_value.tobytes()


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"sparse tensor"}))  # no copy of it
def test_odd_models(name: str) -> None:
    model = in_memory(ir.from_proto(MODELS[name]()))
    wanted = ir.to_proto(model).SerializeToString(deterministic=True)
    assert written(model, 0)[0] == wanted


def test_a_real_export(tmp_path: Path) -> None:
    model = in_memory(io.load(zoo_models.path("deit_tiny_patch16_224")))
    io.save(model, tmp_path / "out.onnx")
    wanted = ir.to_proto(model).SerializeToString(deterministic=True)
    assert (tmp_path / "out.onnx").read_bytes() == wanted


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16383, 16384, 1 << 21])
def test_lengths(length: int) -> None:
    tensor = onnx.TensorProto(raw_data=b"\1" * length, data_type=3, dims=[length])
    model = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor]), ir_version=8)
    values = np.ones(length, np.uint8).data
    emptied = onnx.ModelProto()
    emptied.CopyFrom(model)
    emptied.graph.initializer[0].raw_data = b""
    assert b"".join(wire.chunks(emptied, {"": values})) == model.SerializeToString()

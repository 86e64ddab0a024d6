"""TensorRT itself, wherever it is installed: its names, and an engine where there is a GPU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import MissingRuntime
from gpusq_compiler.trt.engines import bindings
from gpusq_compiler.trt.engines.build import build
from tests.trt.chains import chain
from tests.trt.fakes import API

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.tensorrt


@pytest.fixture(scope="module")
def trt() -> bindings.Bindings:
    try:
        return bindings.tensorrt()
    except MissingRuntime as error:
        pytest.skip(f"needs TensorRT: {error.what}")


@pytest.fixture
def _gpu() -> None:
    try:
        bindings.require_gpu()
    except MissingRuntime as error:
        pytest.skip(f"needs an NVIDIA GPU: {error.what}")


def test_the_fake_of_a_version_has_its_names(trt: bindings.Bindings) -> None:
    version = ".".join(trt.version.split(".")[:2])
    if version not in API:
        pytest.skip(f"the names of {version} were not listed, those of {', '.join(API)} were")
    for kind, names in API[version].items():
        if kind not in {"wheel", "module"}:
            real = set(dir(getattr(trt.api, kind)))
            assert set(names.split()) <= real, kind


@pytest.mark.gpu
@pytest.mark.usefixtures("_gpu")
def test_a_chain_of_sparse_products(trt: bindings.Bindings, tmp_path: Path) -> None:
    """Whether a sparse kernel is chosen depends on the GPU; that it is known, does not."""
    onnx.save(ir.to_proto(chain(3, width=512)), tmp_path / "m.onnx")
    info = build(tmp_path / "m.onnx", tmp_path / "m.engine")
    assert (tmp_path / "m.engine").stat().st_size == info.size > 0
    assert info.evidence.pairs, "the builder says something of sparsity"
    assert [layer.eligible for layer in info.evidence.layers] == [True] * 3
    assert all(layer.chosen is not None for layer in info.evidence.layers)
    written = json.loads((tmp_path / "m.engine.json").read_text())
    assert written["evidence"]["basis"] == "measured"

"""Files in ONNX Runtime's form meet TensorRT: repaired on the way, untouched themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx
import pytest

from gpusq_compiler.ir import io
from gpusq_compiler.passes.base import Context
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.trt.engines.check import check
from gpusq_compiler.trt.engines.evidence import predicted
from gpusq_compiler.trt.legality.rules import NEWEST
from gpusq_compiler.trt.legality.taken import as_taken, differs, file_of
from tests import shell, tiny
from tests.trt.test_check import needs_rtx

if TYPE_CHECKING:
    from pathlib import Path

ContextFor = Callable[..., Context]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def files(tmp_path: Path, context_for: ContextFor) -> dict[str, Path]:
    """One model, frozen in both forms."""
    found = {}
    for form in ("onnxruntime", "plain"):
        model = tiny.residual()
        last = Freeze(form="onnxruntime" if form == "onnxruntime" else "plain")
        steps = (Canonicalize(), Prune(), Quantize(), last)
        Pipeline(passes=steps).run(model, context_for(model))
        found[form] = io.save(model, tmp_path / f"{form}.onnx").path
    return found


def test_a_plain_file_is_taken_as_it_is(files: dict[str, Path]) -> None:
    model = io.load(files["plain"])
    # What is never negative is uint8 in both: quantized for ONNX Runtime all the same.
    assert differs(as_taken(model))
    foreign = tiny.mlp()
    assert as_taken(foreign) is foreign
    assert file_of(foreign, files["plain"]) == (files["plain"], None)


def test_another_file_is_read_and_goes_with_its_folder(files: dict[str, Path]) -> None:
    before = shell.digest(files["onnxruntime"])
    taken = as_taken(io.load(files["onnxruntime"]))
    file, folder = file_of(taken, files["onnxruntime"])
    kinds = {tensor.data_type for tensor in onnx.load(file).graph.initializer}
    assert not kinds & {onnx.TensorProto.UINT8, onnx.TensorProto.INT32}
    assert file.exists()
    del folder
    assert not file.exists()
    assert shell.digest(files["onnxruntime"]) == before


def test_as_many_sparse_kernels_are_predicted(files: dict[str, Path], capfd: Capture) -> None:
    out = shell.good(str(files["onnxruntime"]), "--predict", verb="build", capture=capfd)
    assert "uint8-codes" not in out
    found = predicted(as_taken(io.load(files["onnxruntime"])), NEWEST)
    assert [one.reads for one in found.layers] == ["int8"] * 3


def test_lint_means_what_tensorrt_gets_and_says_so(
    files: dict[str, Path], capfd: Capture
) -> None:
    out = shell.good(str(files["onnxruntime"]), verb="lint", capture=capfd)
    assert " 0 refused, 0 differs" in out
    assert "--fix OUT writes that" in out
    told = shell.good(str(files["onnxruntime"]), "--json", verb="lint", capture=capfd)
    assert json.loads(told)["form"] == "onnxruntime"
    fixed = files["plain"].with_name("fixed.onnx")
    asked = (str(files["onnxruntime"]), "--fix", str(fixed))
    out = shell.good(*asked, verb="lint", capture=capfd)
    assert "--fix OUT" not in out
    told = shell.good(str(fixed), "--json", verb="lint", capture=capfd)
    assert json.loads(told)["form"] == "plain"
    assert json.loads(told)["counts"]["refused"] == 0


def test_the_script_for_the_device_names_a_file_that_tensorrt_takes(
    files: dict[str, Path], capfd: Capture
) -> None:
    engine = files["plain"].with_name("m.engine")
    shapes = ("--opt-shapes", "x:1x8x6x6", "-o", str(engine))
    shell.good(str(files["onnxruntime"]), "--on-device", *shapes, verb="build", capture=capfd)
    script = engine.with_name("m.engine.trtexec.sh").read_text()
    assert "--onnx=./m.tensorrt.onnx" in script
    assert not differs(as_taken(io.load(engine.with_name("m.tensorrt.onnx"))))


@needs_rtx
def test_the_real_parser_takes_it(files: dict[str, Path]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="type: pip install tensorrt-rtx")
    assert check(files["onnxruntime"]).refusal is None

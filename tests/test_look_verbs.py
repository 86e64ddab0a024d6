"""The verbs that look: plan, inspect, compare, lint and check, for people and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gpusq_compiler.cli.compile import compile_command
from gpusq_compiler.cli.plan import OF_A_RUN, plan_command
from gpusq_compiler.runtime import flavour
from tests import shell
from tests.analysis.odd_models import MODELS
from tests.trt.cases import CASES

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]

ONE_SHOT = ("--passes", "prune,quantize", "--data", "data.npz")


def test_what_the_runtime_does_not_know_is_planned_without_a_run(
    folder: Path, capfd: Capture
) -> None:
    onnx.save(MODELS["custom domain"](), folder / "custom.onnx")
    outcome = shell.call(["custom.onnx"], capfd, "plan")
    assert outcome.code == 1
    assert "--passes prune, gpusq inspect" in outcome.err
    shell.good("custom.onnx", "--passes", "prune", verb="plan", capture=capfd)


def test_names_are_whole_where_no_terminal_bounds_them(folder: Path, capfd: Capture) -> None:
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].name = name = "/".join(["encoder", *("a long block's name",) * 6])
    onnx.save(model, folder / "long.onnx")
    for verb in ("plan", "inspect"):
        assert f" {name} " in shell.good("long.onnx", verb=verb, capture=capfd)


@pytest.fixture
def compiled(folder: Path, capfd: Capture) -> Path:
    shell.good("model.onnx", *ONE_SHOT, capture=capfd)
    return folder


def parsed(*arguments: str, verb: str, capture: Capture, code: int = 0) -> dict[str, Any]:
    """The JSON of a verb, which is all that stdout holds."""
    done = shell.call([*arguments, "--json"], capture, verb)
    assert done.code == code, done.err
    found = json.loads(done.out)
    assert found["format"] == 1
    assert isinstance(found, dict)
    return found


def test_plan_is_what_a_dry_run_prints(folder: Path, capfd: Capture) -> None:
    before = shell.contents(folder)
    given = (
        "model.onnx",
        *ONE_SHOT,
        "--set",
        "prune.exclude=matmul_2",
        "--target",
        "tensorrt",
    )
    plan = shell.good(*given, verb="plan", capture=capfd)
    assert plan == shell.good(*given, "--dry-run", capture=capfd)
    for words in (
        "placement=tensorrt-sparse",
        "│ matmul_1 │ MatMul 8x16 │ 1x16x8 ",
        "user",
        "narrow, 8 to 16",
        "2 layers: 192 of 212 parameters, 192 multiply-adds per sample",
        "2:4 fits 1 of them: 66.7% of the weights, 66.7% of the multiply-adds",
        # 192 codes, and for 16 + 4 channels a half precision scale and a zero point
        "predicted: sparse kernels may pay in 0; weights 0.768 kB → 0.252 kB",
    ):
        assert words in plan
    assert shell.contents(folder) == before


def test_plan_takes_what_compile_takes() -> None:
    shared = {option.name for option in compile_command.params} - set(OF_A_RUN)
    assert {option.name for option in plan_command.params} == shared | {"as_json"}


def test_plan_needs_no_passes(folder: Path, capfd: Capture) -> None:
    found = parsed("model.onnx", verb="plan", capture=capfd)
    names = [step["pass"] for step in found["passes"]]
    training = ["qat"] if flavour.can_train() else []
    assert names == ["canonicalize", "prune", "quantize", *training, "freeze"]
    assert found["notes"] == ["no --data: inputs are synthesised, accuracy is unverified"]


def test_plan_as_json(folder: Path, capfd: Capture) -> None:
    found = parsed("model.onnx", *ONE_SHOT, verb="plan", capture=capfd)
    assert found["model"] == "model.onnx"
    assert [layer["name"] for layer in found["layers"]] == ["matmul_1", "matmul_2"]
    assert found["totals"]["file_bytes"] == (folder / "model.onnx").stat().st_size


def test_plan_refuses_what_compile_refuses(compiled: Path, capfd: Capture) -> None:
    for given, code, words in (
        (("model.gpusq.onnx",), 1, "already frozen"),
        (("model.onnx", "--passes", "prun"), 2, "'prun'"),
        (("model.onnx", "--set", "prune.exclude=nothing"), 2, "'nothing' matches no layer"),
        (("model.onnx", "--data", "no.npz"), 6, "no.npz"),
        (("no.onnx",), 6, "no.onnx"),
    ):
        done = shell.call(given, capfd, "plan")
        assert (done.code, done.out) == (code, ""), given
        (line,) = done.err.splitlines()
        assert words in line


def test_inspect(compiled: Path, capfd: Capture) -> None:
    before = shell.contents(compiled)
    out = shell.good("model.gpusq.onnx", verb="inspect", capture=capfd)
    for words in (
        "opset ai.onnx 17, IR version 8",
        "input   x float [batch, 8]",
        "compiled by gpusq: canonicalize, prune, quantize, freeze",
        "2 tensors claim a pattern, all keep it",
        "int8 per channel, uint8, ",
        "2:4 where sparse kernels want it: 2 layers, 100.0% of the weights",
        "predicted for TensorRT 11: sparse kernels may run 1 layer",
    ):
        assert words in out
    found = parsed("model.gpusq.onnx", verb="inspect", capture=capfd)
    assert found["model"] == "model.gpusq.onnx"
    assert found["totals"]["sparse_layers"] == 2
    assert found["contents"]["recipe"] == ["canonicalize", "prune", "quantize", "freeze"]
    assert shell.contents(compiled) == before


def test_inspect_takes_what_the_checker_refuses(folder: Path, capfd: Capture) -> None:
    model = onnx.load(folder / "model.onnx")
    model.graph.node[2].op_type = "NoSuchOperator"
    onnx.save(model, folder / "odd.onnx")
    done = shell.call(["odd.onnx"], capfd, "inspect")
    assert (done.code, done.err) == (0, "")
    assert "cannot be worked on: not a valid ONNX model" in done.out
    assert "TensorRT 11, refused: NoSuchOperator 'relu'" in done.out


def test_inspect_refuses_what_is_no_model(folder: Path, capfd: Capture) -> None:
    (folder / "text.onnx").write_text("this is no model\n")
    for given, code in (
        (("text.onnx",), 1),
        (("no.onnx",), 6),
        (("model.onnx", "--tensorrt", "7"), 2),
    ):
        done = shell.call(given, capfd, "inspect")
        assert (done.code, done.out) == (code, "")
        assert len(done.err.splitlines()) == 1


def test_compare_with_layers(compiled: Path, capfd: Capture) -> None:
    models = ("model.onnx", "model.gpusq.onnx", "--data", "data.npz")
    assert "add --layers for the tensors" in shell.good(*models, verb="compare", capture=capfd)
    out = shell.good(*models, "--layers", verb="compare", capture=capfd)
    for words in (
        "5 tensors on 16 samples",
        "they part at 'a' (MatMul 'matmul_1')",
        "c (quantized)",
    ):
        assert words in out
    few = ("--layers", "--samples", "3", "--part-at", "-50", "--threads", "1")
    out = shell.good(*models, *few, verb="compare", capture=capfd)
    assert "tensors on 3 samples" in out
    assert "they part nowhere: every SQNR is -50 dB or more" in out


def test_compare_as_json(compiled: Path, capfd: Capture) -> None:
    models = ("model.onnx", "model.gpusq.onnx", "--data", "data.npz")
    found = parsed(*models, verb="compare", capture=capfd)
    assert (found["first"], found["second"], found["samples"]) == (*models[:2], 64)
    assert found["tensors"] is None
    (output,) = found["outputs"]
    assert 0 < output["agreement"] <= 1
    tensors = parsed(*models, "--layers", verb="compare", capture=capfd)["tensors"]
    assert [one["name"] for one in tensors["tensors"]] == list("abcdy")


def test_compare_refuses_other_inputs_in_one_line(folder: Path, capfd: Capture) -> None:
    shell.mlp(folder / "other.onnx", feed="image")
    done = shell.call(["model.onnx", "other.onnx", "--layers"], capfd, "compare")
    assert (done.code, done.out) == (1, "")
    (line,) = [one for one in done.err.splitlines() if "error" in one]
    assert "different inputs: x and image" in line


def test_compare_draws(compiled: Path, capfd: Capture) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install .[report]")
    models = ("model.onnx", "model.gpusq.onnx", "--data", "data.npz")
    out = shell.good(*models, "--picture", "p.svg", verb="compare", capture=capfd)
    assert "they part at" in out, "a picture asks for the tensors"
    assert (compiled / "p.svg").read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("p.pdf", 2, ".svg or .png"), ("nowhere/p.svg", 6, "does not exist")],
)
def test_a_picture_that_cannot_be_is_refused_first(
    name: str, code: int, words: str, folder: Path, capfd: Capture
) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install .[report]")
    done = shell.call(["model.onnx", "model.onnx", "--picture", name], capfd, "compare")
    assert (done.code, done.out) == (code, "")
    (line,) = done.err.splitlines()
    assert words in line


def test_lint_as_json(folder: Path, capfd: Capture) -> None:
    case = next(case for case in CASES if case.name == "asymmetric uint8")
    onnx.save(case.proto(), folder / "bad.onnx")
    found = parsed("bad.onnx", verb="lint", capture=capfd, code=5)
    assert (found["model"], found["tensorrt"], found["repaired"]) == ("bad.onnx", "11", None)
    assert found["counts"]["refused"] == sum(
        one["severity"] == "refused" for one in found["findings"]
    )
    first = found["findings"][0]
    assert (first["rule"], first["repairable"]) == ("zero-point", True)
    assert first["where"].startswith("QuantizeLinear")
    repaired = parsed("bad.onnx", "--fix", "good.onnx", verb="lint", capture=capfd)
    assert len(repaired["repaired"]) == 2
    assert not repaired["findings"]
    assert (folder / "good.onnx").exists()


def test_check_as_json(compiled: Path, capfd: Capture) -> None:
    found = parsed("model.gpusq.onnx", verb="check", capture=capfd)
    assert found["facts"]["sparse"]
    assert found["facts"]["frozen"]
    assert (found["claims"], found["broken"]) == (2, [])
    assert not parsed("model.onnx", verb="check", capture=capfd)["facts"]["sparse"]


def test_check_tells_what_is_broken_as_json(compiled: Path, capfd: Capture) -> None:
    model = onnx.load(compiled / "model.gpusq.onnx")
    codes = next(t for t in model.graph.initializer if t.dims == [8, 16])
    filled = np.where(numpy_helper.to_array(codes) == 0, 1, numpy_helper.to_array(codes))
    codes.CopyFrom(numpy_helper.from_array(filled.astype(np.int8), codes.name))
    onnx.save(model, compiled / "planted.onnx")
    found = parsed("planted.onnx", verb="check", capture=capfd, code=3)
    (broken,) = found["broken"]
    assert broken["where"] == f"tensor '{codes.name}'"
    assert "32 groups break 2:4 axis=0" in broken["reason"]
    assert not found["facts"]["sparse"]

"""Every verb of the command line, when nothing is wrong."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gpusq_compiler.passes import registry
from gpusq_compiler.passes.options import options_of
from tests import shell

if TYPE_CHECKING:
    from pathlib import Path

ONE_SHOT = ("--passes", "prune,quantize")
DATA = ("--data", "data.npz")
MAGNITUDE = '[[pass]]\nuse = "prune"\nexclude = ["matmul_2"]\n'


@pytest.fixture
def compiled(folder: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """A folder in which the model was pruned and quantized."""
    shell.good("model.onnx", *ONE_SHOT, *DATA, capture=capfd)
    return folder


def test_compile(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = shell.contents(folder)
    outcome = shell.call(["model.onnx", *ONE_SHOT, *DATA], capfd)
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "model.gpusq.onnx"
    assert "accuracy (held-out)" in outcome.out
    lines = outcome.err.splitlines()
    assert all(line.startswith("gpusq: ") for line in lines)
    steps = ["canonicalize", "prune", "quantize", "freeze"]
    assert [line.split()[1] for line in lines[:4]] == steps
    for number, step in enumerate(steps, start=1):
        assert f"gpusq: [{number}/4] {step}: " in outcome.err
    after = shell.contents(folder)
    assert after.keys() - before.keys() == {"model.gpusq.onnx", "model.gpusq.json"}
    assert {name: after[name] for name in before} == before
    onnx.checker.check_model(onnx.load(folder / "model.gpusq.onnx"))


def test_no_progress_bar_where_nobody_watches(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = shell.call(["model.onnx", *ONE_SHOT, *DATA], capfd)
    for control in ("\x1b", "\r"):
        assert control not in outcome.out + outcome.err


def test_quiet(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = shell.call(["model.onnx", *ONE_SHOT, *DATA, "-q"], capfd)
    assert outcome == shell.Outcome(0, "model.gpusq.onnx\n", "")


def test_places_of_the_outputs(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "there").mkdir()
    few = ("model.onnx", "--passes", "prune", "-q")
    assert shell.good(*few, "-o", "there/small.onnx", capture=capfd) == "there/small.onnx\n"
    shell.good(*few, "-o", "x.onnx", "--report", "there/said.json", capture=capfd)
    made = {path.name for path in (folder / "there").iterdir()}
    assert made == {"small.onnx", "small.json", "said.json"}
    assert not (folder / "x.json").exists()


def test_dry_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = shell.contents(folder)
    lines = shell.good("model.onnx", *ONE_SHOT, *DATA, "--dry-run", capture=capfd).splitlines()
    assert [line.split()[0] for line in lines[:4]] == [
        "canonicalize",
        "prune",
        "quantize",
        "freeze",
    ]
    assert "pattern=2:4" in lines[1]
    assert any("matmul_1" in line for line in lines[4:])
    assert shell.contents(folder) == before


@pytest.mark.training
def test_dry_run_shows_what_would_take_effect(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ("--steps", "7", "--set", "qat.batch-size=5", "--batch-size", "9", "--lr", "0.25")
    out = shell.good(
        "model.onnx", "--passes", "prune,qat", *DATA, *given, "--dry-run", capture=capfd
    )
    (qat,) = (line for line in out.splitlines() if line.startswith("qat"))
    for option in ("steps=7", "batch_size=5", "learning_rate=0.25"):
        assert option in qat.replace(",", "").split()


def test_recipe_file_and_set(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "r.toml").write_text("seed = 5\n" + MAGNITUDE)
    shell.good("model.onnx", "--recipe", "r.toml", *DATA, "-q", capture=capfd)
    first = shell.report_of(folder)
    assert first["recipe"].startswith("seed = 5\n")
    assert shell.passes_of(first)["prune"]["changed"] == ["first"]
    setting = ("--set", "prune.exclude=matmul_1", "--seed", "6")
    shell.good("model.onnx", "--recipe", "r.toml", *DATA, *setting, "-q", capture=capfd)
    second = shell.report_of(folder)
    assert second["recipe"].startswith("seed = 6\n")
    assert shell.passes_of(second)["prune"]["changed"] == ["second"]


def test_preset(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shell.good("model.onnx", "--recipe", "one-shot", *DATA, "-q", capture=capfd)
    assert list(shell.passes_of(shell.report_of(folder))) == [
        "canonicalize",
        "prune",
        "quantize",
        "freeze",
    ]


def test_left_alone_is_listed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "r.toml").write_text(MAGNITUDE)
    out = shell.good("model.onnx", "--recipe", "r.toml", *DATA, "-v", capture=capfd)
    (finding,) = shell.passes_of(shell.report_of(folder))["prune"]["left_alone"]
    assert finding["where"] == "matmul_2"
    assert "prune: matmul_2" in out


def test_compile_is_also_a_verb_of_gpusq(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = (*ONE_SHOT, *DATA, "-o", "verb.onnx", "-q")
    assert shell.good("compile", "model.onnx", *given, verb="", capture=capfd) == "verb.onnx\n"
    assert shell.digest(compiled / "verb.onnx") == shell.digest(compiled / "model.gpusq.onnx")


def test_passes(capfd: pytest.CaptureFixture[str]) -> None:
    out = shell.good(verb="passes", capture=capfd)
    for name, owner in registry.names().items():
        assert re.search(rf"{name} .*{owner}", out)


@pytest.mark.parametrize("name", registry.PASSES)
def test_passes_show(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    out = shell.good("show", name, verb="passes", capture=capfd)
    assert out.startswith(f"{name}: ")
    for option in options_of(registry.find(name)):
        assert option.name in out


def test_passes_show_what_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    outcome = shell.call(["show", "prun"], capfd, "passes")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "gpusq: error: there is no pass 'prun'. Did you mean prune?\n"


def test_check(compiled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = shell.good("model.gpusq.onnx", verb="check", capture=capfd)
    for fact in ("sparse", "qdq", "frozen"):
        assert re.search(rf"^{fact} +holds$", out, re.MULTILINE)
    assert "2 tensors hold the pattern" in out
    out = shell.good("model.onnx", verb="check", capture=capfd)
    assert re.search(r"^sparse +not claimed$", out, re.MULTILINE)


def test_check_finds_a_planted_third_value(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(compiled / "model.gpusq.onnx")
    codes = next(t for t in model.graph.initializer if t.dims == [8, 16])
    assert codes.data_type == onnx.TensorProto.INT8
    values = numpy_helper.to_array(codes).copy()
    # Groups run along the reduction, axis 0: rows 4 to 7 of column 3.
    (zeros,) = np.nonzero(values[4:8, 3] == 0)
    values[4 + zeros[0], 3] = 1
    codes.CopyFrom(numpy_helper.from_array(values, codes.name))
    onnx.save(model, compiled / "planted.onnx")
    before = shell.contents(compiled)
    outcome = shell.call(["planted.onnx"], capfd, "check")
    assert (outcome.code, outcome.out) == (3, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("gpusq: error: planted.onnx: ")
    for words in (f"tensor '{codes.name}'", "2:4", "[4:8, 3]"):
        assert words in line
    assert shell.contents(compiled) == before


def test_compare(compiled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = shell.good("model.onnx", "model.onnx", *DATA, verb="compare", capture=capfd)
    assert re.search(r"y .* 1\.000000 .* inf dB .* 0 .* 100\.0 %", out)
    out = shell.good("model.onnx", "model.gpusq.onnx", verb="compare", capture=capfd)
    assert "1.000000" not in out
    assert re.search(r"y .* 0\.\d{6} ", out)


def test_compare_of_models_that_do_not_match(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shell.mlp(compiled / "other.onnx", outputs=5)
    outcome = shell.call(["model.onnx", "other.onnx", *DATA], capfd, "compare")
    assert (outcome.code, outcome.out) == (1, "")
    assert len(outcome.err.splitlines()) == 1


def test_doctor(capfd: pytest.CaptureFixture[str]) -> None:
    out = shell.good(verb="doctor", capture=capfd)
    for row in ("python", "onnxruntime", "providers", "qat", "gpu", "tensorrt", "build check"):
        assert re.search(rf"│ {row} ", out)
    assert "CPU" in out


@pytest.mark.parametrize("given", [["--help"], ["-h"], []])
def test_help_lists_the_verbs(given: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    out = shell.good(*given, verb="", capture=capfd)
    verbs = ("compile", "plan", "inspect", "passes", "check", "compare", "build", "doctor")
    for words in (*verbs, "Exit codes"):
        assert words in out


def test_help_of_compile_lists_the_options(capfd: pytest.CaptureFixture[str]) -> None:
    out = shell.good("--help", capture=capfd)
    for name in (
        *("passes", "recipe", "data", "eval-data", "metric", "teacher", "out", "report"),
        "log-format",
        *("workdir", "seed", "set", "steps", "batch-size", "lr", "budget", "target"),
        *("device", "dry-run", "resume", "engine", "min-shapes", "opt-shapes", "max-shapes"),
    ):
        assert f"--{name} " in out or f"--{name}\n" in out


@pytest.mark.parametrize(
    "start", [["-m", "gpusq_compiler"], [str(shell.ROOT / "cli.py")]], ids=["-m", "cli.py"]
)
def test_doors(start: list[str], tmp_path: Path) -> None:
    outcome = shell.spawn([sys.executable, *start, "passes", "show", "freeze"], tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("freeze: ")


def test_help_needs_no_runtime(tmp_path: Path) -> None:
    heavy = ("onnx", "onnx_ir", "onnxruntime", "numpy", "tensorrt")
    script = (
        "import sys; from gpusq_compiler.cli import main\n"
        "try: main(['compile', '--help'])\n"
        f"finally: sys.exit(str([m for m in {heavy} if m in sys.modules]))"
    )
    outcome = shell.spawn([sys.executable, "-c", script], tmp_path)
    assert outcome.err.splitlines()[-1] == "[]"


def test_a_reader_that_stops_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = shell.words("passes", "show", "qat")
    with os.fdopen(writer, "wb") as closed:
        done = shell.spawn(program, tmp_path, closed)
    assert done == shell.Outcome(0, "", "")


UNUSED = {
    *("onnxruntime", "sympy.core", "onnx_graphsurgeon", "scipy"),
    *("gpusq_compiler.passes.lower", "gpusq_compiler.passes.qat"),
    *("gpusq_compiler.train.run", "gpusq_compiler.trt.engines.deploy"),
    *("gpusq_compiler.page", "gpusq_compiler.analysis.plan"),
}


def test_a_run_imports_what_it_uses(tmp_path: Path) -> None:
    shell.mlp(tmp_path / "model.onnx")
    arguments = ["model.onnx", "--passes", "prune", "-q"]
    script = (
        "import sys; from gpusq_compiler.cli import compile_main\n"
        f"compile_main({arguments})\n"
        f"print(sorted({UNUSED} & set(sys.modules)))"
    )
    outcome = shell.spawn([sys.executable, "-c", script], tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == ["model.gpusq.onnx", "[]"]


def test_what_is_put_off_is_there_when_it_is_used(tmp_path: Path) -> None:
    script = (
        "import sys; from gpusq_compiler.cli.lazily import LATER, import_lazily\n"
        "import_lazily(); import_lazily(); import onnx_ir\n"
        "assert 'sympy.core' not in sys.modules\n"
        "assert LATER - set(sys.modules) == {'onnx.reference.ops'}\n"
        "print(onnx_ir.SymbolicDim('n') + 1, 'sympy.core' in sys.modules)"
    )
    outcome = shell.spawn([sys.executable, "-c", script], tmp_path)
    assert (outcome.out, outcome.err) == ("n + 1 True\n", "")

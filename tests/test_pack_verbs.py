"""gpusq pack and unpack, and every other verb on a packed file."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import pytest

from tests import shell, tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WIDE = 512
"""Inputs of the small network, so that one of its weights is worth packing."""
COMPILE = ("model.onnx", "--passes", "prune,quantize", "-q", "--threads", "1")
FILES = ("sparse.onnx", "sparse.packed.onnx")
PACKED = ("model.onnx", "--passes", "prune,quantize,pack", "-q", "--threads", "1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shell.mlp(tmp_path / "model.onnx", inputs=WIDE)
    return tmp_path


@pytest.fixture
def compiled(folder: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """A folder with ``sparse.onnx`` and, packed, ``sparse.packed.onnx``."""
    shell.good(*COMPILE, "-o", "sparse.onnx", capture=capfd)
    shell.good("sparse.onnx", verb="pack", capture=capfd)
    return folder


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_pack(compiled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = shell.contents(compiled)
    out = shell.good("sparse.onnx", "-o", "small.onnx", verb="pack", capture=capfd)
    left, counted, written = out.splitlines()
    assert left == ("left as it is: second.codes: packing saves 24 of 64 bytes, less than 768")
    sizes = re.fullmatch(r"1 weight packed: (0\.\d{3}) MB → (0\.\d{3}) MB", counted)
    assert sizes is not None
    assert float(sizes[2]) < float(sizes[1])
    assert written == "small.onnx"
    assert shell.digest(compiled / "small.onnx") == shell.digest(
        compiled / "sparse.packed.onnx"
    )
    onnx.checker.check_model(onnx.load(compiled / "small.onnx"), full_check=True)
    assert {"BitShift", "ScatterElements"} < operators(compiled / "small.onnx")
    after = shell.contents(compiled)
    assert {name: after[name] for name in before} == before


def test_unpack_gives_the_same_bytes(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = shell.good("sparse.packed.onnx", verb="unpack", capture=capfd)
    assert out == "1 weight unpacked\nsparse.unpacked.onnx\n"
    assert shell.digest(compiled / "sparse.unpacked.onnx") == shell.digest(
        compiled / "sparse.onnx"
    )
    shell.good("sparse.packed.onnx", "-o", "there.onnx", verb="unpack", capture=capfd)
    assert shell.digest(compiled / "there.onnx") == shell.digest(compiled / "sparse.onnx")


def test_packing_what_is_packed_gives_the_same_bytes(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shell.good("sparse.packed.onnx", "-o", "again.onnx", verb="pack", capture=capfd)
    assert shell.digest(compiled / "again.onnx") == shell.digest(
        compiled / "sparse.packed.onnx"
    )


def test_the_pass_writes_what_the_verb_writes(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shell.good(*PACKED, "-o", "pass.onnx", capture=capfd)
    shell.good("pass.onnx", "-o", "a.onnx", verb="unpack", capture=capfd)
    ours, theirs = onnx.load(compiled / "a.onnx"), onnx.load(compiled / "sparse.onnx")
    for model in (ours, theirs):  # the recipe is another one
        kept = [entry for entry in model.metadata_props if entry.key != "gpusq.recipe"]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
    assert ours == theirs


def test_the_pass_alone_packs_what_is_frozen_and_does_nothing_else(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("sparse.onnx", "--passes", "pack", "-o", "alone.onnx", "-q")
    shell.good(*arguments, capture=capfd)
    passes = shell.passes_of(shell.report_of(compiled, "alone.json"))
    assert list(passes) == ["canonicalize", "pack"]
    assert not passes["canonicalize"]["changed"]
    ours, theirs = (
        onnx.load(compiled / name).graph for name in ("alone.onnx", "sparse.packed.onnx")
    )
    assert list(ours.node) == list(theirs.node)
    weights = [{one.name: one for one in graph.initializer} for graph in (ours, theirs)]
    assert weights[0] == weights[1]


def test_the_report_tells_the_size_of_the_packed_file(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument for argument in PACKED if argument != "-q"]
    out = shell.good(*arguments, "-o", "pass.onnx", capture=capfd)
    size = (compiled / "pass.onnx").stat().st_size
    assert size < (compiled / "sparse.onnx").stat().st_size
    assert re.search(rf"file +│ [\d.]+ MB │ +{size / 1e6:.3f} MB", out)
    report = shell.report_of(compiled, "pass.json")
    assert report["output"]["bytes"] == size
    packing = shell.passes_of(report)["pack"]
    assert packing["metrics"] == {
        "weights": 1,
        "codes_bytes": WIDE * 16,
        "packed_bytes": WIDE * 16 * 20 / 32,
    }
    assert report["recipe"].rstrip().endswith('[[pass]]\nuse = "pack"\nleast = 768')


def test_check_and_lint_see_what_is_in_it(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = shell.good("sparse.packed.onnx", verb="check", capture=capfd)
    for fact in ("sparse", "qdq", "frozen", "packed"):
        assert re.search(rf"^{fact} +holds$", out, re.MULTILINE)
    assert "2 tensors hold the pattern" in out
    plain = shell.good("sparse.onnx", verb="check", capture=capfd)
    assert out == re.sub(r"packed +not claimed", "packed     holds", plain)
    answers = [shell.call(file, verb="lint", capture=capfd) for file in FILES]
    assert answers[0].out == answers[1].out


def test_compare_and_extract_see_the_same_model(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = shell.good(*FILES, verb="compare", capture=capfd)
    assert re.search(r"y .* 1\.000000 .* inf dB .* 0 .* 100\.0 %", out)
    ends = ("--inputs", "x", "--outputs", "a")
    for number, file in enumerate(FILES):
        shell.good(file, *ends, "-o", f"{number}.onnx", verb="extract", capture=capfd)
    assert shell.digest(compiled / "0.onnx") == shell.digest(compiled / "1.onnx")


def test_bench_tells_the_size_of_the_packed_file(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    few = (
        "--seconds",
        "0.01",
        "--batch-sizes",
        "1",
        "--warm-up",
        "0",
        "--threads",
        "1",
        "--json",
    )
    out = shell.good(*FILES, *few, verb="bench", capture=capfd)
    for file in FILES:
        assert f'"bytes": {(compiled / file).stat().st_size}' in out


@pytest.mark.parametrize(
    "how", ["--on-device", pytest.param("--check", marks=pytest.mark.rtx)]
)
def test_tensorrt_gets_no_packed_file(
    how: str, compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if how == "--check":
        pytest.importorskip("tensorrt_rtx", reason="type: pip install tensorrt-rtx")
    before = shell.contents(compiled)
    outcome = shell.call(["sparse.packed.onnx", how], capfd, "build")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        "gpusq: error: model: its file is packed, which TensorRT's parser does not read. "
        "Unpack it first: gpusq unpack MODEL\n"
    )
    assert shell.contents(compiled) == before


def test_which_layers_are_sparse_is_told_of_a_packed_file(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = [shell.good(f, "--predict", verb="build", capture=capfd) for f in FILES]
    assert answers[0] == answers[1]


def test_what_is_packed_is_not_compiled_again(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = shell.call(["sparse.packed.onnx", "--passes", "prune"], capfd)
    assert outcome.code == 1
    assert (
        "sparse.packed.onnx, pass 'prune': cannot run on a model that is already frozen"
        in (outcome.err)
    )


def planted(folder: Path) -> None:
    """A claim that the stored codes do not keep: they are 2:4, not 1:4."""
    model = onnx.load(folder / "sparse.packed.onnx")
    for info in model.graph.value_info:
        for entry in info.metadata_props:
            entry.value = entry.value.replace("2:4", "1:4")
    onnx.save(model, folder / "bad.onnx")


def turned(folder: Path) -> None:
    """Bits are shifted the other way."""
    model = onnx.load(folder / "sparse.packed.onnx")
    (node,) = (n for n in model.graph.node if n.op_type == "BitShift")
    node.attribute[0].s = b"LEFT"
    onnx.save(model, folder / "bad.onnx")


def cut(folder: Path) -> None:
    whole = (folder / "sparse.packed.onnx").read_bytes()
    (folder / "bad.onnx").write_bytes(whole[: len(whole) // 2])


def foreign(folder: Path) -> None:
    onnx.save(ir.to_proto(tiny.int4_weight()), folder / "bad.onnx")


def float_only(folder: Path) -> None:
    shutil.copy(folder / "model.onnx", folder / "bad.onnx")


def nothing(folder: Path) -> None:
    del folder


CASES = [
    (
        ("pack bad.onnx", float_only),
        (1, "bad.onnx: holds no integer weights of ours. Compile it"),
    ),
    (("pack bad.onnx", foreign), (1, "bad.onnx: holds no integer weights of ours")),
    (("pack no.onnx", nothing), (6, "no.onnx: cannot be read")),
    (
        ("pack sparse.onnx -o sparse.onnx", nothing),
        (6, "would overwrite a file that the model"),
    ),
    (("pack sparse.onnx -o no/x.onnx", nothing), (6, "the folder does not exist")),
    (("pack bad.onnx", planted), (1, "the model claims what its values do not keep: ")),
    (("check bad.onnx", planted), (3, "tensor 'first.codes': 2048 groups break 1:4 axis=0")),
    (
        ("unpack bad.onnx", turned),
        (1, "tensor 'first.codes': is stored packed, and its BitShift"),
    ),
    (("check bad.onnx", turned), (1, "Take the file as gpusq wrote it, or compile the model")),
    (("compile bad.onnx --passes prune", turned), (1, "is stored packed, and its BitShift")),
    (("unpack bad.onnx", cut), (1, "truncated")),
    (("unpack bad.onnx", foreign), (1, "bad.onnx: holds nothing packed")),
    (("unpack sparse.onnx", nothing), (1, "holds nothing packed. Use the file as it is")),
    (("unpack no.onnx", nothing), (6, "no.onnx: cannot be read")),
    (
        ("unpack sparse.packed.onnx -o sparse.packed.onnx", nothing),
        (6, "would overwrite a file"),
    ),
    (("pack", nothing), (2, "Missing argument 'MODEL'")),
]


@pytest.mark.parametrize(("mistake", "told"), CASES)
def test_a_refusal_is_one_line_and_writes_nothing(
    mistake: tuple[str, Callable[[Path], None]],
    told: tuple[int, str],
    compiled: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (words, damage), (code, says) = mistake, told
    damage(compiled)
    before = shell.contents(compiled)
    verb, *arguments = words.split()
    outcome = shell.call(arguments, capfd, verb)
    (line,) = outcome.err.splitlines()
    assert outcome.code == code, line
    assert line.startswith("gpusq: error: ")
    assert says in line
    assert not outcome.out
    assert shell.contents(compiled) == before


def test_nothing_to_pack_is_told_with_the_reasons(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shell.mlp(folder / "model.onnx")
    shell.good(*COMPILE, "-o", "sparse.onnx", capture=capfd)
    before = shell.contents(folder)
    outcome = shell.call(["sparse.onnx"], capfd, "pack")
    assert outcome.code == 1
    assert [line.split(": ")[1] for line in outcome.out.splitlines()] == [
        "first.codes",
        "second.codes",
    ]
    assert outcome.err.startswith("gpusq: error: sparse.onnx: holds no weight that packing")
    assert shell.contents(folder) == before


@pytest.mark.parametrize(
    "passes", ["prune,quantize,pack", "pack", "prune,quantize,lower,pack"]
)
def test_for_tensorrt_pack_is_refused_before_anything_runs(
    passes: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = shell.contents(folder)
    words = ["model.onnx", "--passes", passes, "--target", "tensorrt"]
    for more in ([], ["--dry-run"]):
        outcome = shell.call([*words, *more], capfd)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err == (
            "gpusq: error: pass 'pack': TensorRT's parser does not take packed files. "
            "Leave pack out; for storage: gpusq pack, and gpusq unpack to build\n"
        )
        assert shell.contents(folder) == before


def test_a_lowered_file_packs_and_is_legal_again_once_unpacked(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shell.good(*COMPILE, "-o", "low.onnx", "--target", "tensorrt", capture=capfd)
    shell.good("low.onnx", "-o", "small.onnx", verb="pack", capture=capfd)
    shell.good("small.onnx", "-o", "again.onnx", verb="unpack", capture=capfd)
    for file in ("low.onnx", "small.onnx", "again.onnx"):
        assert "trt-legal  holds" in shell.good(file, verb="check", capture=capfd)
    assert shell.digest(folder / "again.onnx") == shell.digest(folder / "low.onnx")

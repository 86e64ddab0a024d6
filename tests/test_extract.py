"""gpusq extract: the part between named tensors computes what the whole computes there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import OptionError
from gpusq_compiler.ir import claims, io
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.extract import extract
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.runtime.session import Session
from gpusq_compiler.sparsity.scores import Magnitude
from tests import shell, tiny

if TYPE_CHECKING:
    from pathlib import Path

PARTS = [
    ("mlp", ["h"], ["y"]),
    ("mlp", ["x"], ["a", "z"]),
    ("conv_bn_relu", ["r1"], ["r2"]),
    ("residual", ["r1"], ["s"]),
    ("residual", ["r1", "c2"], ["y"]),
    ("attention", ["n"], ["weights"]),
    ("attention", ["q", "kt", "v"], ["out"]),
    ("shared_weight", ["h"], ["y"]),
    ("if_branch", ["h"], ["y"]),
    ("if_branch", ["h", "up"], ["y"]),
    ("bf16_matmul", ["x"], ["y"]),
    ("int4_weight", ["h"], ["y"]),
    ("int4_weight", ["x"], ["h"]),
]


@pytest.mark.parametrize(("name", "inputs", "outputs"), PARTS)
def test_a_part_computes_what_the_whole_does(
    name: str, inputs: list[str], outputs: list[str]
) -> None:
    whole = tiny.MODELS[name]()
    feeds = tiny.samples(whole, 5).arrays
    wanted = [*inputs, *outputs]
    seen = Session(whole, outputs=wanted, threads=1, optimize=False)(feeds) | feeds
    part = whole.clone()
    extract(part, inputs=inputs, outputs=outputs)
    assert [value.name for value in part.graph.inputs] == inputs
    assert [value.name for value in part.graph.outputs] == outputs
    found = Session(part, threads=1, optimize=False)({key: seen[key] for key in inputs})
    assert all(np.array_equal(found[key], seen[key]) for key in outputs)


def test_a_part_keeps_names_weights_types_and_notes() -> None:
    model = tiny.mlp()
    model.metadata_props["note"] = "of the model"
    tiny.node(model, "MatMul.z").doc_string = "the second layer"
    tiny.node(model, "Relu.h").outputs[0].metadata_props["note"] = "of h"
    weight = model.graph.initializers["w2"].const_value
    extract(model, inputs=["h"], outputs=["z"])
    assert [node.name for node in model.graph] == ["MatMul.z"]
    assert list(model.graph.initializers) == ["w2"]
    assert model.graph.initializers["w2"].const_value is weight
    assert model.metadata_props == {"note": "of the model"}
    assert tiny.node(model, "MatMul.z").doc_string == "the second layer"
    (h,) = model.graph.inputs
    assert h.metadata_props["note"] == "of h"
    assert (str(h.shape), h.dtype) == ("[N,32]", ir.DataType.FLOAT)
    assert str(model.graph.outputs[0].shape) == "[N,10]"


def test_weights_that_are_inputs_with_a_default_need_not_be_named() -> None:
    model = tiny.mlp()
    for value in model.graph.initializers.values():
        model.graph.inputs.append(value)
    extract(model, inputs=["h"], outputs=["z"])
    assert [value.name for value in model.graph.inputs] == ["h", "w2"]
    assert list(model.graph.initializers) == ["w2"]


def test_a_part_of_a_sparse_model_is_sparse() -> None:
    model = Prune(score=Magnitude())(Canonicalize()(tiny.mlp()))
    extract(model, inputs=["h"], outputs=["y"])
    assert [value.name for value, _ in claims.sparse_values(model)] == ["w2"]
    assert not facts.broken_claims(model)


def test_a_part_behind_one_of_several_outputs() -> None:
    model = tiny.model_of("""
    split (float[N, 4] x) => (float[N, 3] y) <int64[2] sizes = {1, 3}> {
        left, right = Split<axis = 1>(x, sizes)
        y = Add(left, right)
    }""")
    x = tiny.samples(model, 3).arrays["x"]
    extract(model, inputs=["x", "left"], outputs=["y"])
    left = np.full((3, 1), 5, np.float32)
    assert np.array_equal(Session(model, threads=1)({"x": x, "left": left})["y"], x[:, 1:] + 5)


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "text"),
    [
        ("mlp", ["hh"], ["y"], r"--inputs: there is no tensor 'hh' .* Did you mean h\?"),
        ("mlp", ["h"], ["yy"], r"--outputs: there is no tensor 'yy' .* Did you mean y\?"),
        ("mlp", [""], ["y"], r"--inputs: there is no tensor '' .* Known: a, h, x, y, z"),
        ("mlp", ["w2"], ["y"], "--inputs: 'w2' is a weight"),
        ("mlp", ["z"], ["h"], "--inputs: the outputs also depend on 'x'"),
        ("residual", ["c2"], ["s"], "--inputs: the outputs also depend on 'x'"),
        ("if_branch", ["up"], ["y"], "--inputs: the outputs also depend on 'x'"),
        ("mlp", ["x", "h"], ["y"], "--inputs: 'x' takes no part in the outputs"),
        ("mlp", ["h", "x"], ["x", "y"], "--inputs: 'x' is an output too"),
        ("if_branch", ["h"], ["inner"], "--outputs: there is no tensor 'inner' in the main"),
    ],
)
def test_what_cannot_be_cut_is_one_line(
    name: str, inputs: list[str], outputs: list[str], text: str
) -> None:
    model = tiny.MODELS[name]()
    before = tiny.operators(model)
    with pytest.raises(OptionError, match=f"^{text}") as caught:
        extract(model, inputs=inputs, outputs=outputs)
    assert "\n" not in str(caught.value)
    assert tiny.operators(model) == before


def test_thousands_of_names_are_not_listed() -> None:
    steps = "\n".join(f"t{i + 1}000 = Relu(t{i}000)" for i in range(99))
    model = tiny.model_of(
        f"long (float[N, 4] t0000) => (float[N, 4] y) {{ {steps} y = Relu(t99000) }}"
    )
    with pytest.raises(OptionError, match="A viewer such as Netron shows"):
        extract(model, inputs=["norm"], outputs=["y"])
    with pytest.raises(OptionError, match="Did you mean t99000"):
        extract(model, inputs=["t9900"], outputs=["y"])


def test_a_type_that_nobody_knows_is_one_line() -> None:
    model = tiny.mlp()
    tiny.node(model, "Relu.h").domain = "vendor"
    model.graph.opset_imports["vendor"] = 1
    with pytest.raises(OptionError, match="the type of 'h' is not in the file"):
        extract(model, inputs=["h"], outputs=["y"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shell.mlp(tmp_path / "model.onnx", external=True)
    return tmp_path


def call(capture: Any, *arguments: str) -> shell.Outcome:
    return shell.call(arguments, capture, "extract")


def test_extract(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = call(capfd, "model.onnx", "--inputs", "a", "--outputs", "c, d")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "model.extract.onnx\n"
    assert not outcome.err
    part = onnx.load(folder / "model.extract.onnx")
    onnx.checker.check_model(part, full_check=True)
    assert [node.name for node in part.graph.node] == ["add_1", "relu", "matmul_2"]
    assert [tensor.name for tensor in part.graph.initializer] == ["first_bias", "second"]
    x = shell.arrays(4)["x"]
    whole = Session(io.load(folder / "model.onnx"), outputs=["a", "c", "d"], threads=1)
    seen = whole({"x": x})
    found = Session(io.load(folder / "model.extract.onnx"), threads=1)({"a": seen["a"]})
    assert all(np.array_equal(found[name], seen[name]) for name in ("c", "d"))


def test_extract_to_a_file_of_choice(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "parts").mkdir()
    arguments = ("--inputs", "x", "--outputs", "b", "--out", "parts/head.onnx")
    outcome = call(capfd, "model.onnx", *arguments)
    assert (outcome.code, outcome.out) == (0, "parts/head.onnx\n")
    assert (folder / "parts" / "head.onnx").is_file()


def test_names_that_hold_commas(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [{"a": "a, b", "c": "c,d"}.get(name, name) for name in names]
    onnx.save(model, folder / "commas.onnx")
    given = ("--inputs", "a, b", "--outputs", "c,d", "--outputs", "b, d")
    outcome = call(capfd, "commas.onnx", *given)
    assert outcome.code == 0, outcome.err
    part = onnx.load(folder / "commas.extract.onnx")
    assert [value.name for value in part.graph.input] == ["a, b"]
    assert [value.name for value in part.graph.output] == ["c,d", "b", "d"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--inputs", "x", "--outputs", "q"), 2, "there is no tensor 'q'"),
        (("--inputs", "d", "--outputs", "c"), 2, "the outputs also depend on 'x'"),
        (("--inputs", "x"), 2, "Missing option '--outputs'"),
        (
            ("--inputs", "x", "--outputs", "c", "--out", "model.onnx"),
            6,
            "would overwrite a file that the model is read from",
        ),
        (
            ("--inputs", "x", "--outputs", "c", "--out", "model.data"),
            6,
            "would overwrite a file that the model is read from",
        ),
        (("--inputs", "x", "--outputs", "c", "--out", "no/where.onnx"), 6, "does not exist"),
    ],
)
def test_a_refusal_is_one_line_and_writes_nothing(
    arguments: tuple[str, ...],
    code: int,
    text: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = shell.contents(folder)
    outcome = call(capfd, "model.onnx", *arguments)
    assert outcome.code == code
    assert not outcome.out
    (line,) = outcome.err.splitlines()
    assert line.startswith("gpusq: error: ")
    assert text in line
    assert shell.contents(folder) == before

"""Where two models part, against models that part at a known place."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpusq_compiler.analysis import divergence, picture
from gpusq_compiler.analysis.comparison import TENSORS, Comparison
from gpusq_compiler.analysis.divergence import Divergence, diverge
from gpusq_compiler.errors import FileError, MissingRuntime, ModelError, OptionError
from gpusq_compiler.ir import edit
from gpusq_compiler.runtime import metrics
from gpusq_compiler.runtime.compare import compare
from gpusq_compiler.runtime.session import Session
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir


def moved(model: ir.Model, weight: str, factor: float) -> ir.Model:
    """A copy in which one weight is scaled."""
    clone = model.clone()
    value = clone.graph.initializers[weight]
    assert value.const_value is not None
    edit.replace_weight(value, value.const_value.numpy() * np.float32(factor))
    return clone


def found_in(first: ir.Model, second: ir.Model, **options: object) -> Divergence:
    return diverge(first, second, tiny.samples(first), threads=1, **options)  # type: ignore[arg-type]


def test_a_model_does_not_part_from_itself() -> None:
    found = found_in(tiny.attention(), tiny.attention())
    assert found.parts is None
    assert found.noisiest is None
    assert all(one.sqnr == math.inf for one in found.tensors)
    assert all((one.max_error, one.added) == (0, 0) for one in found.tensors)
    assert found.tensors[0].cosine == pytest.approx(1)
    assert not found.left_out
    assert found.samples == 16


def test_models_part_where_a_weight_differs() -> None:
    first = tiny.residual()
    found = found_in(first, moved(first, "w2", 1.5))
    by_name = {one.name: one for one in found.tensors}
    assert list(by_name) == ["c1", "r1", "c2", "s", "y"]
    assert by_name["r1"].sqnr == math.inf
    assert found.parts is by_name["c2"]
    assert found.noisiest is by_name["c2"]
    # The convolution's bias is not scaled: the error is that of the rest, half of its size.
    assert by_name["c2"].sqnr < 20 * math.log10(1 / 0.4)
    assert by_name["s"].added < 0, "the skip input drowns some of it"


def test_a_mask_of_infinities_is_no_place_to_part() -> None:
    first = tiny.model_of("""
    masked (float[N, 8] x) => (float[N, 8] y)
    <float[8, 8] w, float[8] far = {0, 0, 0, 0, 0, 0, -inf, -inf}> {
        a = MatMul(x, w)
        m = Add(a, far)
        p = Softmax(m)
        y = Add(m, p)
    }""")
    second = moved(first, "w", 1.001)
    found = found_in(first, second)
    assert found.parts is None
    assert all(math.isfinite(one.sqnr) and one.max_error < 1 for one in found.tensors)
    (output,) = compare(first, second, tiny.samples(first), threads=1).values()
    assert output.sqnr > 40


MASKED = """
masked (float[N, 8] x) => (float[N, 8] y)
<float[8, 8] w, float[8] keep = {1, 1, 1, 1, 1, 1, 0, 0}, float one = {1}, float far = {FAR}> {
    open = Add(keep, x)
    a = MatMul(x, w)
    gone = Sub(one, keep)
    m = Mul(gone, far)
    s = Add(a, m)
    p = Softmax(s)
    y = Add(p, open)
}"""


@pytest.mark.parametrize("far", ["-1e4", "-1e9", "-3.4028234e38", "-65504"])
def test_scores_are_compared_where_nothing_masks_them(far: str) -> None:
    first = tiny.model_of(MASKED.replace("FAR", far))
    second = moved(tiny.model_of(MASKED.replace("FAR", "-65504")), "w", 1.5)
    by_name = {one.name: one for one in found_in(first, second).tensors}
    # Half of the scores is the difference, 6.02 dB, wherever there are any.
    assert by_name["a"].sqnr == pytest.approx(20 * math.log10(2), abs=1e-4)
    assert by_name["s"].sqnr == pytest.approx(20 * math.log10(2), abs=1e-4)
    assert by_name["s"].max_error <= by_name["a"].max_error


def test_a_mask_that_only_one_model_has_shows() -> None:
    first = tiny.model_of(MASKED.replace("FAR", "-3.4028234e38"))
    second = tiny.model_of(MASKED.replace("FAR", "0"))
    found = found_in(first, second)
    assert found.parts is not None
    assert found.parts.name == "s"
    assert found.parts.sqnr == pytest.approx(0, abs=0.1), "the mask is all that s holds"
    assert 900 < found.parts.max_error < 1100


def test_figures_are_those_of_whole_arrays() -> None:
    first = tiny.mlp()
    second = moved(first, "w1", 1.25)
    found = {one.name: one for one in found_in(first, second, count=7).tensors}
    feeds = tiny.samples(first).take(np.arange(7))
    (wanted, got) = (
        Session(model, outputs=["a", "h", "z"], threads=1, optimize=False)(feeds)
        for model in (first, second)
    )
    noise = {name: 10 ** (-metrics.sqnr(got[name], wanted[name]) / 10) for name in wanted}
    for name in ("a", "h", "z"):
        one = found[name]
        assert one.cosine == pytest.approx(metrics.cosine(got[name], wanted[name]), abs=1e-9)
        assert one.sqnr == pytest.approx(metrics.sqnr(got[name], wanted[name]), abs=1e-6)
        assert one.max_error == metrics.max_error(got[name], wanted[name])
    assert found["a"].added == pytest.approx(noise["a"])
    assert found["h"].added == pytest.approx(noise["h"] - noise["a"])


def test_memory_is_bounded_by_looking_at_some_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = tiny.attention()
    second = moved(first, "w_qkv", 1.1)
    whole = found_in(first, second)
    seen: list[list[str]] = []

    class Watched(Session):
        def __init__(self, model: ir.Model, **options: object) -> None:
            seen.append(list(options["outputs"]))  # type: ignore[call-overload]
            super().__init__(model, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(divergence, "Session", Watched)
    # Two of the largest tensors: a batch of 4, 4 positions, 48 wide, 4 bytes each.
    monkeypatch.setattr(divergence, "HELD", 2 * 4 * 4 * 48 * 4)
    parts = found_in(first, second)
    assert parts == whole
    assert len(seen) > 4
    assert sum(map(len, seen)) == 2 * len(whole.tensors)


def test_a_fixed_batch(tmp_path: Path) -> None:
    text = "net (float[3, 8] x) => (float[3, 6] y) <float[8, 6] w> { y = MatMul(x, w) }"
    first = tiny.model_of(text)
    found = found_in(first, moved(first, "w", 0.5), count=4)
    (only,) = found.tensors
    assert only.sqnr == pytest.approx(20 * math.log10(2))
    assert found.samples == 4


def test_the_limit_is_an_option() -> None:
    first = tiny.mlp()
    second = moved(first, "w2", 1.01)  # 40 dB
    assert found_in(first, second).parts is None
    found = found_in(first, second, limit=50.0)
    assert found.parts is not None
    assert found.parts.name == "z"
    assert "they part at 'z' (MatMul 'MatMul.z'): 40.0 dB" in "\n".join(summary(found))
    assert found.parts is not None
    nameless = dataclasses.replace(found, tensors=(dataclasses.replace(found.parts, node=""),))
    assert "they part at 'z' (MatMul): 40.0 dB" in "\n".join(summary(nameless))


def test_what_is_no_number_parts() -> None:
    first = tiny.mlp()
    found = found_in(first, moved(first, "w1", math.nan))
    assert found.parts is not None
    assert found.parts.name == "a"
    assert json.loads(json.dumps(as_json(found), allow_nan=False))


def test_another_shape_is_left_out_and_said() -> None:
    text = """
    net (float[N, 8] x) => (float[N, 8] y) <int64[2] shape = {SHAPE}> {
        r = Relu(x)
        z = Reshape(r, shape)
        f = Flatten<axis = 0>(z)
        y0 = Relu(f)
        back = Shape(x)
        y = Reshape(y0, back)
    }"""
    first = tiny.model_of(text.replace("SHAPE", "-1, 4"))
    second = tiny.model_of(text.replace("SHAPE", "-1, 2"))
    found = found_in(first, second)
    assert found.left_out == {"z": "has shape [8, 4] and [16, 2]"}
    assert "left out: 'z' has shape [8, 4] and [16, 2]" in list(summary(found))
    assert [one.name for one in found.tensors] == ["r", "f", "y0", "y"]


def test_models_without_a_common_tensor_are_refused() -> None:
    first, second = tiny.mlp(), tiny.mlp()
    for node in second.graph:
        node.outputs[0].name = f"other_{node.outputs[0].name}"
    with pytest.raises(ModelError, match="no computed tensor in common"):
        found_in(first, second)


def summary(found: Divergence) -> list[str]:
    return list(Comparison(samples=1, outputs={}, tensors=found).summary())


def as_json(found: Divergence) -> dict[str, object]:
    return Comparison(samples=1, outputs={}, tensors=found).as_json()


def test_json_and_rows_hold_everything() -> None:
    first = tiny.mlp()
    second = moved(first, "w2", 2.0)
    outputs = compare(first, second, tiny.samples(first), threads=1)
    found = Comparison(samples=24, outputs=outputs, tensors=found_in(first, second))
    content = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert list(content) == ["format", "samples", "outputs", "tensors"]
    assert content["outputs"][0]["name"] == "y"
    tensors = content["tensors"]
    assert (tensors["parts"], tensors["noisiest"], tensors["limit"]) == ("z", "z", 20.0)
    assert [one["name"] for one in tensors["tensors"]] == ["a", "h", "z", "y"]
    assert tensors["tensors"][0]["sqnr"] is None
    assert all(len(row) == len(TENSORS) for row in found.tensor_rows())


def test_without_tensors_the_way_to_them_is_told() -> None:
    found = Comparison(samples=1, outputs={})
    assert found.as_json()["tensors"] is None
    assert list(found.summary()) == [
        "add --layers for the tensors in between, and where the models part"
    ]


def test_an_embedding_has_no_classes() -> None:
    model = tiny.model_of("""
    net (float[N, 8] x) => (float[N, 6] y) <float[8, 6] w, float[6] g, float[6] b> {
        h = MatMul(x, w)
        y = LayerNormalization(h, g, b)
    }""")
    found = compare(model, model, tiny.samples(model), threads=1)
    assert found["y"].agreement is None
    assert compare(tiny.mlp(), tiny.mlp(), tiny.samples(tiny.mlp()))["y"].agreement == 1


@pytest.mark.parametrize("name", ["p.svg", "p.PNG"])
def test_a_picture(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install .[report]")
    first = tiny.mlp()
    found = found_in(first, moved(first, "w2", 2.0))
    path, again = tmp_path / name, tmp_path / f"again.{name}"
    picture.require_drawable(path)
    picture.draw(found, path, "first and second")
    picture.draw(found, again, "first and second")
    content = path.read_bytes()
    assert content == again.read_bytes(), "same models, same bytes"
    if name.endswith("svg"):
        text = content.decode()
        assert text.count("<path") > len(found.tensors)
        assert "<svg" in text[:400]
    else:
        assert content.startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_made_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match=r"End it in \.svg or \.png"):
        picture.require_drawable(tmp_path / "p.pdf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(FileError, match="does not exist"):
        picture.require_drawable(tmp_path / "nowhere" / "p.svg")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingRuntime, match=r"pip install 'gpusq-compiler\[report\]'"):
        picture.require_drawable(tmp_path / "p.svg")

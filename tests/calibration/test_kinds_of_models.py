"""Models with unusual inputs, from the data to the numbers that come out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from gpusq_compiler.calibration.batches import from_arrays, load
from gpusq_compiler.calibration.collect import collect
from gpusq_compiler.calibration.evaluate import Evaluator
from gpusq_compiler.calibration.synthetic import synthesize
from gpusq_compiler.errors import DataError, ModelError
from gpusq_compiler.ir.sizes import SAMPLES, SEQUENCE
from gpusq_compiler.quant.observers import MinMax
from gpusq_compiler.runtime.session import Session, input_specs

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Samples

Array = npt.NDArray[Any]


def graph(inputs: str, outputs: str, body: str, **tables: Array) -> ir.Model:
    return ir.from_onnx_text(
        f'<ir_version: 9, opset_import: ["" : 17]>\ng ({inputs}) => ({outputs}) {{ {body} }}',
        initializers=[ir.tensor(value, name=name) for name, value in tables.items()],
    )


def run(model: ir.Model, samples: Samples, size: int) -> list[dict[str, Array]]:
    return [found for _, found in Session(model, threads=1).over(samples, size)]


def test_ids_mask_and_token_types(tmp_path: Path) -> None:
    words = np.arange(10, dtype=np.float32).reshape(5, 2)
    model = graph(
        "int64[b, s] ids, bool[b, s] mask, int32[b, s] kinds",
        "float[b, s, 2] y",
        "e = Gather(words, ids) m = Cast<to = 1>(mask) k = Cast<to = 1>(kinds) "
        "t = Add(m, k) w = Unsqueeze(t, last) y = Mul(e, w)",
        words=words,
        last=np.array([-1], np.int64),
    )
    rng = np.random.default_rng(0)
    data: dict[str, Any] = {
        "ids": rng.integers(0, 5, (7, 3)),
        "mask": rng.random((7, 3)) < 0.5,
        "kinds": rng.integers(0, 2, (7, 3)).astype(np.int32),
    }
    np.savez(tmp_path / "d.npz", **data)
    samples = load(str(tmp_path / "d.npz"), input_specs(model), workdir=tmp_path)
    found = np.concatenate([part["y"] for part in run(model, samples, 3)])
    factor = data["mask"].astype(float) + data["kinds"]
    np.testing.assert_array_equal(found, words[data["ids"]] * factor[..., None])


def test_a_model_of_scalars_alone_runs_sample_by_sample(tmp_path: Path) -> None:
    model = graph("float a, float b", "float y", "y = Mul(a, b)")
    data = {"a": np.array([1, 2, 3], np.float32), "b": np.array([5, 7, 9], np.float32)}
    samples = from_arrays(data, input_specs(model), workdir=tmp_path)
    assert [float(part["y"]) for part in run(model, samples, 2)] == [5, 14, 27]
    states = collect(model, ["a", "y"], samples, MinMax())
    assert {name: state.absmax() for name, state in states.items()} == {"a": 3, "y": 27}
    assert len(run(model, synthesize(model, seed=0, count=3), 2)) == 3


def test_a_state_without_a_batch_dimension_is_given_per_sample(tmp_path: Path) -> None:
    model = graph(
        "float[1, 3] x, float[2, 1, 3] state, int64 rate",
        "float[2, 1, 3] y",
        "r = Cast<to = 1>(rate) s = Mul(state, r) y = Add(s, x)",
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3)).astype(np.float32)
    state = rng.standard_normal((4, 2, 1, 3)).astype(np.float32)
    data = {"x": x, "state": state, "rate": np.full(4, 2)}
    samples = from_arrays(data, input_specs(model), workdir=tmp_path)
    assert samples.count == 4
    for index, part in enumerate(run(model, samples, 32)):
        np.testing.assert_allclose(part["y"], 2 * state[index] + x[index], rtol=1e-6)
    made = synthesize(model, seed=0).take(np.arange(1))
    assert {k: v.shape for k, v in made.items()} == {
        "x": (1, 3),
        "state": (2, 1, 3),
        "rate": (),
    }
    with pytest.raises(
        DataError, match=r"shape \[4, 1, 3\], the model wants \[samples, 2, 1, 3"
    ):
        from_arrays({**data, "state": state[:, 0]}, input_specs(model), workdir=tmp_path)


@pytest.mark.parametrize("yielded", [4, 1, 6])
def test_a_fixed_batch_takes_batches_of_any_size(tmp_path: Path, yielded: int) -> None:
    model = graph("float[4, 2] x", "float[4, 2] y", "y = Neg(x)")
    x = np.arange(24, dtype=np.float32).reshape(12, 2)[:11]
    parts = [{"x": x[start : start + yielded]} for start in range(0, 11, yielded)]
    samples = from_arrays(parts, input_specs(model), workdir=tmp_path)
    found = np.concatenate([part["y"] for part in run(model, samples, 32)])
    np.testing.assert_array_equal(found, -x)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.bool_, np.float16])
def test_every_kind_of_number_is_an_input(tmp_path: Path, dtype: Any) -> None:
    name = {"bool_": "bool"}.get(dtype.__name__, dtype.__name__)
    model = graph(f"{name}[b, 2] x", "float[b, 2] y", "y = Cast<to = 1>(x)")
    x = np.array([[0, 1], [1, 1], [1, 0]]).astype(dtype)
    samples = from_arrays({"x": x}, input_specs(model), workdir=tmp_path)
    np.testing.assert_array_equal(run(model, samples, 32)[0]["y"], x.astype(np.float32))
    assert run(model, synthesize(model, seed=0, count=2), 2)[0]["y"].shape == (2, 2)


def test_sequences_of_several_lengths_are_told_what_to_do(tmp_path: Path) -> None:
    model = graph("float[b, s] x", "float[b, s] y", "y = Neg(x)")
    parts = [{"x": np.zeros((2, length), np.float32)} for length in (5, 9)]
    with pytest.raises(DataError) as caught:
        from_arrays(parts, input_specs(model), workdir=tmp_path)
    line = str(caught.value)
    assert "batch 1: array 'x': holds float32 samples of shape [9]" in line
    assert "crop, pad with the mask at 0, or keep those of one length" in line


def test_strings_are_refused(tmp_path: Path) -> None:
    model = graph("string[b] text, float[b, 2] x", "float[b, 2] y", "y = Neg(x)")
    with pytest.raises(ModelError, match="input 'text': the input takes strings"):
        input_specs(model)
    with pytest.raises(ModelError, match="takes strings"):
        synthesize(model, seed=0)
    numbers = input_specs(graph("float[b, 2] x", "float[b, 2] y", "y = Neg(x)"))
    with pytest.raises(DataError, match=r"is str.*, the model wants float32"):
        from_arrays({"x": [["a", "b"]]}, numbers, workdir=tmp_path)


def test_accuracy_of_a_segmentation_counts_pixels(tmp_path: Path) -> None:
    model = graph("float[n, 3, h, w] x", "float[n, 3, h, w] y", "y = Identity(x)")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3, 4, 6)).astype(np.float32)
    labels = rng.integers(0, 3, (5, 4, 6))
    data = {"x": x, "labels": labels}
    samples = from_arrays(data, input_specs(model), workdir=tmp_path)
    evaluator = Evaluator.of(None, samples, model, batch_size=2, threads=1)
    right = sum(
        int(np.argmax([x[n, c, h, w] for c in range(3)]) == labels[n, h, w])
        for n, h, w in np.ndindex(5, 4, 6)
    )
    assert evaluator.name == "accuracy"
    assert evaluator(model) == right / labels.size


def test_targets_of_the_outputs_shape_are_scored_by_psnr(tmp_path: Path) -> None:
    model = graph("float[n, 1, h, w] x", "float[n, 1, h, w] y", "y = Neg(x)")
    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 1, 4, 4)
    data = {"x": x, "labels": -x + np.float32(0.1)}
    samples = from_arrays(data, input_specs(model), workdir=tmp_path)
    score = Evaluator.of("psnr", samples, model, threads=1)(model)
    # The targets span 2, the error is 0.1 everywhere: 20 log10(2 / 0.1).
    assert score == pytest.approx(26.02, abs=0.01)


def made(inputs: str, name: str) -> Array:
    model = graph(
        inputs, "float y", f"z = Cast<to = 1>({name}) y = ReduceSum<keepdims = 0>(z)"
    )
    found: Array = synthesize(model, seed=0).take(np.arange(2))[name]
    return found


def test_synthetic_positions_lengths_bytes_and_sound() -> None:
    positions = made("int64[b, s] position_ids", "position_ids")
    assert positions.tolist() == [list(range(SEQUENCE))] * 2
    assert made("int64[b] audio_lengths", "audio_lengths").tolist() == [SEQUENCE] * 2
    assert made("float[b, 1, t] waveform", "waveform").shape == (2, 1, SAMPLES)
    assert made("float[b, sequence_length] input_values", "input_values").shape == (2, SAMPLES)
    assert made("float[b, mel_bins, frames] features", "features").shape == (2, 80, SEQUENCE)
    image = made("uint8[b, h, w, 3] pixels", "pixels")
    assert image.shape == (2, 224, 224, 3)
    assert image.max() > 200


def test_synthetic_positions_stay_below_their_table() -> None:
    model = graph(
        "int64[b, s] position_ids",
        "float[b, s, 1] y",
        "y = Gather(table, position_ids)",
        table=np.zeros((20, 1), np.float32),
    )
    found = synthesize(model, seed=0).take(np.arange(1))["position_ids"]
    assert found[0].tolist() == [*range(20), *range(12)]

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.calibration.synthetic import COUNT, synthesize
from gpusq_compiler.runtime.session import Session

ENCODER = """
<ir_version: 9, opset_import: ["" : 17]>
encoder (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask,
         int64[batch, sequence] kinds, bool[batch, sequence] keep) => (float[n, t, 4] y)
<int64[1] last = {-1}>
{
    wide = Unsqueeze(input_ids, last)
    flat = Squeeze(wide, last)
    embedded = Gather(words, flat)
    mask = Cast<to = 1>(attention_mask)
    kind = Cast<to = 1>(kinds)
    on = Cast<to = 1>(keep)
    a = Add(mask, kind)
    b = Add(a, on)
    c = Unsqueeze(b, last)
    y = Add(embedded, c)
}
"""


def encoder() -> ir.Model:
    words = np.arange(28, dtype=np.float32).reshape(7, 4)
    return ir.from_onnx_text(ENCODER, initializers=[ir.tensor(words, name="words")])


def test_integers_stay_below_the_table_that_they_index() -> None:
    samples = synthesize(encoder(), seed=0)
    feeds = samples.take(np.arange(samples.count))
    assert samples.count == COUNT
    assert feeds["input_ids"].shape == (COUNT, 32)
    assert feeds["input_ids"].dtype == np.int64
    assert set(np.unique(feeds["input_ids"])) == set(range(7))


def test_masks_are_ones_booleans_true_and_other_integers_flags() -> None:
    samples = synthesize(encoder(), seed=0)
    feeds = samples.take(np.arange(4))
    assert (feeds["attention_mask"] == 1).all()
    assert feeds["keep"].dtype == np.bool_
    assert feeds["keep"].all()
    assert set(np.unique(feeds["kinds"])) == {0, 1}


def test_the_model_runs_on_what_was_made_up() -> None:
    samples = synthesize(encoder(), seed=0)
    results = Session(encoder(), threads=1)(samples.take(np.arange(3)))
    assert results["y"].shape == (3, 32, 4)


def test_samples_are_a_function_of_seed_and_row() -> None:
    samples = synthesize(encoder(), seed=1, count=9)
    assert samples.synthetic
    assert not samples.has_labels
    rows = np.array([8, 2, 2])
    some, again = samples.take(rows), synthesize(encoder(), seed=1, count=9).take(rows)
    everything = samples.take(np.arange(9))
    other = synthesize(encoder(), seed=2, count=9).take(rows)
    for name, values in some.items():
        np.testing.assert_array_equal(values, again[name])
        np.testing.assert_array_equal(values, everything[name][rows])
    assert (some["input_ids"] != other["input_ids"]).any()
    assert (some["input_ids"][0] != some["input_ids"][1]).any()


def graph_of(inputs: str) -> ir.Model:
    first = inputs.rpartition(" ")[2]
    return ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["" : 17]>\n'
        f"g ({inputs}) => (float y) {{ z = Identity({first}) y = Cast<to = 1>(z) }}"
    )


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("float[n, 3, height, width]", (3, 224, 224)),
        ("float[n, 3, h, w]", (3, 224, 224)),
        ("float[n, 3, 8, 8]", (3, 8, 8)),
        ("float[n, ?, ?, ?]", (3, 224, 224)),
        ("float[1, 1, 8, 8]", (1, 8, 8)),
        ("float[n, ?, 5]", (32, 5)),
        ("float[n, num_tokens]", (32,)),
        ("float[n, foo, bar, 2, foo]", (16, 16, 2, 16)),
    ],
)
def test_free_dimensions_get_the_size_that_their_names_suggest(
    kind: str, shape: tuple[int, ...]
) -> None:
    feeds = synthesize(graph_of(f"{kind} x"), seed=0, count=2).take(np.arange(2))
    assert feeds["x"].shape == (2, *shape)


def test_floats_are_standard_normal_in_the_models_type() -> None:
    feeds = synthesize(graph_of("float16[n, 64] x"), seed=0).take(np.arange(64))
    assert feeds["x"].dtype == np.float16
    # 4096 values: the mean and the deviation of a normal are within 4 / 64 of theirs.
    assert abs(float(feeds["x"].astype(np.float64).mean())) < 1 / 16
    assert abs(float(feeds["x"].astype(np.float64).std()) - 1) < 1 / 16


def test_a_scalar_input_is_one_value() -> None:
    feeds = synthesize(graph_of("float x"), seed=0).take(np.arange(5))
    assert feeds["x"].shape == ()


def test_the_smallest_of_several_tables_counts() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["" : 17]>\n'
        "g (int64[n] i) => (float[n, 2] y)\n"
        "{ p = Gather(a, i) q = Gather<axis = 1>(b, i) r = Transpose(q) y = Add(p, r) }",
        initializers=[
            ir.tensor(np.zeros((9, 2), np.float32), name="a"),
            ir.tensor(np.zeros((2, 5), np.float32), name="b"),
        ],
    )
    feeds = synthesize(model, seed=0, count=200).take(np.arange(200))
    assert set(np.unique(feeds["i"])) == set(range(5))

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.calibration.matrices import input_rows, weight_from, weight_matrices
from gpusq_compiler.calibration.moments import second_moments
from gpusq_compiler.errors import DataError
from gpusq_compiler.ir import query
from gpusq_compiler.runtime.session import Session

LAYERS = {
    "matmul": ("y = MatMul (x, w)", [3, 5, 8], [8, 6]),
    "matmul with the weight first": ("y = MatMul (w, x)", [3, 8, 5], [6, 8]),
    "gemm": ("y = Gemm (x, w)", [5, 8], [8, 6]),
    "gemm transB": ("y = Gemm <transB = 1> (x, w)", [5, 8], [6, 8]),
    "gemm transA": ("y = Gemm <transA = 1> (x, w)", [8, 5], [8, 6]),
    "gemm with the weight first": ("y = Gemm <transA = 1, transB = 1> (w, x)", [5, 8], [8, 6]),
    "conv": ("y = Conv <pads = [1, 0, 2, 1]> (x, w)", [2, 8, 6, 5], [6, 8, 3, 2]),
    "conv strided": (
        "y = Conv <strides = [2, 1], dilations = [1, 2]> (x, w)",
        [2, 8, 7, 8],
        [6, 8, 3, 3],
    ),
    "conv grouped": ("y = Conv <group = 2> (x, w)", [2, 8, 5, 5], [6, 4, 2, 2]),
    "conv 1-d": ("y = Conv <pads = [1, 1]> (x, w)", [2, 8, 9], [6, 8, 3]),
    "conv 3-d": ("y = Conv (x, w)", [1, 4, 4, 4, 4], [2, 4, 2, 2, 2]),
    "conv same upper": (
        'y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)',
        [2, 4, 7, 6],
        [6, 4, 3, 4],
    ),
    "conv same lower": (
        'y = Conv <auto_pad = "SAME_LOWER"> (x, w)',
        [2, 4, 7, 6],
        [6, 4, 2, 4],
    ),
}


def layer(name: str) -> tuple[ir.Model, query.WeightUse, np.ndarray, np.ndarray]:
    text, read, stored = LAYERS[name]
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        main (float{read} x) => (float[{", ".join("?" * len(read))}] y)
        <float{stored} w = {{{", ".join("0" for _ in range(int(np.prod(stored))))}}}>
        {{ {text} }}"""
    )
    rng = np.random.default_rng(0)
    weight = rng.normal(size=stored).astype(np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    use = next(query.weight_uses(model))
    return model, use, weight, rng.normal(size=read).astype(np.float32)


@pytest.mark.parametrize("name", LAYERS)
def test_weight_times_rows_is_what_the_layer_computes(name: str) -> None:
    model, use, weight, x = layer(name)
    expected = Session(model)({"x": x})["y"]
    matrices = weight_matrices(use, weight)
    rows = input_rows(use, x, 10**6, np.random.default_rng(0))
    products = np.einsum("grk,gnk->gnr", matrices, rows)
    assert products.size == expected.size
    np.testing.assert_allclose(
        np.sort(products, axis=None), np.sort(expected, axis=None), atol=1e-4
    )


@pytest.mark.parametrize("name", LAYERS)
def test_the_weight_comes_back(name: str) -> None:
    _, use, weight, _ = layer(name)
    matrices = weight_matrices(use, weight)
    assert np.array_equal(weight_from(use, matrices, weight.shape), weight)


@pytest.mark.parametrize("name", LAYERS)
def test_consecutive_columns_lie_along_the_reduction_axis(name: str) -> None:
    _, use, weight, _ = layer(name)
    place = np.arange(weight.size, dtype=np.float32).reshape(weight.shape)
    matrices = weight_matrices(use, place)
    groups = matrices.reshape(-1, 4).astype(np.int64)
    indices = np.stack(np.unravel_index(groups, weight.shape), axis=-1)
    steps = np.diff(indices, axis=1)
    unit = np.eye(weight.ndim, dtype=np.int64)[use.reduction]
    assert np.all(steps == unit)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_multiplies_channels(groups: int) -> None:
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        main (float[2, 8, 3, 3] x) => (float[?, ?, ?, ?] y)
        <float[8, 3, 2, 2] w = {{{", ".join("0" for _ in range(96))}}}>
        {{ y = ConvTranspose <strides = [2, 2], group = {groups}> (x, w) }}"""
    )
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 3, 2, 2)).astype(np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    x = rng.normal(size=(2, 8, 3, 3)).astype(np.float32)
    use = next(query.weight_uses(model))
    matrices = weight_matrices(use, weight)
    rows = input_rows(use, x, 10**6, rng)
    products = np.einsum("grk,gnk->gnr", matrices, rows)
    expected = Session(model)({"x": x})["y"]
    np.testing.assert_allclose(
        np.sort(products, axis=None), np.sort(expected, axis=None), atol=1e-4
    )
    assert np.array_equal(weight_from(use, matrices, weight.shape), weight)


def test_moments_are_the_sum_of_outer_products() -> None:
    _, use, _, x = layer("conv grouped")
    rows = input_rows(use, x, 10**6, np.random.default_rng(0)).astype(np.float64)
    found = second_moments(use, [x, 2 * x], np.random.default_rng(0))
    naive = sum(
        5 * np.stack([np.outer(r, r) for r in vectors]) for vectors in rows.transpose(1, 0, 2)
    )
    np.testing.assert_allclose(found, naive, rtol=1e-4, atol=1e-4)


def test_fewer_rows_are_drawn_without_repeating_any() -> None:
    _, use, _, _ = layer("matmul")
    x = np.arange(3 * 5 * 8, dtype=np.float32).reshape(3, 5, 8)
    rows = input_rows(use, x, 7, np.random.default_rng(0))[0]
    assert rows.shape == (7, 8)
    known = {tuple(row) for row in x.reshape(-1, 8)}
    assert len({tuple(row) for row in rows} & known) == 7


def test_an_activation_that_is_not_finite_is_named() -> None:
    _, use, _, x = layer("matmul")
    x[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite") as caught:
        second_moments(use, [x], np.random.default_rng(0))
    assert "'x'" in str(caught.value)

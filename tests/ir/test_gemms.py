"""Layers as matrix products, held against the definitions of the operators."""

from __future__ import annotations

import pytest

from gpusq_compiler.calibration.collect import layer_shapes
from gpusq_compiler.ir import query, sizes
from gpusq_compiler.ir.gemms import Gemm, gemm_of, operations
from tests import tiny

# Operator, shapes of x, w and y for one sample; rows, columns, terms and groups by hand.
PRODUCTS = {
    "MatMul(x, w)": ("N, 5, 8", "8, 6", "N, 5, 6", (5, 6, 8, 1)),
    "Gemm<transB = 1>(x, w)": ("N, 8", "6, 8", "N, 6", (1, 6, 8, 1)),
    "MatMul(w, x)": ("N, 8, 5", "6, 8", "N, 6, 5", (5, 6, 8, 1)),
    "Conv(x, w)": ("N, 8, 5, 4", "6, 8, 3, 2", "N, 6, 3, 3", (9, 6, 48, 1)),
    "Conv<group = 2>(x, w)": ("N, 8, 5, 4", "6, 4, 1, 1", "N, 6, 5, 4", (20, 3, 4, 2)),
    "Conv<strides = [2]>(x, w)": ("N, 8, 9", "6, 8, 1", "N, 6, 5", (5, 6, 8, 1)),
    "ConvTranspose<strides = [2, 2]>(x, w)": (
        "N, 8, 5, 4",
        "8, 6, 3, 3",
        "N, 6, 11, 9",
        (20, 54, 8, 1),
    ),
    "ConvTranspose<group = 4>(x, w)": (
        "N, 8, 5, 4",
        "8, 3, 1, 1",
        "N, 12, 5, 4",
        (20, 3, 2, 4),
    ),
}


def gemm(node: str, x: str, w: str, y: str) -> Gemm:
    model = tiny.model_of(
        f"net (float[{x}] x) => (float[{y}] y) <float[{w}] w> {{ y = {node} }}"
    )
    (use,) = query.weight_uses(model)
    shapes = layer_shapes(model, tiny.samples(model), threads=1)
    found = gemm_of(use, shapes)
    assert operations(model, shapes) == found.operations
    return found


@pytest.mark.parametrize("node", PRODUCTS)
def test_rows_columns_terms_and_groups(node: str) -> None:
    x, w, y, (m, n, k, groups) = PRODUCTS[node]
    assert gemm(node, x, w, y) == Gemm(m=m, n=n, k=k, groups=groups)


def test_a_batch_of_matrices_is_several_products() -> None:
    found = gemm("MatMul(x, w)", "N, 5, 3, 8", "5, 8, 6", "N, 5, 3, 6")
    assert found == Gemm(m=3, n=6, k=8, groups=5)
    assert str(found) == "5 x 3x6x8"


def test_rows_are_those_of_one_sample() -> None:
    model = tiny.model_of("""
    net (float[4, 5, 8] x) => (float[4, 5, 6] y) <float[8, 6] w> { y = MatMul(x, w) }
    """)
    (use,) = query.weight_uses(model)
    shapes = layer_shapes(model, tiny.samples(model), threads=1)
    assert gemm_of(use, shapes, batch=4).m == 5
    assert operations(model, shapes, 4) == 5 * 8 * 6


def test_unknown_rows_have_no_operations() -> None:
    model = tiny.mlp()
    (use, _) = query.weight_uses(model)
    found = gemm_of(use, {})
    assert (found.m, found.n, found.k, found.operations) == (None, 32, 16, None)
    assert str(found) == "?x32x16"
    assert operations(model, {}) == 0


COMPUTED = """
net (float[N, 8] x) => (float[N, 6] y) <float[8, 6] w> {
    sizes = Shape(x)
    numbers = Cast<to = 1>(sizes)
    same = Floor(numbers)
    shape = Cast<to = 7>(same)
    z = Reshape(x, shape)
    y0 = MatMul(z, w)
    y = Relu(y0)
}"""


def test_a_shape_that_no_inference_tells_is_seen_in_a_run() -> None:
    model = tiny.model_of(COMPUTED)
    inferred = sizes.inferred_shapes(model, {"x": (1, 8)})
    assert "y0" not in inferred
    assert layer_shapes(model, tiny.samples(model), threads=1)["y0"] == (1, 6)


def test_inner_shapes_follow_from_the_inputs() -> None:
    model = tiny.residual()
    found = sizes.inferred_shapes(model, {"x": (2, 8, 10, 6)})
    assert found["x"] == found["c1"] == found["s"] == (2, 8, 10, 6)
    assert str(model.graph.inputs[0].shape) == "[N,8,6,6]"
    assert "c1" not in sizes.inferred_shapes(model, {})

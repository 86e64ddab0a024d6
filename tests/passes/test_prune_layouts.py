"""The rule of sparse kernels on every layout: two of four along the axis that is summed over.

The oracle knows no axis table. It finds the reduction axis by what the operator does with the
weight: two weights are summed into one output exactly if they share output and position.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq_compiler.ir import query
from gpusq_compiler.passes.base import Context
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.sparsity.scores import Magnitude
from tests import tiny
from tests.train.nets import ArraySamples

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Array

MATMUL_RIGHT = "net (float[N, {k}] x) => (float[N, {n}] y) <float[{k}, {n}] w> "
LAYOUTS = {
    "matmul-right": (MATMUL_RIGHT + "{{ y = MatMul(x, w) }}", 0),
    "matmul-left": (
        (
            "net (float[N, {k}, 3] x) => (float[N, {n}, 3] y) <float[{n}, {k}] w> "
            "{{ y = MatMul(w, x) }}"
        ),
        1,
    ),
    "matmul-batched": (
        (
            "net (float[2, 3, {k}] x) => (float[2, 3, {n}] y) <float[2, {k}, {n}] w> "
            "{{ y = MatMul(x, w) }}"
        ),
        1,
    ),
    "gemm": (
        (
            "net (float[N, {k}] x) => (float[N, {n}] y) <float[{k}, {n}] w> "
            "{{ y = Gemm(x, w) }}"
        ),
        0,
    ),
    "gemm-transb": (
        (
            "net (float[N, {k}] x) => (float[N, {n}] y) <float[{n}, {k}] w> "
            "{{ y = Gemm<transB = 1>(x, w) }}"
        ),
        1,
    ),
    "gemm-a": (
        (
            "net (float[{k}, 5] x) => (float[{n}, 5] y) <float[{n}, {k}] w> "
            "{{ y = Gemm(w, x) }}"
        ),
        1,
    ),
    "gemm-transa": (
        (
            "net (float[{k}, 5] x) => (float[{n}, 5] y) <float[{k}, {n}] w> "
            "{{ y = Gemm<transA = 1>(w, x) }}"
        ),
        0,
    ),
    "conv-1d": (
        (
            "net (float[N, 4, 9] x) => (float[N, {n}, 9] y) "
            "<float[{k}, 4, 1] stem, float[{n}, {k}, 3] w> "
            "{{ h = Conv(x, stem) y = Conv<pads = [1, 1]>(h, w) }}"
        ),
        1,
    ),
    "conv-2d": (
        (
            "net (float[N, 4, 5, 5] x) => (float[N, {n}, 5, 5] y) "
            "<float[{k}, 4, 1, 1] stem, float[{n}, {k}, 3, 3] w> "
            "{{ h = Conv(x, stem) y = Conv<pads = [1, 1, 1, 1]>(h, w) }}"
        ),
        1,
    ),
    "conv-3d": (
        (
            "net (float[N, 4, 3, 3, 3] x) => (float[N, {n}, 2, 2, 2] y) "
            "<float[{k}, 4, 1, 1, 1] stem, float[{n}, {k}, 2, 2, 2] w> "
            "{{ h = Conv(x, stem) y = Conv(h, w) }}"
        ),
        1,
    ),
    "conv-grouped": (
        (
            "net (float[N, 4, 5, 5] x) => (float[N, {m}, 5, 5] y) "
            "<float[{g}, 4, 1, 1] stem, float[{m}, {k}, 1, 1] w> "
            "{{ h = Conv(x, stem) y = Conv<group = 2>(h, w) }}"
        ),
        1,
    ),
    "conv-transpose": (
        (
            "net (float[N, {k}, 5, 5] x) => (float[N, {n}, 6, 6] y) "
            "<float[{k}, {n}, 2, 2] w> {{ y = ConvTranspose(x, w) }}"
        ),
        0,
    ),
    "transposed": (
        (
            "net (float[N, {k}] x) => (float[N, {n}] y) <float[{n}, {k}] w> "
            "{{ t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t) }}"
        ),
        0,
    ),
    "reshaped": (
        (
            "net (float[N, {k}] x) => (float[N, {n}] y) "
            "<float[{k}, {n}, 1] w, int64[2] shape = {{{k}, {n}}}> "
            "{{ t = Reshape(w, shape) y = MatMul(x, t) }}"
        ),
        0,
    ),
}


def layout(name: str, k: int, n: int) -> tuple[ir.Model, int]:
    text, axis = LAYOUTS[name]
    return tiny.model_of(text.format(k=k, n=n, m=2 * n, g=2 * k)), axis


def loop_mask(weight: Array, axis: int) -> Array:
    """Keep the two largest of every four, ties to the lowest index, one group at a time."""
    lines = np.moveaxis(np.abs(weight), axis, -1)
    mask = np.zeros(lines.shape, dtype=bool)
    for index in itertools.product(*map(range, lines.shape[:-1])):
        for start in range(0, lines.shape[-1], 4):
            group = lines[index][start : start + 4]
            for best in sorted(range(4), key=lambda i: (-group[i], i))[:2]:
                mask[index][start + best] = True
    return np.moveaxis(mask, -1, axis)


def weight_of(model: ir.Model) -> query.WeightUse:
    return list(query.weight_uses(model))[-1]


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=6, deadline=None)
@given(
    groups=st.integers(1, 3), n=st.integers(1, 5), spread=st.sampled_from([1e-3, 1.0, 50.0])
)
def test_every_layout_obeys_the_rule_in_float_and_in_codes(
    name: str, groups: int, n: int, spread: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, axis = layout(name, 4 * groups, n)
    workdir: Path = tmp_path_factory.mktemp("layout")
    canonical = Canonicalize()(model)
    use = weight_of(canonical)
    assert use.value.const_value is not None
    dense = use.value.const_value.numpy() * np.float32(spread)
    use.value.const_value = ir.tensor(dense, name=use.value.name)
    kept = dense * loop_mask(dense, axis)

    ctx = Context(workdir=workdir, data=inputs(canonical))
    Pipeline(passes=(Prune(score=Magnitude()),)).run(canonical, ctx)
    sparse = weight_of(canonical).value.const_value
    assert sparse is not None
    assert np.array_equal(sparse.numpy(), kept)

    steps = (Quantize(placement="gemm-inputs"), Freeze())
    Pipeline(passes=steps).run(canonical, ctx)
    codes = weight_of(canonical).value.const_value
    assert codes is not None
    assert codes.dtype == ir.DataType.INT8
    assert not np.any(codes.numpy()[kept == 0])


def inputs(model: ir.Model) -> ArraySamples:
    value = model.graph.inputs[0]
    fixed = [d if isinstance(d, int) else 4 for d in value.shape or ()]
    array = np.random.default_rng(0).normal(size=fixed).astype(np.float32)
    return ArraySamples({value.name or "": array})


def test_k_of_ten_is_left_alone_and_named() -> None:
    model, _ = layout("matmul-right", 10, 3)
    dense = tiny.weight(model, "w")
    pruned = Prune(score=Magnitude())(Canonicalize()(model))
    assert np.array_equal(tiny.weight(pruned, "w"), dense)


def test_the_reduction_axis_is_what_the_operator_sums_over() -> None:
    """Weights that reach the same output element from different inputs are summed."""
    for name in LAYOUTS:
        model, axis = layout(name, 8, 3)
        use = weight_of(Canonicalize()(model))
        assert use.reduction == axis, name
        assert use.shape[axis] == 8, name

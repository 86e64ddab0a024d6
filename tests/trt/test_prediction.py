"""What is said of a product before anything is built."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.trt.engines.names import NodeNames
from gpusq_compiler.trt.engines.prediction import Layer, predict
from gpusq_compiler.trt.legality.rules import Version
from tests.trt.cases import CASES
from tests.trt.chains import chain
from tests.trt.small_graphs import Case

HALF = "g (float16[4, 16] x) => (float16[4, 8] y) { y = MatMul(x, w) }"
FLOAT = "g (float[4, 16] x) => (float[4, 8] y) { y = MatMul(x, w) }"
PATTERN = np.array(np.broadcast_to([[1], [0], [-2], [0]] * 4, (16, 8)), np.float32)


def only(case: Case, version: Version | None = None) -> Layer:
    model = case.model()
    (layer,) = predict(model) if version is None else predict(model, version)
    return layer


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def made(text: str, **constants: Any) -> Case:
    return Case("", text, frozenset(), constants)


def test_a_chain() -> None:
    first, last = predict(chain(2))
    assert (first.name, first.operator, first.shape) == ("fc0", "MatMul", (16, 16))
    for layer in (first, last):
        assert (layer.reads, layer.writes, layer.eligible) == ("int8", "int8", True)
        assert layer.chosen is None, "a prediction never chooses"


def test_the_model_is_left_as_it_is() -> None:
    model = chain(1)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    predict(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("case", "reads", "writes", "eligible", "reason"),
    [
        ("sparse, int8 behind bias and Relu", "int8", "int8", True, "narrow, 16 to 8"),
        ("sparse, float output", "int8", "float32", True, "float-output: 'w8' is 2:4"),
        ("sparse, int8 and float readers", "int8", "float32", True, "float-output"),
        ("empty weight", "int8", "float32", True, "float-output: it writes float32"),
        ("2:4 along the outputs", "int8", "float32", False, "sparse-axis: 'w8' is 2:4 along"),
        ("int8 weight", "int8", "float32", False, "not 2:4: 32 of 32 groups"),
        ("int4 weight", "float32", "float32", False, "not 2:4"),
        ("half precision scales", "int8", "float16", False, "not 2:4"),
        ("int8 beside float", "float32", "float32", False, "not 2:4"),
        ("scales along the sum", "float32", "float32", False, "not 2:4"),
        ("convolution", "int8", "float32", False, "not 2:4: 144 of 144"),
    ],
)
def test_small_graphs(case: str, reads: str, writes: str, eligible: bool, reason: str) -> None:
    layer = only(named(case))
    assert (layer.reads, layer.writes, layer.eligible) == (reads, writes, eligible)
    assert layer.reason.startswith(reason)
    assert layer.chosen is (None if reason.startswith("narrow") else False)


def test_half_precision_has_sparse_kernels_and_single_has_none() -> None:
    half = only(made(HALF, w=PATTERN.astype(np.float16)))
    assert (half.reads, half.eligible, half.chosen) == ("float16", True, None)
    single = only(made(FLOAT, w=PATTERN))
    assert (single.reads, single.eligible, single.chosen) == ("float32", True, False)
    assert single.reason.startswith("it multiplies in float32")


def test_why_a_product_runs_in_float_is_said() -> None:
    case = named("int8 beside float")
    layer = only(
        Case("", case.text, case.broken, {**case.constants, "w8": PATTERN.astype(np.int8)})
    )
    assert layer.eligible
    assert "half-quantized: its activation is float" in layer.reason


def test_what_is_refused_is_not_chosen() -> None:
    case = named("dead channel")
    layer = only(
        Case("", case.text, case.broken, {**case.constants, "w8": PATTERN.astype(np.int8)})
    )
    assert (layer.eligible, layer.chosen) == (True, False)
    assert layer.reason == "scale: scale 3 of 8 is 0"


KERNEL = np.zeros((8, 8, 3, 3), np.float32)
KERNEL[:, ::4] = 1.0


@pytest.mark.parametrize(
    ("text", "weight", "reason"),
    [
        (
            "g (float[1, 8, 6, 6] x) => (float[1, 8, 4, 4] y) { y = Conv<group = 8>(x, w) }",
            np.ones((8, 1, 3, 3), np.float32),
            "depthwise",
        ),
        (
            "g (float[1, 8, 4, 4] x) => (float[1, 8, 6, 6] y) { y = ConvTranspose(x, w) }",
            KERNEL,
            "there are sparse kernels for Conv, Gemm, MatMul, not ConvTranspose",
        ),
        (
            "g (float[1, 6, 6, 6] x) => (float[1, 8, 4, 4] y) { y = Conv(x, w) }",
            np.ones((8, 6, 3, 3), np.float32),
            "its reduction length 6 is no multiple of 4",
        ),
        (
            "g (float[2, 4, 16] x) => (float[2, 4, 8] y) { y = MatMul(x, w) }",
            np.stack([PATTERN, PATTERN]),
            "its weight is a batch of matrices",
        ),
    ],
)
def test_layers_without_sparse_kernels(text: str, weight: Any, reason: str) -> None:
    layer = only(made(text, w=weight))
    assert layer.eligible is False
    assert layer.reason.startswith(reason)


def test_groups_of_a_convolution_are_grouped_inside() -> None:
    text = "g (float[1, 16, 6, 6] x) => (float[1, 8, 4, 4] y) { y = Conv<group = 2>(x, w) }"
    good = only(made(text, w=KERNEL))
    assert good.eligible
    assert good.shape == (8, 8, 3, 3)
    groups = np.random.default_rng(0).permuted(np.tile([1, 1, 0, 0], (8 * 18, 1)), axis=1)
    flattened = groups.reshape(8, 8, 3, 3).astype(np.float32)  # not along channels alone
    assert not only(made(text, w=flattened)).eligible


def test_transposed_and_left_weights() -> None:
    gemm = "g (float[4, 16] x) => (float[4, 8] y) { y = Gemm<transB = 1>(x, w) }"
    assert only(made(gemm, w=PATTERN.T.copy())).eligible
    assert not only(made(gemm, w=np.eye(16, dtype=np.float32)[:8] + 1)).eligible
    left = "g (float[16, 4] x) => (float[8, 4] y) { y = MatMul(w, x) }"
    assert only(made(left, w=PATTERN.T.copy())).eligible


def test_wide_layers_raise_no_doubt() -> None:
    assert predict(chain(1, width=256))[0].reason == ""
    assert predict(chain(1, width=252))[0].reason.startswith("narrow, 252 to 252")


def test_versions_have_rules_of_their_own() -> None:
    case = named("scale from inputs")
    assert only(case).reads == "float32", "slow in 11"
    assert only(case, Version(8, 6)).reads == "int8", "refused before, so nothing is slow"


def test_a_node_without_a_name_is_found_by_its_output() -> None:
    proto = ir.to_proto(chain(1))
    for node in proto.graph.node:
        node.name = ""
    model = ir.from_proto(proto)
    (layer,) = predict(model)
    assert NodeNames(model).within("node_of_m0") == {layer.name}

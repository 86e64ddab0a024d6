from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir.precision import widened
from gpusq_compiler.runtime.session import Session
from tests import tiny

BODIES = """
    net (bfloat16[N, 8] x, bool up) => (bfloat16[N, 8] y) <bfloat16[8, 8] w> {
        y = If(up) <
            then_branch = one () => (bfloat16[N, 8] inner) <bfloat16[8, 8] v> {
                inner = MatMul(x, v)
            },
            else_branch = two () => (bfloat16[N, 8] outer) {
                outer = MatMul(x, w)
            }
        >
    }"""


def test_a_model_without_bfloat16_is_returned_itself() -> None:
    model = tiny.mlp()
    assert widened(model) is model


def test_the_copy_is_float_everywhere_and_the_model_is_left() -> None:
    model = tiny.model_of(BODIES)
    copy = widened(model)
    for graph in copy.graphs():
        values = [*graph.inputs, *graph.initializers.values()]
        values += [value for node in graph for value in node.outputs]
        assert {value.dtype for value in values} <= {ir.DataType.FLOAT, ir.DataType.BOOL}
    assert model.graph.inputs[0].dtype == ir.DataType.BFLOAT16
    for name in ("w", "v"):
        assert tiny.weight(model, name).dtype == ml_dtypes.bfloat16
        assert np.array_equal(tiny.weight(copy, name), tiny.weight(model, name))


def test_a_bfloat16_model_runs() -> None:
    model = tiny.model_of(BODIES)
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(ml_dtypes.bfloat16)
    for up, name in ((True, "v"), (False, "w")):
        found = Session(model, threads=1)({"x": x, "up": np.array(up)})["y"]
        expected = x.astype(np.float32) @ tiny.weight(model, name).astype(np.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_casts_name_the_new_type() -> None:
    copy = widened(tiny.bf16_matmul())
    assert tiny.node(copy, "Cast.a").attributes["to"].as_int() == ir.DataType.FLOAT

"""Pruned weights have no gradient, however they are used."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler.train.gradients.gradient import gradient_graph, with_inputs
from gpusq_compiler.train.gradients.masks import mask_gradients
from gpusq_compiler.train.protograph import ProtoGraph, array_of
from tests.train import nets
from tests.train.test_gradient import with_loss

TWICE = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,4] y)
<float[4,4] w = {1,0,3,0, 0,2,0,4, 5,0,6,0, 0,7,0,8}, float[4] s = {0.1, 0.1, 0.1, 0.1},
 int8[4] z = {0, 0, 0, 0}> {
    q = QuantizeLinear<axis=1>(w, s, z)
    d = DequantizeLinear<axis=1>(q, s, z)
    a = MatMul(x, d)
    y = MatMul(a, w)
}"""


@pytest.mark.training
@nets.needs_training
@pytest.mark.parametrize("kernels", [True, False])
def test_a_weight_that_is_also_used_as_it_is(*, kernels: bool) -> None:
    loss = with_loss(ir.from_onnx_text(TWICE), "y")
    weight = next(array_of(t) for t in loss.graph.initializer if t.name == "w")
    mask = weight != 0
    found = []
    for masks in ({}, {"w": mask}):
        moved = with_inputs(loss, ["w"])
        built = gradient_graph(moved, ["w"], "loss", masks=masks, kernels=kernels)
        x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
        found.append(nets.run(built, {"x": x, "w": weight}, optimize=False)["w_grad"])
    whole, masked = found
    assert np.any(whole[~mask] != 0)
    assert np.array_equal(masked, whole * mask)


def test_other_readers_of_a_gradient_see_it_whole() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[2] x) => (float[2] w_grad, float[2] y) {
        w_grad = Neg(x)
        y = Abs(w_grad)
    }"""
    proto = ir.to_proto(ir.from_onnx_text(text))
    masks = {"w": np.array([True, False]), "gone": np.array([True])}
    mask_gradients(ProtoGraph(proto.graph, 17), masks)
    found = nets.run(proto, {"x": np.array([3, 4], np.float32)})
    assert found["w_grad"].tolist() == [-3, 0]
    assert found["y"].tolist() == [3, 4]

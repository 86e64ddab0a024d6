"""Eight small models that between them hold what passes meet, each ready with weights.

Graphs are ONNX text; a tensor that the text declares but nothing produces becomes an
initializer, filled from ``default_rng(0)``. Every model reads ``x`` with a free batch ``N``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from tests.train.nets import ArraySamples

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpusq_compiler.runtime.samples import Array

HEADER = '<ir_version: {ir_version}, opset_import: ["" : {opset}]>'


def model_of(text: str, *, opset: int = 17, ir_version: int = 9) -> ir.Model:
    """The model of a graph in ONNX text, weights filled in."""
    header = HEADER.format(ir_version=ir_version, opset=opset)
    proto = onnx.parser.parse_model(header + text)
    _fill(proto.graph, np.random.default_rng(0))
    _name_nodes(proto.graph, "")
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def _fill(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    produced = {name for node in graph.node for name in node.output}
    known = {tensor.name for tensor in graph.initializer}
    declared = [v for v in graph.value_info if v.name not in produced | known]
    for info in declared:
        graph.initializer.append(_tensor(info, rng))
        graph.value_info.remove(info)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _fill(attribute.g, rng)


def _tensor(info: onnx.ValueInfoProto, rng: np.random.Generator) -> TensorProto:
    tensor = info.type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type == TensorProto.INT4:
        codes = rng.integers(-8, 8, shape)
        return helper.make_tensor(info.name, TensorProto.INT4, shape, codes.ravel())
    if info.name.startswith("scale"):
        values = rng.uniform(0.01, 0.02, shape)
    elif info.name.startswith("var"):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        fan_in = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
        values = rng.normal(0, max(1.0, float(fan_in)) ** -0.5, shape)
    array = values.astype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return numpy_helper.from_array(array, info.name)


def _name_nodes(graph: onnx.GraphProto, prefix: str) -> None:
    for node in graph.node:
        node.name = node.name or f"{prefix}{node.op_type}.{node.output[0]}"
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _name_nodes(attribute.g, f"{prefix}{attribute.name}/")


def mlp() -> ir.Model:
    """Gemm, Relu, MatMul and a bias of its own."""
    return model_of("""
    mlp (float[N, 16] x) => (float[N, 10] y)
    <float[16, 32] w1, float[32] b1, float[32, 10] w2, float[10] b2> {
        a = Gemm(x, w1, b1)
        h = Relu(a)
        z = MatMul(h, w2)
        y = Add(z, b2)
    }""")


def conv_bn_relu() -> ir.Model:
    """A stem and a convolution with their BatchNormalizations, pooling, a head."""
    return model_of("""
    conv_bn_relu (float[N, 3, 6, 6] x) => (float[N, 10] y)
    <float[8, 3, 3, 3] w1, float[8] g1, float[8] b1, float[8] m1, float[8] var1,
     float[16, 8, 3, 3] w2, float[16] bias2,
     float[16] g2, float[16] b2, float[16] m2, float[16] var2,
     float[10, 16] w3, float[10] b3> {
        c1 = Conv<pads = [1, 1, 1, 1]>(x, w1)
        n1 = BatchNormalization<epsilon = 0.001>(c1, g1, b1, m1, var1)
        r1 = Relu(n1)
        c2 = Conv<strides = [2, 2]>(r1, w2, bias2)
        n2 = BatchNormalization(c2, g2, b2, m2, var2)
        r2 = Relu(n2)
        p = GlobalAveragePool(r2)
        f = Flatten(p)
        y = Gemm<transB = 1>(f, w3, b3)
    }""")


def residual() -> ir.Model:
    """Two convolutions whose outputs join, one of them grouped."""
    return model_of("""
    residual (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y)
    <float[8, 8, 3, 3] w1, float[8, 4, 3, 3] w2, float[8] b2, float[8, 8, 1, 1] w3> {
        c1 = Conv<pads = [1, 1, 1, 1]>(x, w1)
        r1 = Relu(c1)
        c2 = Conv<pads = [1, 1, 1, 1], group = 2>(r1, w2, b2)
        s = Add(c2, r1)
        y = Conv(s, w3)
    }""")


def attention() -> ir.Model:
    """LayerNormalization, fused QKV, two heads, projection, residual stream."""
    return model_of("""
    attention (float[N, 4, 16] x) => (float[N, 4, 16] y)
    <float[16] norm_g, float[16] norm_b, float[16, 48] w_qkv, float[48] b_qkv,
     float[16, 16] w_out, float[16] b_out,
     int64[5] split = {0, 4, 3, 2, 8}, int64[3] merge = {0, 4, 16},
     int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, float c = {0.35}> {
        n = LayerNormalization(x, norm_g, norm_b)
        qkv0 = MatMul(n, w_qkv)
        qkv = Add(qkv0, b_qkv)
        parts = Reshape(qkv, split)
        heads = Transpose<perm = [2, 0, 3, 1, 4]>(parts)
        q = Gather<axis = 0>(heads, i0)
        k = Gather<axis = 0>(heads, i1)
        v = Gather<axis = 0>(heads, i2)
        kt = Transpose<perm = [0, 1, 3, 2]>(k)
        scores0 = MatMul(q, kt)
        scores = Mul(scores0, c)
        weights = Softmax<axis = -1>(scores)
        mixed0 = MatMul(weights, v)
        mixed1 = Transpose<perm = [0, 2, 1, 3]>(mixed0)
        mixed = Reshape(mixed1, merge)
        out0 = MatMul(mixed, w_out)
        out = Add(out0, b_out)
        y = Add(x, out)
    }""")


def shared_weight() -> ir.Model:
    """Two products with one weight."""
    return model_of("""
    shared_weight (float[N, 16] x) => (float[N, 16] y) <float[16, 16] w> {
        a = MatMul(x, w)
        h = Relu(a)
        y = MatMul(h, w)
    }""")


def if_branch() -> ir.Model:
    """A product in the body of If with a weight of the body, and one with an outer weight."""
    return model_of("""
    if_branch (float[N, 8] x) => (float[N, 8] y)
    <float[8, 8] w, float[8, 8] w_else, float zero = {0}> {
        h = MatMul(x, w)
        total = ReduceSum<keepdims = 0>(h)
        up = Greater(total, zero)
        y = If(up) <
            then_branch = inside () => (float[N, 8] inner) <float[8, 8] w_then> {
                inner = MatMul(h, w_then)
            },
            else_branch = outside () => (float[N, 8] outer) {
                outer = MatMul(h, w_else)
            }
        >
    }""")


def bf16_matmul() -> ir.Model:
    """A bfloat16 weight between two casts."""
    return model_of("""
    bf16_matmul (float[N, 16] x) => (float[N, 8] y) <bfloat16[16, 8] w> {
        a = Cast<to = 16>(x)
        b = MatMul(a, w)
        y = Cast<to = 1>(b)
    }""")


def int4_weight() -> ir.Model:
    """A weight that somebody else quantized to INT4, and a float one behind it."""
    return model_of("""
    int4_weight (float[N, 16] x) => (float[N, 8] y)
    <int4[16, 32] codes, float[32] scale, float[32, 8] w> {
        dense = DequantizeLinear<axis = 1>(codes, scale)
        h = MatMul(x, dense)
        y = MatMul(h, w)
    }""", opset=21, ir_version=10)  # fmt: skip


MODELS: Mapping[str, Callable[[], ir.Model]] = {
    make.__name__: make
    for make in (
        mlp,
        conv_bn_relu,
        residual,
        attention,
        shared_weight,
        if_branch,
        bf16_matmul,
        int4_weight,
    )
}


def samples(model: ir.Model, count: int = 24, *, seed: int = 0) -> ArraySamples:
    """Normal values for the input ``x``."""
    shape = [int(str(d)) for d in (model.graph.inputs[0].shape or ())[1:]]
    x = np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)
    return ArraySamples({"x": x})


def weight(model: ir.Model, name: str) -> Array:
    """The values of an initializer, wherever it is."""
    for graph in model.graphs():
        if name in graph.initializers:
            tensor = graph.initializers[name].const_value
            assert tensor is not None
            return tensor.numpy()
    raise KeyError(name)


def node(model: ir.Model, name: str) -> ir.Node:
    """The node of this name, in whatever graph."""
    found = [n for n in ir.traversal.RecursiveGraphIterator(model.graph) if n.name == name]
    assert len(found) == 1, name
    return found[0]


def operators(model: ir.Model) -> list[str]:
    """Operators of all nodes, in graph order."""
    return [n.op_type for n in ir.traversal.RecursiveGraphIterator(model.graph)]

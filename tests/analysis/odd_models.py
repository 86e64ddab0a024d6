"""Models that no exporter's manual mentions, and that all of them write sometimes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FUNCTION = """
<ir_version: 9, opset_import: ["" : 17, "mine" : 1]>
net (float[N, 8] x) => (float[N, 4] y)
{
    y = mine.linear(x)
}
<domain: "mine", opset_import: ["" : 17]>
linear (a) => (b)
{
    w = Constant<value = float[8, 4] {1,0,0,2,1,0,0,2,1,0,0,2,1,0,0,2,
                                      1,0,0,2,1,0,0,2,1,0,0,2,1,0,0,2}>()
    b = MatMul(a, w)
}"""
NESTED = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N, 8] x, bool up) => (float[N, 8] y) <float[8, 8] w>
{
    y = If(up) <
        then_branch = outer () => (float[N, 8] o) {
            o = If(up) <
                then_branch = inner () => (float[N, 8] i) { i = MatMul(x, w) },
                else_branch = other () => (float[N, 8] j) { j = Relu(x) }
            >
        },
        else_branch = third () => (float[N, 8] k) { k = Neg(x) }
    >
}"""
LOOP = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[2, 8] x, int64 count, bool go) => (float[2, 8] y) <float[8, 8] w>
{
    y = Loop(count, go, x) <body = step (int64 i, bool on, float[2, 8] h)
        => (bool still, float[2, 8] next) {
            still = Identity(on)
            next = MatMul(h, w)
        }
    >
}"""
CUSTOM = """
<ir_version: 9, opset_import: ["" : 17, "com.example" : 3]>
net (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w, float[8, 8] v>
{
    a = com.example.Strange(x, w)
    y = MatMul(a, v)
}"""
BARE = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[a, b, c] x) => (float[d, e, f] y) <float[8, 8] w>
{
    s = Shape(x)
    r = Reshape(x, s)
    y = MatMul(r, w)
}"""
PLUGIN = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w>
{
    a = MatMul(x, w)
    y = EfficientNMS_TRT(a)
}"""
MISSING = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w>
{
    y = MatMul(x)
}"""
CONSTANTS = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N, 8] x) => (float[N, 8] y, float[8, 8] z) <float[8, 8] w, float[8, 8] v>
{
    z = MatMul(w, v)
    y = MatMul(x, z)
}"""
EMPTY = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N, 0] x) => (float[N, 4] y) <float[0, 4] w>
{
    y = MatMul(x, w)
}"""
VECTORS = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[8] x) => (float[6] y, float z) <float[8, 6] w, float[6] v>
{
    y = MatMul(x, w)
    z = MatMul(y, v)
}"""
RECURRENT = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[5, N, 8] x) => (float[5, 1, N, 4] y) <float[1, 16, 8] w, float[1, 16, 4] r>
{
    y = LSTM<hidden_size = 4>(x, w, r)
}"""
FOREIGN = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N, 8] x) => (float[N, 6] y)
<int8[8, 6] codes, float[6] scale, float step = {0.1}, uint8 zero = {128}>
{
    q = QuantizeLinear(x, step, zero)
    d = DequantizeLinear(q, step, zero)
    w = DequantizeLinear<axis = 1>(codes, scale)
    y = MatMul(d, w)
}"""
BLOCKED = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N, 8] x) => (float[N, 6] y) <int4[8, 6] codes, float[2, 6] scale>
{
    w = DequantizeLinear<axis = 0, block_size = 4>(codes, scale)
    y = MatMul(x, w)
}"""
SEQUENCE = """
<ir_version: 9, opset_import: ["" : 17]>
net (seq(float[N, 8]) many) => (float[M, 8] y) <float[8, 8] w>
{
    x = ConcatFromSequence<axis = 0>(many)
    y = MatMul(x, w)
}"""
UNNAMED = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w, float[8, 8] v>
{
    a = MatMul(x, w)
    b = MatMul(a, v)
    c = Transpose<perm = [1, 0]>(w)
    y = Gemm(b, c)
}"""
OLD_OPSET = """
<ir_version: 3, opset_import: ["" : 7]>
net (float[N, 8] x, float[8, 8] w) => (float[N, 8] y)
{
    a = MatMul(x, w)
    y = Dropout(a)
}"""
TEXTS = {
    "function": FUNCTION,
    "nested bodies": NESTED,
    "loop": LOOP,
    "custom domain": CUSTOM,
    "no shapes": BARE,
    "plugin in the default domain": PLUGIN,
    "missing input": MISSING,
    "constants alone": CONSTANTS,
    "empty weight": EMPTY,
    "vectors": VECTORS,
    "recurrent": RECURRENT,
    "foreign quantizers": FOREIGN,
    "blocked int4": BLOCKED,
    "sequence input": SEQUENCE,
    "no names": UNNAMED,
    "old opset": OLD_OPSET,
}
INVALID = frozenset({"plugin in the default domain", "missing input"})
"""What the ONNX checker refuses."""


def from_text(text: str) -> onnx.ModelProto:
    """The model of a text; what it declares and nothing produces gets values."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    made = {name for node in model.graph.node for name in node.output}
    known = {tensor.name for tensor in model.graph.initializer}
    for info in list(model.graph.value_info):
        if info.name in made | known:
            continue
        kind = info.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        model.graph.value_info.remove(info)
        if kind.elem_type == TensorProto.INT4:
            codes = rng.integers(-8, 8, shape).ravel()
            tensor = helper.make_tensor(info.name, TensorProto.INT4, shape, codes)
        else:
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            values = rng.integers(-9, 9, shape) if "int" in dtype.name else rng.random(shape)
            tensor = numpy_helper.from_array(values.astype(dtype), info.name)
        model.graph.initializer.append(tensor)
    return model


def through() -> onnx.ModelProto:
    """No node at all: the output is the input."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    graph = helper.make_graph([], "through", [x], [x])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def strings() -> onnx.ModelProto:
    """A table of names, and an input of text."""
    names = numpy_helper.from_array(np.array(["cat", "dog"], object), "names")
    node = helper.make_node("Gather", ["names", "i"], ["y"])
    ends = [
        helper.make_tensor_value_info("i", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("t", TensorProto.STRING, [1]),
    ]
    out = helper.make_tensor_value_info("y", TensorProto.STRING, [1])
    graph = helper.make_graph([node], "strings", ends, [out], [names])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def trees() -> onnx.ModelProto:
    """Classical learning: an operator of another domain, all in attributes."""
    node = helper.make_node(
        "Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0]
    )
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])],
    )
    imports = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def sparse_tensor() -> onnx.ModelProto:
    """A constant in ONNX's own sparse form."""
    values = numpy_helper.from_array(np.array([2.0], np.float32), "w")
    where = numpy_helper.from_array(np.array([1], np.int64), "w_indices")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "sparse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        sparse_initializer=[helper.make_sparse_tensor(values, where, [4, 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


MODELS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    **{name: functools.partial(from_text, text) for name, text in TEXTS.items()},
    "no node": through,
    "strings": strings,
    "another domain": trees,
    "sparse tensor": sparse_tensor,
}

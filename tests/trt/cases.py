"""Small graphs, each with the rules of TensorRT 11 that it breaks; most break none or one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from tests.trt.small_graphs import (
    CASES,
    CODES,
    RNG,
    STEP,
    STEPS,
    WEIGHT,
    ZERO,
    ZEROS,
    case,
    narrow,
    product,
    with_element,
)

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

__all__ = ["CASES"]

FLOAT = "wq = QuantizeLinear<axis = 1>(w, sw, zw) wd = DequantizeLinear<axis = 1>(wq, sw, zw)"
CHANNELS = "q = QuantizeLinear<axis = 1>(x, s, z) d = DequantizeLinear<axis = 1>(q, s, z)"
BARE = "q = QuantizeLinear(x, s) d = DequantizeLinear(q, s)"

# Encodings of the weight
product("int8 weight")
product("float weight", weight=FLOAT)
product("one weight scale", weight="wd = DequantizeLinear(w8, sw)", sw=STEP)
product("weight without zero point", weight="wd = DequantizeLinear<axis = 1>(w8, sw)")
product(
    "weight behind Transpose",
    weight="wt = DequantizeLinear<axis = 0>(w8, sw, zw) wd = Transpose(wt)",
    w8=CODES.T.copy(),
)
product("uint8 weight", "codes", w8=CODES.astype(np.uint8), zw=ZEROS.astype(np.uint8))
product(
    "uint8 weight, no zero point",
    "codes",
    weight="wd = DequantizeLinear<axis = 1>(w8, sw)",
    w8=CODES.astype(np.uint8),
)
product("weight with zero point", "zero-point", zw=with_element(ZEROS, 2, 3))
product("float weight, zero point", "zero-point", weight=FLOAT, zw=with_element(ZEROS, 2, -3))
product("float weight to uint8", "uint8-codes", weight=FLOAT, zw=ZEROS.astype(np.uint8))
product("int16 weight", "type", w8=CODES.astype(np.int16), zw=None,
        weight="wd = DequantizeLinear<axis = 1>(w8, sw)", opset=21)  # fmt: skip
product(
    "int4 weight", w8=narrow("w8", TensorProto.INT4, (16, 8)),
    weight="wd = DequantizeLinear<axis = 1>(w8, sw)", opset=21,
)  # fmt: skip
product(
    "uint4 weight", "type", w8=narrow("w8", TensorProto.UINT4, (16, 8)),
    weight="wd = DequantizeLinear<axis = 1>(w8, sw)", opset=21,
)  # fmt: skip
product(
    "codes behind Transpose",
    "stray-codes",
    weight="wt = Transpose(w8) wd = DequantizeLinear<axis = 1>(wt, sw, zw)",
    w8=CODES.T.copy(),
)
product(
    "scales along the sum", "summed-scale",
    weight="wd = DequantizeLinear<axis = 0>(w8, sw, zw)",
    sw=np.full(16, 0.02, np.float32), zw=np.zeros(16, np.int8),
)  # fmt: skip
product("float beside int8", "half-quantized", weight="wd = Identity(w)")
product("int8 beside float", "half-quantized", pair="d = Relu(x)")

# Scales
product("dead channel", "scale", sw=with_element(STEPS, 3, 0))
product("negative scale", "scale", s=-STEP)
product("scale 0", "scale", s=0 * STEP)
product("scale that is no number", "scale", sw=with_element(STEPS, 7, np.nan))
product("tiny scale", sw=with_element(STEPS, 3, 2.0**-40))
product(
    "scale in a Constant", s=None,
    pair="s = Constant<value_float = 0.02>() q = QuantizeLinear(x, s, z) "
    "d = DequantizeLinear(q, s, z)",
)  # fmt: skip
product(
    "scale behind Cast", s=None, s0=STEP.astype(np.float16),
    pair="s = Cast<to = 1>(s0) q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)",
)  # fmt: skip
product(
    "scale from constants", s=None, s0=STEP,
    pair="s = Mul(s0, s0) q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)",
)  # fmt: skip
product(
    "scale from inputs", "runtime-scale", s=None,
    pair="s = ReduceMax<keepdims = 0>(x) q = QuantizeLinear(x, s, z) "
    "d = DequantizeLinear(q, s, z)",
)  # fmt: skip
case(
    "scale is an input", "g (float[4, 16] x, float s) => (float[4, 16] y) "
    "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
    "runtime-scale", z=ZERO,
)  # fmt: skip
case(
    "zero point is an input", "g (float[4, 16] x, int8 z) => (float[4, 16] y) "
    "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
    "computed-zero-point", s=STEP,
)  # fmt: skip

# Activations
product("asymmetric uint8", "zero-point", z=np.array(128, np.uint8))
product("asymmetric int8", "zero-point", z=np.array(-3, np.int8))
product("unsigned", "uint8-codes", z=np.zeros((), np.uint8))
product("unsigned by default", "uint8-codes", pair=BARE)
product(
    "scale per channel of x", "channel-activation", pair=CHANNELS,
    s=np.full(16, 0.02, np.float32), z=np.zeros(16, np.int8),
)  # fmt: skip
case(
    "codes behind Transpose of x", "g (float[4, 16] x) => (float[16, 4] y) "
    "{ q = QuantizeLinear(x, s, z) t = Transpose(q) y = DequantizeLinear(t, s, z) }",
    s=STEP, z=ZERO,
)  # fmt: skip
case(
    "int8 input", "g (int8[4, 16] x) => (float[4, 16] y) { y = DequantizeLinear(x, s, z) }",
    s=STEP, z=ZERO,
)  # fmt: skip
case(
    "uint8 input", "g (uint8[4, 16] x) => (float[4, 16] y) { y = DequantizeLinear(x, s, z) }",
    "codes", s=STEP, z=np.zeros((), np.uint8),
)  # fmt: skip
case(
    "int8 output", "g (float[4, 16] x) => (int8[4, 16] y) { y = QuantizeLinear(x, s, z) }",
    s=STEP, z=ZERO,
)  # fmt: skip
case(
    "uint16", "g (float[4, 16] x) => (float[4, 16] y) "
    "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
    "type", opset=21, s=STEP, z=np.zeros((), np.uint16),
)  # fmt: skip
case(
    "half precision scales", "g (float16[4, 16] x) => (float16[4, 8] y) "
    "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
    "wd = DequantizeLinear<axis = 1>(w8, sw) y = MatMul(d, wd) }",
    opset=19, s=STEP.astype(np.float16), z=ZERO, sw=STEPS.astype(np.float16), w8=CODES,
)  # fmt: skip

# Bias
BIAS = (
    "g (float[4, 16] x) => (float[4, 8] y) { b = DequantizeLinear(b32, s) y = Gemm(x, w, b) }"
)
case("int32 bias", BIAS, "codes", b32=np.ones(8, np.int32), s=STEP, w=WEIGHT)
case("float bias", BIAS.replace("b = DequantizeLinear(b32, s)", ""), w=WEIGHT, b=STEPS)

# Blocks
BLOCKS = np.full((4, 8), 0.02, np.float32)
LONG = RNG.integers(-127, 128, (64, 8)).astype(np.int8)
QUANTIZED = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
BLOCKED = "wd = DequantizeLinear<axis = 0, block_size = 16>(w8, sb)"
case(
    "blocked weight",
    f"g (float[4, 64] x) => (float[4, 8] y) {{ {BLOCKED} y = MatMul(x, wd) }}",
    "blocked-weight", opset=21, w8=LONG, sb=BLOCKS,
)  # fmt: skip
case(
    "blocked weight, int8 matrix",
    f"g (float[4, 64] x) => (float[4, 8] y) {{ {QUANTIZED} {BLOCKED} y = MatMul(d, wd) }}",
    "blocked-product", opset=21, w8=LONG, sb=BLOCKS, s=STEP, z=ZERO,
)  # fmt: skip
case(
    "blocked weight, int8 batch",
    "g (float[2, 4, 64] x) => (float[2, 4, 8] y) "
    f"{{ {QUANTIZED} {BLOCKED} y = MatMul(d, wd) }}",
    "blocked-scale", opset=21, w8=LONG, sb=BLOCKS, s=STEP, z=ZERO,
)  # fmt: skip
case(
    "blocked weight in Gemm", f"g (float[4, 64] x) => (float[4, 8] y) {{ {QUANTIZED} "
    "wd = DequantizeLinear<axis = 1, block_size = 16>(w8, sb) y = Gemm<transB = 1>(d, wd) }",
    "blocked-scale", opset=21, w8=LONG.T.copy(), sb=BLOCKS.T.copy(), s=STEP, z=ZERO,
)  # fmt: skip
case(
    "blocked weight behind Transpose", f"g (float[4, 64] x) => (float[4, 8] y) {{ {QUANTIZED} "
    "wt = DequantizeLinear<axis = 1, block_size = 16>(w8, sb) wd = Transpose(wt) "
    "y = MatMul(d, wd) }",
    "blocked-scale", opset=21, w8=LONG.T.copy(), sb=BLOCKS.T.copy(), s=STEP, z=ZERO,
)  # fmt: skip
case(
    "blocked weight in Gemm, not transposed",
    f"g (float[4, 64] x) => (float[4, 8] y) {{ {QUANTIZED} {BLOCKED} y = Gemm(d, wd) }}",
    "blocked-product", opset=21, w8=LONG, sb=BLOCKS, s=STEP, z=ZERO,
)  # fmt: skip
case(
    "blocked int4 weight",
    f"g (float[4, 64] x) => (float[4, 8] y) {{ {BLOCKED} y = MatMul(x, wd) }}",
    opset=21, w8=narrow("w8", TensorProto.INT4, (64, 8)), sb=BLOCKS,
)  # fmt: skip

# Convolutions
CONV = (
    "g (float[1, 8, 6, 6] x) => (float[1, 8, 4, 4] y) "
    f"{{ {QUANTIZED} wd = DequantizeLinear<axis = 0>(w8, sw) y = Conv(d, wd) }}"
)
KERNEL = RNG.integers(-127, 128, (8, 8, 3, 3)).astype(np.int8)
case("convolution", CONV, s=STEP, z=ZERO, w8=KERNEL, sw=STEPS)
case(
    "convolution, scales along the sum", CONV.replace("<axis = 0>", "<axis = 1>"),
    "summed-scale", s=STEP, z=ZERO, w8=KERNEL, sw=STEPS,
)  # fmt: skip
case("convolution, zero point", CONV, "zero-point", s=STEP, z=ZERO + 1, w8=KERNEL, sw=STEPS)

# Operators
PLAIN = "g (float[4, 16] x) => (float[4, 16] y) "
case("plain", PLAIN + "{ y = Relu(x) }")
case("gelu", PLAIN + "{ y = Gelu(x) }", opset=20)
case("operator without importer", PLAIN + "{ y = Det(x) }", "operator")
case(
    "MatMulInteger", "g (int8[4, 16] x) => (int32[4, 8] y) { y = MatMulInteger(x, w8) }",
    "operator", "stray-codes", w8=CODES,
)  # fmt: skip
case(
    "ConvInteger",
    "g (int8[1, 8, 6, 6] x) => (int32[1, 8, 4, 4] y) { y = ConvInteger(x, w8) }",
    "operator", "stray-codes", w8=KERNEL,
)  # fmt: skip
case(
    "QLinearMatMul", "g (int8[4, 16] x) => (int8[4, 8] y) "
    "{ y = QLinearMatMul(x, s, z, w8, s, z, s, z) }",
    "operator", "stray-codes", w8=CODES, s=STEP, z=ZERO,
)  # fmt: skip
case(
    "DynamicQuantizeLinear", PLAIN + "{ q, s, z = DynamicQuantizeLinear(x) "
    "y = DequantizeLinear(q, s, z) }",
    "operator", "runtime-scale", "computed-zero-point", "codes",
)  # fmt: skip
case("custom operator", PLAIN + "{ y = my.Foo(x) }", "operator")
case("operator of a runtime", PLAIN + "{ y = com.microsoft.FastGelu(x) }", "operator")
case("known name, other domain", PLAIN + "{ y = com.microsoft.Gelu(x) }")
case(
    "quantizers of a runtime", PLAIN + "{ q = com.microsoft.QuantizeLinear(x, s, z) "
    "y = com.microsoft.DequantizeLinear(q, s, z) }",
    s=STEP, z=ZERO,
)  # fmt: skip
case(
    "asymmetric quantizers of a runtime",
    PLAIN + "{ q = com.microsoft.QuantizeLinear(x, s, z) "
    "y = com.microsoft.DequantizeLinear(q, s, z) }",
    "zero-point", s=STEP, z=ZERO + 5,
)  # fmt: skip
case("opset 13", PLAIN + "{ y = Relu(x) }", opset=13)
case("opset 24", PLAIN + "{ y = Relu(x) }", opset=24)
case(
    "mean of a norm", "g (float[4, 16] x) => (float[4, 16] y, float[4, 1] m) "
    "{ y, m = LayerNormalization(x, w) }",
    "second-output", w=np.ones(16, np.float32),
)  # fmt: skip
case("norm", PLAIN + "{ y = LayerNormalization(x, w) }", w=np.ones(16, np.float32))
case(
    "indices of a pool",
    "g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] y, int64[1, 4, 4, 4] i) "
    "{ y, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) }",
    "second-output",
)  # fmt: skip
case(
    "unused indices of a pool", "g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] y) "
    "{ y, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) }",
    "second-output",
)  # fmt: skip
case(
    "pool with gaps", "g (float[1, 4, 8, 8] x) => (float[1, 4, 3, 3] y) "
    "{ y = MaxPool<kernel_shape = [2, 2], strides = [2, 2], dilations = [2, 2]>(x) }",
    "dilated-pool",
)  # fmt: skip
case(
    "pool", "g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] y) "
    "{ y = MaxPool<kernel_shape = [2, 2], strides = [2, 2], dilations = [1, 1]>(x) }",
)  # fmt: skip
case("int16 input", "g (int16[4, 16] x) => (float[4, 16] y) { y = Cast<to = 1>(x) }", "type")
TABLE = "g (int64[4] i) => (float[4, 8] y) { r = Gather(t, i) y = Cast<to = 1>(r) }"
case("uint8 table", TABLE, t=CODES.astype(np.uint8))
case("int8 table", TABLE, "stray-codes", t=CODES)
case("uint64 table", TABLE, "type", t=CODES.astype(np.uint64))
case("int32 table", TABLE, t=CODES.astype(np.int32))
BRANCH = """g (float[4, 8] x) => (float[4, 8] y) {
    total = ReduceSum<keepdims = 0>(x)
    up = Greater(total, zero)
    y = If(up) <
        then_branch = a () => (float[4, 8] o1)
            { q = QuantizeLinear(x, s, z) o1 = DequantizeLinear(q, s, z) },
        else_branch = b () => (float[4, 8] o2) { o2 = Relu(x) }
    >
}"""
FALSE = np.zeros((), np.float32)
case("branch", BRANCH, s=STEP, z=ZERO, zero=FALSE)
case("zero point in a branch", BRANCH, "zero-point", s=STEP, z=ZERO + 2, zero=FALSE)
case(
    "operator in a branch", BRANCH.replace("Relu", "Det"), "operator",
    s=STEP, z=ZERO, zero=FALSE,
)  # fmt: skip

# Attention
HEADS = "g (float[2, 4, 8] q0, float[2, 8, 4] k0, float[2, 4, 8] v0) => (float[2, 4, 8] y) "


def attention(name: str, *broken: str, pairs: str) -> None:
    """``softmax(q k) v`` with pairs on the parts whose letters are given; s is the softmax."""
    lines = []
    for part, letter in (("q", "q"), ("k", "k"), ("v", "v")):
        lines.append(_pair(f"{part}0", part, quantized=letter in pairs))
    lines += ["a = MatMul(q, k)", "b = Mul(a, c)", "p0 = Softmax<axis = -1>(b)"]
    lines.append(_pair("p0", "p", quantized="s" in pairs))
    text = f"{HEADS}{{ {' '.join(lines)} y = MatMul(p, v) }}"
    constants: dict[str, Any] = {"s": STEP, "z": ZERO} if pairs else {}
    case(name, text, *broken, c=np.array(0.35, np.float32), **constants)


def _pair(source: str, result: str, *, quantized: bool) -> str:
    if not quantized:
        return f"{result} = Identity({source})"
    codes = f"{result}_codes"
    return (
        f"{codes} = QuantizeLinear({source}, s, z) {result} = DequantizeLinear({codes}, s, z)"
    )


attention("attention in float", pairs="")
attention("attention in int8", pairs="qkvs")
attention("attention without softmax", "attention", pairs="qkv")
attention("softmax alone", "attention", pairs="s")
attention("queries alone", "attention", pairs="q")

# 2:4
SPARSE = np.array(np.broadcast_to([[1], [0], [-2], [0]] * 4, (16, 8)), np.int8)
TAIL = "qy = QuantizeLinear(h, s, z) y = DequantizeLinear(qy, s, z)"


def sparse(name: str, *broken: str, tail: str, w8: Array = SPARSE) -> None:
    """A product with a sparse weight; ``tail`` makes y of its output m."""
    body = f"{QUANTIZED} wd = DequantizeLinear<axis = 1>(w8, sw) m = MatMul(d, wd)"
    text = f"g (float[4, 16] x) => (float[4, 8] y) {{ {body} {tail} }}"
    constants: dict[str, Any] = {"b": STEPS} if "(m, b)" in tail else {}
    case(name, text, *broken, s=STEP, z=ZERO, sw=STEPS, w8=w8, **constants)


sparse("sparse, int8 behind bias and Relu", tail=f"n = Add(m, b) h = Relu(n) {TAIL}")
sparse("sparse, float output", "float-output", tail="n = Add(m, b) y = Relu(n)")
sparse(
    "sparse, int8 and float readers",
    "float-output",
    tail="h = Add(m, b) c = QuantizeLinear(h, s, z) e = DequantizeLinear(c, s, z) "
    "y = Add(e, h)",
)
sparse("dense, float output", tail="y = Relu(m)", w8=CODES)
sparse("empty weight", tail="y = Relu(m)", w8=0 * CODES)
case(
    "2:4 along the outputs",
    f"g (float[4, 8] x) => (float[4, 16] y) {{ {QUANTIZED} "
    "wd = DequantizeLinear<axis = 1>(w8, sw) y = MatMul(d, wd) }",
    "sparse-axis", s=STEP, z=ZERO, sw=np.full(16, 0.02, np.float32), w8=SPARSE.T.copy(),
)  # fmt: skip
case(
    "2:4 float weight along the outputs",
    "g (float[4, 8] x) => (float[4, 16] y) { y = MatMul(x, w) }",
    "sparse-axis", w=SPARSE.T.astype(np.float32),
)  # fmt: skip

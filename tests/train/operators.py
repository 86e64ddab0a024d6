"""One small model per operator, for tests and for the table in ``docs/gradients.md``.

Every case computes ``y`` from ``x`` of shape [N, 4, 6, 6] and the constants of `CONSTANTS`.
"""

from __future__ import annotations

import dataclasses
import functools
import re

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from gpusq_compiler.runtime.samples import Array
from gpusq_compiler.train.trainable import graphs

RNG = np.random.default_rng(11)


def _normal(*shape: int) -> Array:
    return RNG.normal(0, 0.7, shape).astype(np.float32)


def _integers(*values: int) -> Array:
    return np.array(values, np.int64)


CONSTANTS: dict[str, Array] = {
    "half": np.array(0.5, np.float32),
    "low": np.array(-0.8, np.float32),
    "high": np.array(0.9, np.float32),
    "four": np.array([0.5, 1, 1.5, 2], np.float32),
    "quarter": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    "four1": np.array([0.5, -1, 1.5, 2], np.float32).reshape(4, 1, 1),
    "six": np.arange(1, 7).astype(np.float32),
    "bias6": _normal(6),
    "group": np.array([1.5, 0.5], np.float32),
    "shift": np.array([0.5, -0.5], np.float32),
    "positive": np.array([0.5, 1.3, 2, 3], np.float32).reshape(4, 1, 1),
    "matrix": _normal(6, 6),
    "tall": _normal(36, 5),
    "wide": _normal(5, 36),
    "bias5": _normal(5),
    "cube": _normal(4, 6, 5),
    "kernel": _normal(8, 4, 3, 3),
    "grouped": _normal(8, 2, 3, 3),
    "deep": _normal(4, 1, 3, 3),
    "bias8": _normal(8),
    "up": _normal(4, 3, 3, 3),
    "upgroup": _normal(4, 2, 3, 2),
    "bias3": _normal(3),
    "lstm_w": _normal(1, 12, 6),
    "lstm_r": _normal(1, 12, 3),
    "gru_w": _normal(1, 9, 6),
    "gru_r": _normal(1, 9, 3),
    "pads": _integers(0, 0, 1, 2, 0, 0, 2, 1),
    "crop": _integers(0, 0, -1, 2, 0, 0, 2, -1),
    "pads2": _integers(1, 2, 2, 1),
    "negatives2": _integers(-1, -2),
    "one": _integers(1),
    "zero0": np.array(0, np.int64),
    "three": _integers(3),
    "axes": _integers(3),
    "axes23": _integers(2, 3),
    "axis0": np.array(3, np.int64),
    "two": np.array([2], np.int64),
    "starts": _integers(5, 0),
    "ends": _integers(-100, 6),
    "steps": _integers(-2, 3),
    "rows": np.array([[3, 0], [1, 1]], np.int64),
    "row": np.array(2, np.int64),
    "picks": np.random.default_rng(3).integers(0, 6, (2, 4, 6, 3)),
    "places": np.array([0, 2, 4, 1, 3, 5], np.int64)[:3].reshape(1, 1, 1, 3)
    * np.ones((2, 4, 6, 1), np.int64),
    "points": np.array([[0, 1], [1, 3]], np.int64),
    "spots": np.array([[0, 1, 2], [1, 3, 0]], np.int64),
    "patch": _normal(2, 6),
    "updates": _normal(2, 4, 6, 3),
    "shape": _integers(3, 1, 4, 6, 6),
    "flat": _integers(0, -1),
    "halves": _integers(2, 2),
    "uneven": _integers(1, 3),
    "repeats": _integers(1, 2, 1, 3),
    "scales": np.array([1, 1, 2, 1.5], np.float32),
    "scales2": np.array([2, 1.5], np.float32),
    "down": np.array([1, 1, 0.5, 0.7], np.float32),
    "sizes2": _integers(9, 4),
    "empty": np.zeros(0, np.float32),
    "mask": np.random.default_rng(5).random((4, 6, 6)) < 0.5,
    "true": np.array(True),
    "count": np.array(3, np.int64),
    "ramp": np.linspace(-1, 1, 36).astype(np.float32).reshape(1, 1, 6, 6),
    "qkv": _normal(6, 18),
    "bias18": _normal(18),
    "half2": np.array(0.6, np.float32),
    "diagonal": np.array(1, np.int64),
    "flat3": _integers(0, 0, -1),
    "shape5": _integers(0, 4, 4, 3, 3),
    "flat4": _integers(1, 4, 6, 6),
    "kernel1": _normal(5, 4, 3),
    "kernel3": _normal(3, 4, 2, 2, 2),
    "up1": _normal(4, 3, 3),
    "tokens": _integers(0, 24, 6),
    "offsets": _normal(2, 18, 4, 4),
    "grid": np.random.default_rng(8).uniform(-0.9, 0.9, (2, 3, 3, 2)).astype(np.float32),
    "roi": np.array([0, 0, 0.1, 0.2, 1, 1, 0.9, 0.8], np.float32),
    "lengths": _integers(6, 3, 1, 2),
    "zeros1": _integers(0),
    "ones1": _integers(1),
    "zeros2": _integers(0, 0),
    "ones2": _integers(1, 4),
    "axes02": _integers(0, 1),
}


SETTINGS = frozenset({"down", "roi", "scales", "grid", "offsets"})
"""Float constants that say what to do and are never trained."""


TWO_SAMPLES = frozenset({"picks", "points", "spots", "places", "updates", "grid", "one"})
"""Constants that want exactly two samples."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        name: Operator, then what is special about the case.
        body: Statements that end with ``y = ...``.
        opset: Of the default domain.
    """

    name: str
    body: str
    opset: int = 18

    @property
    def operator(self) -> str:
        """Operator under test, its domain in front where it is not the default."""
        return self.name.split(",", maxsplit=1)[0]

    @functools.cached_property
    def proto(self) -> onnx.ModelProto:
        """The model, its constants as initializers."""
        model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": {self.opset}, "com.microsoft": 1]>
        g (float[N,4,6,6] x) => (float y) {{ {self.body} }}""")
        model.graph.output[0].type.tensor_type.ClearField("shape")
        used = {name for graph in graphs(model.graph) for n in graph.node for name in n.input}
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name)
            for name, value in CONSTANTS.items()
            if name in used
        )
        return model

    @property
    def parameters(self) -> list[str]:
        """Float constants with several elements that train."""
        return [
            t.name
            for t in self.proto.graph.initializer
            if t.data_type == onnx.TensorProto.FLOAT and t.dims and t.name not in SETTINGS
        ]

    @property
    def free(self) -> bool:
        """Whether the model takes any number of samples."""
        names = {tensor.name for tensor in self.proto.graph.initializer}
        return not names & TWO_SAMPLES

    def model(self) -> ir.Model:
        """The model for the program under test."""
        return ir.from_proto(self.proto)

    def x(self) -> Array:
        """Two samples."""
        return np.random.default_rng(3).normal(0, 1.3, (2, 4, 6, 6)).astype(np.float32)


SIMPLE = {
    "Abs": "", "Asinh": "", "Atan": "", "Celu": "<alpha=0.7>", "Cos": "", "Cosh": "",
    "Elu": "<alpha=0.7>", "Erf": "", "Exp": "", "HardSigmoid": "<alpha=0.3>", "HardSwish": "",
    "LeakyRelu": "<alpha=0.2>", "LogSoftmax": "<axis=1>", "Mish": "", "Neg": "", "Relu": "",
    "Selu": "", "Sigmoid": "", "Sin": "", "Sinh": "", "Softmax": "<axis=1>", "Softplus": "",
    "Softsign": "", "Tanh": "", "ThresholdedRelu": "<alpha=0.4>", "Identity": "",
    "Dropout": "", "Shrink": "<bias=0.2, lambd=0.4>", "Hardmax": "", "Ceil": "", "Floor": "",
    "Sign": "", "GlobalAveragePool": "", "GlobalMaxPool": "", "GlobalLpPool": "<p=2>",
    "Flatten": "<axis=2>", "Det": "", "MeanVarianceNormalization": "",
    "LpNormalization": "<axis=1>", "Trilu": "<upper=0>", "Transpose": "",
    "DepthToSpace": '<blocksize=2, mode="CRD">', "SpaceToDepth": "<blocksize=2>",
}  # fmt: skip
"""Operators of one input, with attributes."""

MORE: dict[str, str] = {
    "Log": "Log(pos)", "Sqrt": "Sqrt(pos)", "Reciprocal": "Reciprocal(pos)",
    "Acos": "Acos(small)", "Asin": "Asin(small)", "Atanh": "Atanh(small)", "Acosh": "Acosh(large)",
    "Tan": "Tan(small)", "Pow": "Pow(pos, half)", "Pow, exponent trained": "Pow(pos, positive)",
    "Mod": "Mod<fmod=1>(x, half)",     "LogSoftmax, flattened": "LogSoftmax<axis=-1>(x)",
    "Softmax, middle axis": "Softmax<axis=2>(x)",
    "DepthToSpace, DCR": "DepthToSpace<blocksize=2>(x)",
    "Add": "Add(x, four1)", "Sub": "Sub(four1, x)", "Mul": "Mul(x, four1)",
    "Div": "Div(x, positive)", "Div, by input": "Div(four1, pos)",
    "Max": "Max(x, four1)", "Max, three": "Max(x, four1, bias6)", "Max, one": "Max(x)",
    "Min": "Min(x, four1)", "Min, three": "Min(x, four1, bias6)",
    "Mean": "Mean(x, x, four1)", "Sum": "Sum(x, four1, x)", "Sum, one": "Sum(x)",
    "Clip": "Clip(x, low, high)", "Clip, no lower bound": "Clip(x, , high)",
    "Clip, computed bound": "b = ReduceMean<keepdims=0>(x) c = Add(b, high) y = Clip(x, low, c)",
    "PRelu": "PRelu(x, four1)", "Where": "Where(mask, x, four1)",
    "Where, computed": "c = Greater(x, half) y = Where(c, x, four1)",
    "Cast": "c = Cast<to=11>(x) y = Cast<to=1>(c)", "CastLike": "CastLike(x, half)",
    "CumSum": "CumSum(x, axis0)",
    "CumSum, reverse exclusive": "CumSum<reverse=1, exclusive=1>(x, axis0)",
    "Trilu, upper": "Trilu(x, diagonal)", "MatMul": "MatMul(x, matrix)",
    "MatMul, batched": "MatMul(x, cube)", "MatMul, constant left": "MatMul(matrix, x)",
    "MatMul, vector": "MatMul(x, six)",
    "Gemm": "f = Flatten<axis=2>(x) y = Gemm<alpha=0.5>(f, tall, bias5)",
    "Gemm, transposed": "f = Flatten<axis=2>(x) y = Gemm<transB=1>(f, wide, bias5)",
    "Gemm, transposed input":
        "f = Flatten<axis=2>(x) g = Transpose<perm=[1, 0]>(f) y = Gemm<transA=1>(g, tall)",
    "Conv": "Conv<pads=[1,1,1,1]>(x, kernel, bias8)",
    "Conv, same": 'Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, kernel, bias8)',
    "Conv, grouped dilated": "Conv<group=2, dilations=[2,1], strides=[1,2]>(x, grouped)",
    "Conv, depthwise": "Conv<group=4>(x, deep)",
    "Conv, one dimension": "r = Reshape(x, flat3) y = Conv(r, kernel1)",
    "Conv, three dimensions": "r = Reshape(x, shape5) y = Conv(r, kernel3)",
    "ConvTranspose": "ConvTranspose(x, up, bias3)",
    "ConvTranspose, strided":
        "ConvTranspose<strides=[2,3], pads=[1,0,2,1], output_padding=[1,2]>(x, up, bias3)",
    "ConvTranspose, grouped dilated":
        "ConvTranspose<group=2, strides=[2,1], dilations=[1,2]>(x, upgroup)",
    "ConvTranspose, same": 'ConvTranspose<auto_pad="SAME_UPPER", strides=[2,2]>(x, up)',
    "ConvTranspose, same lower": 'ConvTranspose<auto_pad="SAME_LOWER", strides=[3,2]>(x, up)',
    "ConvTranspose, output shape": "ConvTranspose<strides=[2,2], output_shape=[12,13]>(x, up)",
    "ConvTranspose, cropped": "ConvTranspose<pads=[3,2,2,3], strides=[2,2]>(x, up)",
    "ConvTranspose, one dimension": "r = Reshape(x, flat3) y = ConvTranspose<strides=[2]>(r, up1)",
    "ConvTranspose, computed kernel": "k = Tanh(up) y = ConvTranspose<strides=[2,2]>(x, k)",
    
    "AveragePool": "AveragePool<kernel_shape=[2,3], strides=[2,1]>(x)",
    "AveragePool, ceil": "AveragePool<kernel_shape=[4,4], strides=[3,3], ceil_mode=1>(x)",
    "AveragePool, ceil padded":
        "AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, pads=[1,1,1,1]>(x)",
    "AveragePool, padded": "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)",
    "AveragePool, pads counted":
        "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)",
    "AveragePool, same": 'AveragePool<kernel_shape=[3,3], auto_pad="SAME_UPPER">(x)',
    "AveragePool, one dimension": "r = Reshape(x, flat3) y = AveragePool<kernel_shape=[3]>(r)",
    "AveragePool, larger than its input":
        "AveragePool<kernel_shape=[7,7], pads=[1,1,1,1]>(x)",
    "MaxPool": "MaxPool<kernel_shape=[2,3], strides=[2,1]>(x)",
    "MaxPool, padded": "MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)",
    "MaxPool, ceil": "MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)",
    "MaxPool, dilated": "MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x)",
    "MaxPool, same": 'MaxPool<kernel_shape=[3,3], auto_pad="SAME_LOWER", strides=[2,2]>(x)',
    "MaxPool, one dimension": "r = Reshape(x, flat3) y = MaxPool<kernel_shape=[3]>(r)",
    "LpPool": "LpPool<kernel_shape=[2,2], strides=[2,2]>(x)",
    "LpPool, padded": "LpPool<kernel_shape=[3,3], p=3, pads=[1,0,1,0]>(x)",
    "BatchNormalization": "BatchNormalization(x, four, quarter, quarter, four)",
    "InstanceNormalization": "InstanceNormalization(x, four, quarter)",
    "GroupNormalization": "GroupNormalization<num_groups=2>(x, group, shift)",
    "LayerNormalization": "LayerNormalization(x, six, bias6)",
    "LayerNormalization, no bias": "LayerNormalization(x, six)",
    "LayerNormalization, two axes": "LayerNormalization<axis=2>(x, matrix, matrix)",
    "LpNormalization, 1": "LpNormalization<axis=2, p=1>(x)",
    "LRN": "LRN<size=3>(x)",
    "MeanVarianceNormalization, axes": "MeanVarianceNormalization<axes=[1]>(x)",
    "Pad": "Pad(x, pads)", "Pad, value": "Pad(x, pads, half)",
    "Pad, reflect": 'Pad<mode="reflect">(x, pads)', "Pad, edge": 'Pad<mode="edge">(x, pads)',
    "Pad, axes": "Pad(x, pads2, half, axes23)",
    "Pad, reflect axes": 'Pad<mode="reflect">(x, pads2, , axes23)',
    "Pad, cropping": "Pad(x, crop)", "Pad, reflect cropping": 'Pad<mode="reflect">(x, crop)',
    "Slice": "Slice(x, starts, ends, axes23, steps)", "Slice, default": "Slice(x, one, three)",
    "Split": "a, y = Split<axis=1>(x, uneven)",
    "Split, number": "a, b = Split<axis=1, num_outputs=2>(x) y = Mul(a, b)",
    "Split, uneven number": "r = Reshape(x, tokens) "
        "a, b, c, d, e = Split<axis=1, num_outputs=5>(r) f = Mul(a, b) g = Mul(f, c) "
        "h = Mul(g, d) y = Concat<axis=1>(h, e)",
    "Concat": "Concat<axis=2>(x, x)", "Tile": "Tile(x, repeats)", "Expand": "Expand(x, shape)",
    "Reshape": "Reshape(x, flat)", "Squeeze": "u = Unsqueeze(x, one) y = Squeeze(u, one)",
    "Squeeze, all": "u = Unsqueeze(x, one) y = Squeeze(u)",
    "Unsqueeze": "Unsqueeze(x, one)", "Gather": "Gather<axis=2>(x, rows)",
    "Gather, scalar": "Gather<axis=1>(x, row)",
    "GatherElements": "GatherElements<axis=3>(x, picks)",
    "GatherND": "GatherND(x, points)",
    "GatherND, batched": "i = ArgMax<axis=3>(x) y = GatherND<batch_dims=3>(x, i)",
    "ScatterND": "ScatterND(x, spots, patch)",
    "ScatterND, add": 'ScatterND<reduction="add">(x, spots, patch)',
    "ScatterElements": "ScatterElements<axis=3>(x, places, updates)",
    "ScatterElements, add": 'ScatterElements<axis=3, reduction="add">(x, places, updates)',
    "TopK": "y, i = TopK<axis=-1>(x, three)",
    "TopK, unsorted": "y, i = TopK<axis=1, sorted=0, largest=0>(x, one)",
    "ReverseSequence": "t = Transpose<perm=[3, 1, 0, 2]>(x) y = ReverseSequence<batch_axis=1, time_axis=0>(t, lengths)",
    "Einsum, product": 'Einsum<equation="bchw,bcvw->bchv">(x, x)',
    "Einsum, weight": 'Einsum<equation="bchw,cwk->bchk">(x, cube)',
    "Einsum, trailing": 'Einsum<equation="...w,wk->...k">(x, matrix)',
    "Einsum, one operand": 'Einsum<equation="bchw->bwhc">(x)',
    "Einsum, implicit": 'Einsum<equation="bchw,wk">(x, matrix)',
    "Einsum, diagonal": 'Einsum<equation="bchh->bch">(x)',
    "Einsum, summed": 'Einsum<equation="bchw,bcvk->bhv">(x, x)',
    "Einsum, three": 'Einsum<equation="bchw,wk,kl->bchl">(x, matrix, matrix)',
    "Resize, nearest": "Resize(x, , scales)",
    "Resize, nearest asymmetric floor":
        'Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , scales)',
    "Resize, nearest ceil":
        'Resize<nearest_mode="ceil", coordinate_transformation_mode="align_corners">(x, , scales)',
    "Resize, nearest round up": 'Resize<nearest_mode="round_prefer_ceil">(x, , scales)',
    "Resize, linear": 'Resize<mode="linear">(x, , scales)',
    "Resize, linear align corners":
        'Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , scales)',
    "Resize, linear asymmetric":
        'Resize<mode="linear", coordinate_transformation_mode="asymmetric">(x, , scales)',
    "Resize, linear pytorch":
        'Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel">(x, , scales)',
    "Resize, linear down": 'Resize<mode="linear">(x, , down)',
    "Resize, linear antialias": 'Resize<mode="linear", antialias=1>(x, , down)',
    "Resize, sizes": 'Resize<mode="linear", axes=[2,3]>(x, , , sizes2)',
    "Resize, cubic": 'Resize<mode="cubic">(x, , scales)',
    "Resize, cubic pytorch":
        'Resize<mode="cubic", coordinate_transformation_mode="align_corners", '
        'cubic_coeff_a=-0.5>(x, , scales)',
    "Resize, cubic excluding outside": 'Resize<mode="cubic", exclude_outside=1>(x, , scales)',
    "Resize, symmetric":
        'Resize<mode="linear", coordinate_transformation_mode="half_pixel_symmetric">'
        "(x, , scales)",
    "Resize, crop":
        'Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">'
        "(x, roi, scales)",
    "GridSample": "GridSample(x, grid)",
    "ReduceMean": "ReduceMean(x, axes23)", "ReduceSum": "ReduceSum<keepdims=0>(x, axes23)",
    "ReduceSum, all": "ReduceSum(x)", "ReduceMax": "ReduceMax(x, axes)",
    "ReduceMax, dropped": "ReduceMax<keepdims=0>(x, axes23)",
    "ReduceMin": "ReduceMin<keepdims=0>(x)", "ReduceL1": "ReduceL1(x, axes23)",
    "ReduceL2": "ReduceL2<keepdims=0>(x, axes23)", "ReduceProd": "ReduceProd(x, axes)",
    "ReduceLogSum": "ReduceLogSum<keepdims=0>(pos, axes)",
    "ReduceLogSumExp": "ReduceLogSumExp(x, axes)",
    "ReduceSumSquare": "ReduceSumSquare(x, axes)",
    "ArgMax": "i = ArgMax<axis=3>(x) y = Cast<to=1>(i)",
    "NonZero": "i = NonZero(x) y = Cast<to=1>(i)",
    "LSTM": "t = Slice(x, zeros2, ones2, axes02) r = Squeeze(t, zeros1) "
        "y, h, c = LSTM<hidden_size=3>(r, lstm_w, lstm_r)",
    "GRU": "t = Slice(x, zeros2, ones2, axes02) r = Squeeze(t, zeros1) "
        "y, h = GRU<hidden_size=3>(r, gru_w, gru_r)",
    "com.microsoft.Gelu": "com.microsoft.Gelu(x)",
    "com.microsoft.FastGelu": "com.microsoft.FastGelu(x, bias6)",
    "com.microsoft.BiasGelu": "com.microsoft.BiasGelu(x, bias6)",
    "com.microsoft.QuickGelu": "com.microsoft.QuickGelu<alpha=1.7>(x)",
    "com.microsoft.FusedMatMul": "com.microsoft.FusedMatMul<alpha=0.5, transB=1>(x, matrix)",
    "com.microsoft.FusedConv":
        'com.microsoft.FusedConv<activation="Relu", pads=[1,1,1,1]>(x, kernel, bias8)',
    "com.microsoft.FusedGemm": "f = Flatten<axis=2>(x) "
        'y = com.microsoft.FusedGemm<activation="Tanh", alpha=0.5, transB=1>(f, wide, bias5)',
    "com.microsoft.SkipLayerNormalization":
        "r = Reshape(x, tokens) y = com.microsoft.SkipLayerNormalization(r, r, six, bias6, bias6)",
    "com.microsoft.Attention": "r = Reshape(x, tokens) "
        "y = com.microsoft.Attention<num_heads=2>(r, qkv, bias18)",
    "SimplifiedLayerNormalization": "SimplifiedLayerNormalization<axis=-1>(x, six)",
    "If": "If<then_branch = t () => (float[N,4,6,6] a) { a = Mul(x, four1) }, "
        "else_branch = e () => (float[N,4,6,6] b) { b = Neg(x) }>(true)",
    "Loop": "y = Loop<body = b (int64 i, bool c, float[N,4,6,6] state) => "
        "(bool d, float[N,4,6,6] t) { d = Identity(c) t = Mul(state, four1) }>(count, true, x)",
    "Scan": "z = ReduceMean<keepdims=0>(x, zeros1) h = Slice(z, zeros1, ones1, zeros1) "
        "g = Squeeze(h, zeros1) "
        "f, y = Scan<num_scan_inputs=1, body = b (float[6] state, float[6] v) => "
        "(float[6] t, float[6] w) { t = Add(state, v) w = Mul(t, six) }>(bias6, g)",
}  # fmt: skip
"""Other cases; ``pos``, ``large`` and ``small`` are x made positive, > 1, and within 1/2."""

NEWER: dict[str, tuple[int, str]] = {
    "GroupNormalization, 21": (21, "GroupNormalization<num_groups=2>(x, four, quarter)"),
    "Gelu": (20, "Gelu(x)"),
    "Gelu, tanh": (20, 'Gelu<approximate="tanh">(x)'),
    "ReduceMax, 20": (20, "ReduceMax(x, axes)"),
    "ReduceMean, 17": (17, "ReduceMean<axes=[2,3], keepdims=0>(x)"),
    "ReduceMax, 17": (17, "ReduceMax<axes=[-1], keepdims=0>(x)"),
    "ReduceL2, 17": (17, "ReduceL2<axes=[1]>(x)"),
    "ReduceLogSumExp, 17": (17, "ReduceLogSumExp<axes=[1]>(x)"),
    "Pad, wrap": (19, 'Pad<mode="wrap">(x, pads)'),
    "Resize, 13": (13, 'Resize<mode="linear">(x, , scales)'),
    "Resize, not larger": (19, 'Resize<mode="linear", axes=[2,3], '
        'keep_aspect_ratio_policy="not_larger">(x, , , sizes2)'),
    "AveragePool, dilated": (19, "AveragePool<kernel_shape=[2,2], dilations=[2,3]>(x)"),
    "ConstantOfShape": (21, "c = ConstantOfShape(flat4) y = Add(c, x)"),
}  # fmt: skip
"""Cases that need an opset other than 18."""

PREPARED = {
    "pos": "a = Abs(x) pos = Add(a, half)",
    "small": "a = Sin(x) small = Mul(a, half)",
    "large": "a = Abs(x) b = Add(a, half) large = Add(b, half2)",
}


def _case(name: str, body: str, opset: int = 18) -> Case:
    before = [text for key, text in PREPARED.items() if re.search(rf"\b{key}\b", body)]
    stated = body if re.match(r"[\w, ]+ = ", body) else f"y = {body}"
    return Case(name=name, body=" ".join([*before, stated]), opset=opset)


CASES = {
    case.name: case
    for case in (
        *(_case(name, f"{name}{attributes}(x)") for name, attributes in SIMPLE.items()),
        *(_case(name, body) for name, body in MORE.items()),
        *(_case(name, body, opset) for name, (opset, body) in NEWER.items()),
    )
}

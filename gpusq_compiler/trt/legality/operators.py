"""Which operators TensorRT imports, and since which version.

From NVIDIA's operator tables for 8.5 and 10.15, the importer's change log, and what the
parser of TensorRT for RTX 1.7.1 (of the age of TensorRT 11) says of itself. DeformConv is in
the table but not in that parser. The importer looks an operator up by its name alone: the
domain only tells where a plugin is searched for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten
Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity If
ImageScaler InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less
LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad
ParametricSoftplus Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform
RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
ReverseSequence RoiAlign Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape
Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where
Xor
"""
ALWAYS = frozenset(_NAMES.split())
"""Imported by 8.6 and everything after."""

SINCE: Mapping[str, tuple[int, int]] = {
    "CastLike": (10, 0),
    "Hardmax": (10, 0),
    "Mish": (10, 0),
    "DeformConv": (10, 1),
    "Gelu": (10, 1),
    "BlackmanWindow": (10, 4),
    "HammingWindow": (10, 4),
    "HannWindow": (10, 4),
    "STFT": (10, 5),
    "Attention": (10, 14),
    "RMSNormalization": (10, 15),
    "RotaryEmbedding": (10, 15),
    "TensorScatter": (10, 15),
    "CausalConvWithState": (11, 0),
    "GroupQueryAttention": (11, 0),
    "LinearAttention": (11, 0),
    "SimplifiedLayerNormalization": (11, 0),
    "SkipSimplifiedLayerNormalization": (11, 0),
    "Swish": (11, 0),
}
"""The first version that imports an operator; where only a table of a later version names it,
the first of that major version or the version of the table."""

REFUSED: Mapping[str, str] = {
    "MatMulInteger": "Use QuantizeLinear and DequantizeLinear around MatMul",
    "ConvInteger": "Use QuantizeLinear and DequantizeLinear around Conv",
    "QLinearMatMul": "Use QuantizeLinear and DequantizeLinear around MatMul",
    "QLinearConv": "Use QuantizeLinear and DequantizeLinear around Conv",
    "DynamicQuantizeLinear": "Quantize with constant scales: `gpusq compile` calibrates them",
    # The parser of TensorRT for RTX 1.7.1 claims to know this one, and crashes on it.
    "MultiHeadAttention": "Export attention as MatMul, Softmax, MatMul",
}
"""Operators that users ask about, with what to do instead of the general remedy."""

PLUGIN_DOMAIN, PLUGIN_PREFIX, PLUGIN_SUFFIX = "trt", "TRT_", "_TRT"
"""How plugins are named that come with TensorRT."""


def is_plugin(domain: str, op_type: str) -> bool:
    """Whether an operator is meant for a plugin of TensorRT, which we do not judge."""
    return (
        domain.startswith(PLUGIN_DOMAIN)
        or op_type.startswith(PLUGIN_PREFIX)
        or op_type.endswith(PLUGIN_SUFFIX)
    )


def first_version(op_type: str) -> tuple[int, int] | None:
    """The first version that imports an operator; None where none does."""
    return (8, 6) if op_type in ALWAYS else SINCE.get(op_type)

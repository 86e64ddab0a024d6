"""Operators that ONNX Runtime trains wrongly or not at all, in forms that it trains right.

Each rewrite gets the graph under construction and a node. It adds nodes and returns the name
of the tensor that takes the place of the node's first output, or returns None to keep the
node, which it may have completed. A new operator is one function and one line in `REWRITES`.
What each of them is good for stands in ``docs/gradients.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gpusq_compiler.train.copy import (
    activations,
    convolutions,
    fused,
    normalizations,
    pooling,
    products,
    reductions,
    resampling,
    spatial,
)

if TYPE_CHECKING:
    import onnx

    from gpusq_compiler.train.copy.copygraph import CopyGraph

Rewrite = Callable[["CopyGraph", "onnx.NodeProto"], "str | None"]

REWRITES: Mapping[str, Rewrite] = {
    "AveragePool": pooling.average_pool,
    "BatchNormalization": normalizations.batch_normalization,
    "CastLike": activations.cast_like,
    "Celu": activations.celu,
    "Clip": activations.clip,
    "Conv": convolutions.conv,
    "ConvTranspose": convolutions.conv_transpose,
    "CumSum": resampling.cumulative_sum,
    "DepthToSpace": spatial.depth_to_space,
    "Dropout": activations.identity,
    "Einsum": products.einsum,
    "Elu": activations.elu,
    "GlobalLpPool": reductions.global_norm,
    "GlobalMaxPool": reductions.global_max,
    "GroupNormalization": normalizations.group_normalization,
    "HardSigmoid": activations.hard_sigmoid,
    "HardSwish": activations.hard_swish,
    "InstanceNormalization": normalizations.instance_normalization,
    "LRN": normalizations.local_response,
    "LayerNormalization": normalizations.layer_normalization,
    "LpNormalization": normalizations.lp_normalization,
    "LpPool": pooling.norm_pool,
    "MatMul": products.matmul,
    "Mean": reductions.mean,
    "MeanVarianceNormalization": normalizations.mean_variance,
    "Mish": activations.mish,
    "PRelu": activations.prelu,
    "Pad": spatial.pad,
    "ReduceL1": reductions.reduce_l1,
    "ReduceLogSum": reductions.reduce_log_sum,
    "ReduceMax": reductions.reduce_extreme,
    "ReduceMin": reductions.reduce_extreme,
    "ReduceProd": reductions.reduce_product,
    "ReduceSumSquare": reductions.reduce_square,
    "Resize": resampling.resize,
    "Selu": activations.selu,
    "Shrink": activations.shrink,
    "SimplifiedLayerNormalization": normalizations.root_mean_square,
    "Softsign": activations.softsign,
    "SpaceToDepth": spatial.space_to_depth,
    "Sum": reductions.add_chain,
    "ThresholdedRelu": activations.thresholded_relu,
    "Transpose": products.transpose,
    "Where": products.where,
    "com.microsoft::FusedConv": fused.fused_conv,
    "com.microsoft::FusedGemm": fused.fused_gemm,
    "com.microsoft::FusedMatMul": products.fused_matmul,
    "com.microsoft::SkipLayerNormalization": fused.skip_layer_normalization,
}
"""By operator, its domain in front where it is not the default."""

NAMES_ALL_OUTPUTS = frozenset({"LayerNormalization", "com.microsoft::SkipLayerNormalization"})
"""Rewrites that care for further outputs too; others are left out where those are used."""


def key_of(node: onnx.NodeProto) -> str:
    """The operator, its domain in front where it is not the default."""
    if node.domain in {"", "ai.onnx"}:
        return str(node.op_type)
    return f"{node.domain}::{node.op_type}"

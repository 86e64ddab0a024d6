"""canonicalize: the same function in the one form that all other passes expect.

functions       inlined
Constant nodes  initializers
constant parts  folded, but never a quantizer
weights         stored as their layers read them, where that costs no byte
    BatchNormalization(Conv(x, W, b))  →  Conv(x, k W, k (b - mean) + beta),
                                          k = gain / sqrt(variance + epsilon)
opset < 13      raised to 13, where per-channel quantizers exist
attention       scaled in W_q or on q, for TensorRT
names           every node and tensor has its own
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import _constant_folding as folding
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from gpusq_compiler.ir import claims, edit, io, own, query
from gpusq_compiler.ir.changes import Snapshot
from gpusq_compiler.passes.attention_scale import settle
from gpusq_compiler.passes.base import Fact, Finding, Pass, PassResult

if TYPE_CHECKING:
    from gpusq_compiler.passes.base import Context

FOLD_LIMIT = 1 << 20
"""Elements up to which a constant replaces its node: a file must not grow by folding."""
OLDEST_OPSET = 13

BATCHNORM_RULES = (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Canonicalize(Pass):
    """Inline, fold, name: the function stays, the form becomes one that passes can rely on.

    Outputs stay, up to rounding. ``gpusq passes show canonicalize`` explains the options.
    """

    name: ClassVar[str] = "canonicalize"
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL})
    refuses: ClassVar[frozenset[Fact]] = frozenset({Fact.PACKED})
    lossy: ClassVar[bool] = False

    attention_scale: Annotated[
        Literal["fold", "keep"] | None,
        "fold 1/sqrt(d) into W_q, or keep it where it is; none: fold for TensorRT",
    ] = None

    def resolve(self, model: ir.Model, ctx: Context) -> Canonicalize:
        """Take what is good for the target where the user chose nothing."""
        del model
        usual: Literal["fold", "keep"] = "fold" if ctx.target == "tensorrt" else "keep"
        return dataclasses.replace(self, attention_scale=self.attention_scale or usual)

    def asks_model(self, ctx: Context) -> bool:
        """Never: the target decides."""
        del ctx
        return False

    def wants_samples(self) -> bool:
        """Never: the function stays."""
        return False

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Apply each step until nothing changes."""
        del ctx
        before, size = Snapshot(model), _size(model)
        declared = [value.shape for value in model.graph.outputs]
        io.raise_opset(model, OLDEST_OPSET)
        if model.functions:
            common.InlinePass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        freed = _free_weights(model)
        _name_nodes(model)
        common.NameFixPass()(model)
        edit.infer_shapes(model)
        _fold(model)
        _fuse_batchnorms(model, self.name)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.RemoveUnusedNodesPass()(model)
        common.NameFixPass()(model)
        edit.infer_shapes(model)
        _straighten(model)
        if self.attention_scale == "fold":
            settle(model)
        for use in query.weight_uses(model):
            query.require_finite(use)
        _restore(model, declared)
        changes = before.until(Snapshot(model))
        return PassResult(
            changed=(*changes.nodes, *changes.tensors, *changes.interface),
            skipped=(*freed, *_left_batchnorms(model)),
            metrics={"nodes_before": size, "nodes_after": _size(model)},
        )


def _restore(model: ir.Model, declared: list[ir.Shape | None]) -> None:
    """Outputs keep the sizes that the file gives them, names of dimensions included."""
    for value, shape in zip(model.graph.outputs, declared, strict=True):
        if shape is None or value.shape is None or len(shape) != len(value.shape):
            continue
        value.shape = ir.Shape(
            ours if isinstance(ours, int) or ours.value is not None else found
            for ours, found in zip(shape, value.shape, strict=True)
        )


def _name_nodes(model: ir.Model) -> None:
    """Nodes without a name are called after what they compute, for people read the names."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if not node.name:
            node.name = f"{node.op_type}_{node.outputs[0].name or ''}".rstrip("_")


def _size(model: ir.Model) -> int:
    return sum(1 for _ in ir.traversal.RecursiveGraphIterator(model.graph))


def _free_weights(model: ir.Model) -> tuple[Finding, ...]:
    """Initializers that are also graph inputs become plain constants, as IR 3 files need."""
    findings = []
    for value in list(model.graph.inputs):
        if value.name in model.graph.initializers and len(model.graph.inputs) > 1:
            model.graph.inputs.remove(value)
            findings.append(
                Finding(
                    rule="weight-was-input",
                    where=value.name or "",
                    reason="was an input with a default; it is a constant now",
                )
            )
    return tuple(findings)


def _fold(model: ir.Model) -> None:
    folding.FoldConstantsPass(
        shape_inference=True,
        input_size_limit=FOLD_LIMIT,
        output_size_limit=FOLD_LIMIT,
        should_fold=_may_fold,
    )(model)


def _may_fold(node: ir.Node) -> bool | None:
    """Quantizers stay; of the rest the folder decides."""
    if query.is_op(node, "QuantizeLinear", "DequantizeLinear"):
        return False
    return None


def _fuse_batchnorms(model: ir.Model, author: str) -> None:
    """Fold BatchNormalization into what it follows, which keeps its names and metadata."""
    fused = {
        node.outputs[0].name: node.inputs[0].producer()
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if query.is_op(node, "BatchNormalization") and node.inputs[0] is not None
    }
    weights = {name: v for graph in model.graphs() for name, v in graph.initializers.items()}
    RewriteRuleSet(BATCHNORM_RULES).apply_to_model(model)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        folded = fused.get(node.outputs[0].name)
        if folded is None or node.op_type != folded.op_type:
            continue
        node.name, node.doc_string = folded.name, folded.doc_string
        node.metadata_props.clear()
        node.metadata_props.update({**folded.metadata_props, claims.PASS: author})
        for value in node.inputs[1:]:
            if value is not None and value.name in weights:
                value.metadata_props.update(weights[value.name].metadata_props)
                value.doc_string = weights[value.name].doc_string


def _straighten(model: ir.Model) -> None:
    """Weights behind layout operators are stored as their layers read them."""
    names = edit.Names(model)
    for use in own.needless_layouts(list(query.weight_uses(model))):
        own.straighten(use, names)


def _left_batchnorms(model: ir.Model) -> list[Finding]:
    return [
        Finding(
            rule="batchnorm-left",
            where=node.name or "",
            reason="no convolution with constant weights of its own stands before it",
        )
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if query.is_op(node, "BatchNormalization")
    ]

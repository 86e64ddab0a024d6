"""freeze: trained float weights become the integer codes that ship.

W ─▶ Q ─▶ DQ ─▶ MatMul          codes ─▶ DQ ─▶ MatMul

For ONNX Runtime activations and biases get the types that its kernels take (`integer_form`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from gpusq_compiler.ir import claims, edit, query
from gpusq_compiler.passes import integer_form
from gpusq_compiler.passes.base import Fact, Finding, Pass, PassResult
from gpusq_compiler.quant.arithmetic import quantize
from gpusq_compiler.quant.scheme import QuantScheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from gpusq_compiler.passes.base import Context

FORMS: Mapping[str, Literal["onnxruntime", "plain"]] = {
    "onnxruntime": "onnxruntime",
    "tensorrt": "plain",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Freeze(Pass):
    """Fold each weight's QuantizeLinear into integer codes; the pattern is proven on them.

    For ONNX Runtime activations and biases get the types that its integer kernels take.
    ``gpusq passes show freeze`` explains the options.
    """

    name: ClassVar[str] = "freeze"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QDQ})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.FROZEN})
    lossy: ClassVar[bool] = False

    form: Annotated[
        Literal["onnxruntime", "plain"] | None,
        "types of activations and biases: those of ONNX Runtime's kernels, or int8 with zero "
        "point 0 and float; none: by the target",
    ] = None

    def resolve(self, model: ir.Model, ctx: Context) -> Freeze:
        """Take the form of the target where the user chose none."""
        del model
        return dataclasses.replace(self, form=self.form or FORMS[ctx.target])

    def asks_model(self, ctx: Context) -> bool:
        """Never: the target decides."""
        del ctx
        return False

    def wants_samples(self) -> bool:
        """Never: ranges are in the quantizers."""
        return False

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Replace every Q of a constant by its result; sparsity claims move to the codes."""
        del ctx
        names = edit.Names(model)
        frozen: list[str] = []
        skipped: list[Finding] = []
        for graph in model.graphs():
            for node in list(graph):
                weight = node.inputs[0] if query.is_op(node, "QuantizeLinear") else None
                if weight is None or query.constant_behind(weight) is not weight:
                    continue
                if claims.PASS not in node.metadata_props:
                    skipped.append(
                        Finding(
                            rule="foreign-quantizer",
                            where=node.name or "",
                            reason="was in the model before; left as it is",
                        )
                    )
                    continue
                frozen.append(_freeze(graph, node, weight, names))
        metrics = {"weights": len(frozen)}
        if self.form == "onnxruntime":
            metrics |= integer_form.write(model)
        return PassResult(changed=tuple(frozen), skipped=tuple(skipped), metrics=metrics)


def _freeze(graph: ir.Graph, node: ir.Node, weight: ir.Value, names: edit.Names) -> str:
    scale, zero = node.inputs[1], node.inputs[2]
    assert scale is not None
    assert zero is not None
    assert scale.const_value is not None
    assert weight.const_value is not None
    text = scale.metadata_props[claims.QUANTIZER]
    scheme = QuantScheme.parse(text, narrow=True)
    codes = quantize(weight.const_value.numpy(), scale.const_value.numpy(), scheme)
    value = edit.new_initializer(graph, names.fresh(f"{weight.name}.codes"), codes)
    claim = claims.sparsity_of(weight)
    if claim is not None:
        value.metadata_props[claims.SPARSITY] = str(claim)
    node.outputs[0].replace_all_uses_with(value)
    graph.remove(node, safe=True)
    edit.drop_unused(graph, [weight])
    return value.name or ""

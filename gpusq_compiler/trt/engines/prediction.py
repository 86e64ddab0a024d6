"""What is known of every product of a model before an engine is built.

A weight that is 2:4 along the summed axis makes a layer *eligible*; whether a sparse kernel is
*chosen* only the builder on a GPU decides. So a prediction says of a layer that it is eligible
or not, and that no sparse kernel can be chosen or that one may be.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from typing import TYPE_CHECKING

from gpusq_compiler.ir import query
from gpusq_compiler.quant.placement.scene import Scene
from gpusq_compiler.sparsity import nm
from gpusq_compiler.trt.engines.names import name_of
from gpusq_compiler.trt.legality import layers
from gpusq_compiler.trt.legality.constants import code_type, prepared
from gpusq_compiler.trt.legality.legal import lint
from gpusq_compiler.trt.legality.rules import NEWEST, Diagnosis, Severity, Version, at_node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx_ir as ir

PAYS = 256
"""Channels from which on sparse kernels tend to win, as NVIDIA's maintainers say."""

WITH_SPARSE_KERNELS = frozenset({"int8", "float16", "bfloat16"})
OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One product with a constant weight, and what is known of it.

    Attributes:
        name: The node in the model.
        operator: Its operator.
        shape: Of its weight, as the node reads it.
        reads: Type in which it multiplies.
        writes: Type of what it hands on, behind bias and activation.
        eligible: Whether its weight has the pattern; None where a log does not tell.
        chosen: Whether a sparse kernel runs it; None where that is not known.
        tactic: The kernel, where an engine tells it.
        reason: The rule that says no, or what speaks against it.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    reads: str
    writes: str
    eligible: bool | None
    chosen: bool | None
    tactic: str = ""
    reason: str = ""


def predict(model: ir.Model, version: Version = NEWEST) -> tuple[Layer, ...]:
    """Every product with a constant weight, in graph order.

    Args:
        model: Left as it is.
        version: Whose rules hold.
    """
    clone = prepared(model)
    uses = tuple(query.weight_uses(clone))
    scene = Scene(graph=clone.graph, layers=uses)
    spoken: dict[str, list[Diagnosis]] = defaultdict(list)
    for diagnosis in lint(model, version):
        spoken[diagnosis.place.where].append(diagnosis)
    return tuple(_layer(use, scene, spoken) for use in uses)


def _layer(
    use: query.WeightUse, scene: Scene, spoken: Mapping[str, Sequence[Diagnosis]]
) -> Layer:
    said = [one for node in _concerned(use) for one in spoken.get(at_node(node, "").where, ())]
    end = layers.layer_end(scene, use.node)
    reads = _multiplies_in(use, said)
    writes = "int8" if layers.is_quantized(end) else _type(end)
    no_pattern = _no_sparse_form(use) or _not_sparse(use, said)
    no = no_pattern or _no_kernel(reads, writes, said)
    return Layer(
        name=name_of(use.node),
        operator=use.node.op_type,
        shape=use.shape,
        reads=reads,
        writes=writes,
        eligible=not no_pattern,
        chosen=False if no else None,
        reason=no or _doubt(use),
    )


def drawback(use: query.WeightUse) -> str:
    """Why no sparse kernel takes a layer, or why it tends to lose; empty where it may pay.

    It is told from the shape alone, for a weight that has the pattern or is to get it.
    """
    return _no_sparse_form(use) or _doubt(use)


def _concerned(use: query.WeightUse) -> Iterator[ir.Node]:
    """The node and the quantizers on its two factors."""
    yield use.node
    yield from use.path
    value = use.activation
    producer = None if value is None else value.producer()
    while producer is not None and producer.op_type in (*query.QUANTIZERS, "Cast"):
        yield producer
        value = producer.inputs[0]
        producer = None if value is None else value.producer()


def _multiplies_in(use: query.WeightUse, said: Sequence[Diagnosis]) -> str:
    """INT8 where both factors are such codes and no rule makes the product run in float."""
    slow = any(one.severity is Severity.SLOW for one in said)
    codes = {code_type(node) for node in use.path if query.is_op(node, "DequantizeLinear")}
    if codes and codes <= layers.EIGHT_BITS and layers.is_dequantized(use) and not slow:
        return "int8"
    return _type(use.node.outputs[0])


def _type(value: ir.Value) -> str:
    if value.dtype is None:
        return "float32"
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(
        value.dtype.name, value.dtype.name.lower()
    )


def _no_sparse_form(use: query.WeightUse) -> str:
    """Why there is no sparse kernel for such a layer; empty if there is."""
    if use.node.op_type not in OPERATORS:
        return f"there are sparse kernels for {', '.join(OPERATORS)}, not {use.node.op_type}"
    if use.depthwise:
        return "depthwise: each group has one channel"
    if len(use.shape) > 2 and use.node.op_type != "Conv":
        return "its weight is a batch of matrices"
    if not nm.TWO_OF_FOUR.fits(use.reduction_length):
        return f"its reduction length {use.reduction_length} is no multiple of 4"
    return ""


def _not_sparse(use: query.WeightUse, said: Sequence[Diagnosis]) -> str:
    """Why the weight is not 2:4 where sparse kernels want it; empty if it is."""
    weight = layers.as_read(use)
    if weight is None:
        return "the layout of its weight is not known"
    broken = len(nm.violations(weight, axis=use.reduction))
    if not broken:
        return ""
    wrong = next((one for one in said if one.rule.name == "sparse-axis"), None)
    if wrong is not None:
        return _told(wrong)
    return f"not 2:4: {broken} of {weight.size // 4} groups of four hold more than two values"


def _no_kernel(reads: str, writes: str, said: Sequence[Diagnosis]) -> str:
    """Why no sparse kernel can take a weight that has the pattern; empty if one may."""
    for severity in (Severity.REFUSED, Severity.DIFFERS, Severity.SPARSE):
        found = next((one for one in said if one.severity is severity), None)
        if found is not None:
            return _told(found)
    if reads == "int8" != writes:
        return f"float-output: it writes {writes}"
    if reads not in WITH_SPARSE_KERNELS:
        slow = next((one for one in said if one.severity is Severity.SLOW), None)
        why = "" if slow is None else f" ({_told(slow)})"
        return f"it multiplies in {reads}, sparse kernels in int8 or half precision{why}"
    return ""


def _told(diagnosis: Diagnosis) -> str:
    return f"{diagnosis.rule.name}: {diagnosis.place.what}"


def _doubt(use: query.WeightUse) -> str:
    """What makes a sparse kernel unlikely to be the fastest; empty where nothing does."""
    taps = math.prod(use.shape[2:]) if use.node.op_type == "Conv" else 1
    summed, channels = use.reduction_length * taps, use.shape[use.channel]
    if min(summed, channels) >= PAYS:
        return ""
    return f"narrow, {summed} to {channels}: dense tends to win below {PAYS}"

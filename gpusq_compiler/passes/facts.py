"""Facts about a model and how each is verified: on the values, never by trust."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.errors import ModelError, OptionError, PreconditionError
from gpusq_compiler.ir import claims, packed, query, tensors
from gpusq_compiler.parallel import in_order
from gpusq_compiler.passes.base import Fact, Finding
from gpusq_compiler.quant.arithmetic import along
from gpusq_compiler.sparsity import nm

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array

Verifier = Callable[[ir.Model], Iterator[Finding]]


def verify(model: ir.Model, fact: Fact) -> tuple[Finding, ...]:
    """Everything that speaks against the fact; empty means that it holds."""
    return tuple(VERIFIERS[fact](model))


def present(model: ir.Model) -> frozenset[Fact]:
    """The facts that hold for this model, found by looking at it."""
    claimed = {Fact.CANONICAL}
    if any(True for _ in claims.sparse_values(model)):
        claimed.add(Fact.SPARSE)
    if any(True for _ in quantizers(model)):
        claimed |= {Fact.QDQ, Fact.FROZEN}
    if claims.TENSORRT in model.metadata_props:
        claimed.add(Fact.TRT_LEGAL)
    if is_packed(model):
        claimed = (claimed | {Fact.PACKED}) - {Fact.QDQ, Fact.SPARSE, Fact.TRT_LEGAL}
    return frozenset(fact for fact in claimed if not verify(model, fact))


def is_packed(model: ir.Model) -> bool:
    """Whether any weight is stored packed."""
    return any(True for _ in packed.packed_values(model))


def broken_claims(model: ir.Model) -> tuple[Finding, ...]:
    """Claims written on the model that its values do not keep."""
    legal = claims.TENSORRT in model.metadata_props and not is_packed(model)  # else later
    facts = (Fact.SPARSE, Fact.QDQ, Fact.PACKED, *([Fact.TRT_LEGAL] if legal else []))
    return tuple(finding for fact in facts for finding in verify(model, fact))


def canonical(model: ir.Model) -> Iterator[Finding]:
    """No functions, no Constant nodes, every node with a name of its own."""
    if model.functions:
        yield Finding(
            rule="function",
            where=str(next(iter(model.functions))),
            reason=f"{len(model.functions)} functions are not inlined",
        )
    for graph in model.graphs():
        nodes = list(graph)
        for node in nodes:
            if query.is_op(node, "Constant"):
                yield Finding(
                    rule="constant-node",
                    where=node.name or "",
                    reason="a constant stands as a node, not as an initializer",
                )
        for name, count in Counter(node.name for node in nodes).items():
            if count > 1 or not name:
                yield Finding(
                    rule="node-name", where=name or "", reason=f"{count} nodes share the name"
                )


def sparse(model: ir.Model) -> Iterator[Finding]:
    """Every tensor with a sparsity claim obeys it, in float and as the codes it becomes."""
    claimed = list(claims.sparse_values(model))
    for (value, _), broken in zip(claimed, in_order(_sparse, claimed), strict=True):
        if broken:
            where = f"tensor '{value.name}'"
            yield Finding(rule="sparsity-claim", where=where, reason=broken)


def _sparse(claimed: tuple[ir.Value, claims.Sparsity]) -> str:
    """What speaks against the claim on a weight; empty if nothing."""
    value, claim = claimed
    assert value.const_value is not None
    weight = tensors.values(value.const_value)
    broken = _broken(weight, claim).format("")
    codes = None if broken else _codes(value, weight)
    return broken if codes is None else _broken(codes, claim).format(" in its integer codes")


def _broken(array: Array, claim: claims.Sparsity) -> str:
    """What speaks against a claim, with a gap for the form of the values; empty if nothing."""
    try:
        pattern = nm.NM.parse(claim.pattern)
        bad = nm.violations(array, pattern, axis=claim.axis)
    except (OptionError, PreconditionError) as error:
        return f"{claim} cannot hold{{}}: {error.what}"
    if not len(bad):
        return ""
    group = nm.describe(array, int(bad[0]), pattern, axis=claim.axis)
    return f"{len(bad)} groups break {claim}{{}}, the first: {group}"


def _codes(value: ir.Value, weight: Array) -> Array | None:
    """What QuantizeLinear makes of a weight; None where none reads it."""
    for node, index in value.uses():
        if query.is_op(node, "QuantizeLinear") and index == 0:
            scale = node.inputs[1]
            if scale is None or scale.const_value is None:
                continue
            step = along(
                scale.const_value.numpy(), weight.ndim, query.int_attribute(node, "axis", 1)
            )
            codes: Array = np.rint(weight.astype(np.float32) / step)
            return codes
    return None


def quantizers(model: ir.Model) -> Iterator[ir.Node]:
    """Every QuantizeLinear and DequantizeLinear that is ours; others make no promise."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        ours = claims.PASS in node.metadata_props
        if ours and query.is_op(node, "QuantizeLinear", "DequantizeLinear"):
            yield node


def quantized(model: ir.Model) -> Iterator[Finding]:
    """Our Q/DQ nodes have positive finite constant scales, and int8 codes zero point 0.

    The zero point of unsigned codes is a constant: 0 is a code, and so no sparse zero moves.
    """
    for node in quantizers(model):
        where = node.name or ""
        scale = node.inputs[1]
        tensor = scale.const_value if scale is not None else None
        if tensor is None:
            yield Finding(rule="scale", where=where, reason="the scale is not a constant")
            continue
        steps = tensor.numpy().astype(np.float64)
        if not np.all(np.isfinite(steps) & (steps > 0)):
            bad = int(np.argmin(np.isfinite(steps) & (steps > 0)))
            yield Finding(
                rule="scale",
                where=where,
                reason=f"scale {bad} is {steps.reshape(-1)[bad]}, not a positive number",
            )
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        if zero is not None and not _keeps_zero(zero.const_value):
            yield Finding(rule="zero-point", where=where, reason="the zero point is not 0")


def _keeps_zero(zero: ir.TensorProtocol | None) -> bool:
    """Whether a zero point is one that we write."""
    if zero is None:
        return False
    return zero.dtype == ir.DataType.UINT8 or not np.any(zero.numpy().astype(np.int64))


def frozen(model: ir.Model) -> Iterator[Finding]:
    """No weight stands as float behind a QuantizeLinear of ours any more."""
    for node in quantizers(model):
        if node.op_type == "QuantizeLinear" and query.constant_behind(node.inputs[0]):
            yield Finding(
                rule="float-weight", where=node.name or "", reason="the weight is still float"
            )


def stored_packed(model: ir.Model) -> Iterator[Finding]:
    """Every packed weight can be read, and its codes obey the claim that stands on it."""
    for value in packed.packed_values(model):
        where = f"tensor '{value.name}'"
        claim = claims.sparsity_of(value)
        if claim is None:
            yield Finding(rule="packed-claim", where=where, reason="claims no pattern")
            continue
        try:
            broken = _broken(packed.read(value).codes(), claim)
        except ModelError as error:
            broken = error.what
        if broken:
            reason = broken.format(" in what is stored")
            yield Finding(rule="packed-claim", where=where, reason=reason)


def trt_legal(model: ir.Model) -> Iterator[Finding]:
    """Nothing in the model is refused by the version of TensorRT that it was lowered for."""
    from gpusq_compiler.trt.legality.legal import refusals
    from gpusq_compiler.trt.legality.rules import NEWEST, Version

    text = model.metadata_props.get(claims.TENSORRT, str(NEWEST))
    try:
        version = Version.parse(text)
    except OptionError as error:
        yield Finding(rule="tensorrt-claim", where="model", reason=error.what)
        return
    for one in refusals(model, version):
        reason = f"TensorRT {version} refuses it: {one.place.what}"
        yield Finding(rule=one.rule.name, where=one.place.where, reason=reason)


VERIFIERS: Mapping[Fact, Verifier] = {
    Fact.CANONICAL: canonical,
    Fact.SPARSE: sparse,
    Fact.QDQ: quantized,
    Fact.FROZEN: frozen,
    Fact.PACKED: stored_packed,
    Fact.TRT_LEGAL: trt_legal,
}

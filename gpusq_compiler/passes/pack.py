"""pack: sparse integer weights are stored without their zeros, as the hardware stores them.

5 0 0 -7  →  5 -7 and the positions 0 3, at 2 bits each: 20 bits for 32 at INT8 and 2:4

For the file: ONNX Runtime unpacks when it loads it, and so does `io.load`. The function stays
the same to the last bit. The form itself is in `ir/packed/`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import onnx_ir as ir

from gpusq_compiler.errors import OptionError
from gpusq_compiler.ir import claims, edit, packed, query
from gpusq_compiler.passes.base import Cell, Fact, Finding, Pass, PassResult
from gpusq_compiler.sparsity.nm import NM, mask_from_zeros

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.passes.base import AnyModel, Context


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pack(Pass):
    """Store sparse integer weights without their zeros; they unpack when the file is loaded.

    Outputs stay to the last bit; `unpack` gives the same codes back.
    ``gpusq passes show pack`` explains the options.
    """

    name: ClassVar[str] = packed.AUTHOR
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.FROZEN})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.PACKED})
    breaks: ClassVar[frozenset[Fact]] = frozenset({Fact.QDQ, Fact.SPARSE, Fact.TRT_LEGAL})
    lossy: ClassVar[bool] = False

    least: Annotated[int, "bytes that a tensor has to save; its nodes take some 600"] = 768

    def __post_init__(self) -> None:
        """Refuse a number that cannot be."""
        if self.least < 0:
            raise OptionError(
                f"{self.least} is too small", where=f"{self.name}.least", remedy=">= 0"
            )

    def resolve(self, model: ir.Model, ctx: Context) -> Pack:
        """Refuse, before anything runs, a target that cannot read what is packed."""
        del model
        if ctx.target == "tensorrt":
            raise OptionError(
                "TensorRT's parser does not take packed files",
                where=f"pass '{self.name}'",
                remedy="Leave pack out; for storage: gpusq pack, and gpusq unpack to build",
            )
        return self

    def asks_model(self, ctx: Context) -> bool:
        """Never: the target decides."""
        del ctx
        return False

    def wants_samples(self) -> bool:
        """Never: codes are stored."""
        return False

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Pack every eligible tensor of every graph."""
        del ctx
        names = edit.Names(model)
        skipped: list[Finding] = []
        rows: list[dict[str, Cell]] = []
        for graph in model.graphs():
            weights: dict[ir.Value, packed.Packed] = {}
            for value in _candidates(graph):
                found = self._packed(value)
                if isinstance(found, Finding):
                    skipped.append(found)
                else:
                    weights[value] = found
                    rows.append(_row(value, found))
            if weights:
                packed.store(graph, weights, names)
        return PassResult(
            changed=tuple(str(row["tensor"]) for row in rows),
            skipped=tuple(skipped),
            metrics={
                "weights": len(rows),
                "codes_bytes": sum(int(row["codes_bytes"] or 0) for row in rows),
                "packed_bytes": sum(int(row["packed_bytes"] or 0) for row in rows),
            },
            tables={"tensors": rows},
        )

    def is_worth(self, saved: int) -> bool:
        """Whether a tensor is packed that so many bytes smaller then."""
        return saved >= max(1, self.least)

    def _packed(self, value: ir.Value) -> packed.Packed | Finding:
        """The stored form of a tensor, or why it is left as it is."""
        claim = claims.sparsity_of(value)
        tensor = value.const_value
        assert tensor is not None
        if claim is None:
            return _left(value, "dense", "claims no pattern, so no zeros to leave out")
        if tensor.dtype != ir.DataType.INT8:
            kind = tensor.dtype.name.lower()
            return _left(value, "not-int8", f"holds {kind} values, not int8 codes")
        if value.is_graph_output() or value.is_graph_input():
            return _left(value, "interface", "is also an input or output of its graph")
        pattern = NM.parse(claim.pattern)
        codes = tensor.numpy()
        mask = mask_from_zeros(codes, pattern, axis=claim.axis)
        units = {"n": pattern.n, "m": pattern.m, "unit": pattern.unit}
        form = packed.pack(codes, mask, axis=claim.axis, **units)
        if form is None:
            reason = f"the positions of {pattern} take more than 4 bits each"
            return _left(value, "wide-pattern", reason)
        saved = int(codes.nbytes) - form.nbytes
        if not self.is_worth(saved):
            asked = f", less than {self.least}" if self.least else ""
            reason = f"packing saves {saved} of {codes.nbytes} bytes{asked}"
            return _left(value, "small", reason)
        return form


def unpack(model: AnyModel) -> AnyModel:
    """A copy of a model as it was before `Pack`.

    Args:
        model: An ``onnx_ir.Model`` or an ``onnx.ModelProto``.

    Returns:
        The same kind of object; weights are integer codes with their zeros.

    Raises:
        ModelError: A packed weight was changed by somebody else.
    """
    copy = model.clone() if isinstance(model, ir.Model) else ir.from_proto(model)
    packed.unpack(copy)
    answer: Any = copy if isinstance(model, ir.Model) else ir.to_proto(copy)
    return cast("AnyModel", answer)


def _candidates(graph: ir.Graph) -> Iterator[ir.Value]:
    """Weights that claim a pattern or that a quantizer of ours reads, in graph order."""
    for value in list(graph.initializers.values()):
        if value.const_value is None or value.dtype == ir.DataType.INT32:  # a bias
            continue
        if claims.sparsity_of(value) is not None or any(
            index == 0 and claims.PASS in node.metadata_props and query.is_op(node, "DequantizeLinear")
            for node, index in value.uses()
        ):
            yield value


def _left(value: ir.Value, rule: str, reason: str) -> Finding:
    return Finding(rule=rule, where=value.name or "", reason=reason)


def _row(value: ir.Value, form: packed.Packed) -> dict[str, Cell]:
    assert value.const_value is not None
    return {
        "tensor": value.name or "",
        "shape": "x".join(map(str, form.shape)),
        "claim": str(claims.sparsity_of(value)),
        "codes_bytes": int(value.const_value.nbytes),
        "packed_bytes": form.nbytes,
    }

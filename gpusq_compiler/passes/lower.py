"""lower: the frozen model in the form and the types that TensorRT takes.

    codes ─▶ DQ ─▶ MatMul ─▶ Add ─▶ Q           float32, as `freeze` left it
    codes ─▶ DQ ─▶ MatMul ─▶ Add ─▶ Q           float16: scales, bias and what is computed

A strongly typed TensorRT (10 by choice, 11 always) computes in the types that the file has,
so what is not quantized becomes half precision here. What would not survive that stays
float32, each with its reason (`trt.wide`). No quantizer is added, removed or moved: what was
trained is what ships. TensorRT 8.6 chooses types itself, and its file stays float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from gpusq_compiler.calibration.magnitudes import Magnitudes, magnitudes
from gpusq_compiler.calibration.padding import by_length
from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.errors import OptionError, PreconditionError
from gpusq_compiler.ir import claims, edit, opset, query
from gpusq_compiler.ir.changes import Snapshot
from gpusq_compiler.passes.base import Fact, Finding, Pass, PassResult
from gpusq_compiler.passes.selection import matching
from gpusq_compiler.trt.half import norms, scales
from gpusq_compiler.trt.legality.legal import lint, refusals
from gpusq_compiler.trt.half.narrow import narrow
from gpusq_compiler.trt.legality.repair import repair
from gpusq_compiler.trt.legality.rules import Severity, Version
from gpusq_compiler.trt.half.wide import Kept, Sight, kept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.passes.base import Context
    from gpusq_compiler.trt.engines.options import EngineOptions

HALVES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
SCALES_OPSET = 19
"""Since then a scale may be half precision."""
TYPED = 10
"""The first major version whose engines can have the types of the file."""
BATCH_SIZE = 8
NOT_FOR_ONNXRUNTIME = (
    "ONNX Runtime's CPU does not compute float16 quantizers as ONNX says; what is measured here "
    "has casts around them. A file to run on it: lower.rest=fp32"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lower(Pass):
    """Make a frozen model legal for TensorRT, and half precision where it is not quantized.

    Quantizers stay where they are. It looks at magnitudes on samples of the context.
    ``gpusq passes show lower`` explains the options.
    """

    name: ClassVar[str] = "lower"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.FROZEN})
    refuses: ClassVar[frozenset[Fact]] = frozenset({Fact.PACKED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.TRT_LEGAL})

    tensorrt: Annotated[str, "version that the file is for: 8.6, 10 or 11"] = "11"
    rest: Annotated[
        Literal["fp16", "bf16", "fp32"], "type of what is not quantized; 8.6 chooses itself"
    ] = "fp16"
    float32: Annotated[
        tuple[str, ...], "nodes, tensors, operators or regexes that stay float32 in any case"
    ] = ()
    samples: Annotated[int, "samples on which magnitudes are looked at, at most"] = 128

    def __post_init__(self) -> None:
        """Refuse a version that is not known, and numbers that cannot be."""
        try:
            Version.parse(self.tensorrt)
        except OptionError as error:
            raise OptionError(
                error.what, where=f"{self.name}.tensorrt", remedy=error.remedy
            ) from error
        if self.samples < 1:
            raise OptionError(
                f"{self.samples} is too small", where=f"{self.name}.samples", remedy=">= 1"
            )

    @property
    def version(self) -> Version:
        """Of TensorRT."""
        return Version.parse(self.tensorrt)

    def builder_options(self, options: EngineOptions) -> EngineOptions:
        """Where TensorRT chooses types itself, the options of its builder say the rest."""
        if self.version.major >= TYPED or options.fp16 is not None:
            return options
        return dataclasses.replace(options, fp16=self.rest == "fp16")

    def resolve(self, model: ir.Model, ctx: Context) -> Lower:
        """Say before anything runs what no pass can make acceptable.

        Raises:
            PreconditionError: TensorRT would refuse the outcome.
        """
        del ctx
        self._legal(model)
        return self

    def _legal(self, model: ir.Model) -> ir.Model:
        """The model, or where TensorRT would refuse it, a repaired one."""
        if not refusals(model, self.version):
            return model
        repaired = repair(model).model
        left = refusals(repaired, self.version)
        if left:
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise PreconditionError(
                f"TensorRT {self.version} refuses the model: {left[0].place.what}{more}",
                where=left[0].place.where,
                remedy=left[0].place.remedy or left[0].rule.remedy,
            )
        return repaired

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Repair, look at magnitudes, convert.

        Raises:
            PreconditionError: TensorRT would refuse the outcome.
        """
        before = Snapshot(model)
        edit.infer_shapes(model)
        legal = self._legal(model)
        if legal is not model:
            model.graph = legal.graph
            model.functions.clear()
            edit.infer_shapes(model)
        findings, casts = self._convert(model, ctx)
        model.metadata_props[claims.TENSORRT] = str(self.version)
        changes = before.until(Snapshot(model))
        changed = (*changes.nodes, *changes.tensors, *changes.interface)
        return PassResult(
            changed=changed or tuple(key.partition(":")[0] for key in changes.metadata),
            skipped=(*findings, *self._left(model)),
            metrics={"float32": len(findings), "casts": casts},
        )

    def _convert(self, model: ir.Model, ctx: Context) -> tuple[list[Finding], int]:
        """The rest in half precision; what stays float32, and how many casts there are."""
        kind = native_half(model) or HALVES.get(self.rest)
        if self.rest == "fp32" or kind is None:
            return [], 0
        if self.version.major < TYPED:
            reason = "TensorRT 8.6 chooses types itself: build with its flag FP16 or BF16"
            return [Finding(rule="weakly-typed", where="model", reason=reason)], 0
        findings = list(_raised(model))
        if kind == ir.DataType.FLOAT16:
            ctx.events.note(NOT_FOR_ONNXRUNTIME)
        left = list(self._kept(model, ctx, kind))
        casts = narrow(model, {one.node for one in left}, kind, author=self.name)
        listed = {(one.rule, one.where): one for one in left if one.rule != "native"}
        findings += [
            Finding(rule=one.rule, where=one.where, reason=f"float32: {one.reason}")
            for one in listed.values()
        ]
        reason = "float32 inside: stash_type says so of its statistics"
        opset_now = model.opset_imports.get("", 0)
        for node in norms.float_inside(model.graph, opset_now):
            if node.inputs[0] is not None and node.inputs[0].dtype == kind:
                findings.append(Finding(rule="norm", where=node.name or "", reason=reason))
        return findings, casts

    def _kept(self, model: ir.Model, ctx: Context, kind: ir.DataType) -> Iterator[Kept]:
        if native_half(model):
            yield from _chosen_by_the_author(model)
            return
        seen = self._look(model, ctx)
        yield from kept(
            Sight(
                graph=model.graph,
                kind=kind,
                opset=model.opset_imports.get("", 0),
                largest=seen.largest,
                rows=seen.rows,
            )
        )
        for node, scale in scales.misfits(model.graph, kind):
            reason = f"its scale {scale:.3g} is too small for {kind.name.lower()}"
            yield Kept(node=node, rule="scale", where=node.name or "", reason=reason)
        yield from self._named(model)

    def _look(self, model: ir.Model, ctx: Context) -> Magnitudes:
        data = ctx.samples(self.name)
        order = ctx.rng(self.name).permutation(data.count)[: self.samples]
        return magnitudes(
            model,
            by_length(Subset(data, np.sort(order))),
            batch_size=BATCH_SIZE,
            threads=ctx.threads,
            device=ctx.device,
            events=ctx.events,
        )

    def fitting(self, model: ir.Model) -> Lower:
        """The same, without entries of ``float32`` that name nothing in another model."""
        names = _names(model)
        left = []
        for entry in self.float32:
            with contextlib.suppress(OptionError):
                left.append(next(matching((entry,), names, where=""))[1])
        return dataclasses.replace(self, float32=tuple(left))

    def _named(self, model: ir.Model) -> Iterator[Kept]:
        where = f"{self.name}.float32"
        for node, entry in matching(self.float32, _names(model), where=where):
            reason = f"named by '{entry}'"
            yield Kept(node=node, rule="user", where=node.name or "", reason=reason)

    def _left(self, model: ir.Model) -> Iterator[Finding]:
        """What TensorRT takes, but not as fast as it could."""
        others = [severity for severity in Severity if severity is not Severity.REFUSED]
        for one in lint(model, self.version, others):
            reason = f"{one.severity.value}: {one.place.what}"
            yield Finding(rule=one.rule.name, where=one.place.name, reason=reason)


def _names(model: ir.Model) -> dict[ir.Node, tuple[str, ...]]:
    """What users may call each node of the main graph: also what it reads and writes."""
    return {
        node: (node.name or "", node.op_type, *(value.name or "" for value in tensors))
        for node in model.graph
        for tensors in [(*node.outputs, *filter(None, node.inputs))]
    }


def native_half(model: ir.Model) -> ir.DataType | None:
    """The half precision that the author of a model chose for it, if any."""
    for value in model.graph.initializers.values():
        if value.dtype in HALVES.values():
            return value.dtype
    inputs = (value.dtype for value in model.graph.inputs)
    computed = (value.dtype for node in model.graph for value in node.outputs)
    return next((kind for kind in (*inputs, *computed) if kind in HALVES.values()), None)


def _chosen_by_the_author(model: ir.Model) -> Iterator[Kept]:
    """In a model that is half precision already, all float32 but that around our pairs."""
    single = ir.TensorType(ir.DataType.FLOAT)
    for node in model.graph:
        values = (value for value in (*node.inputs, *node.outputs) if value is not None)
        ours = node.metadata_props.get(claims.PASS) == "quantize"
        if not ours and any(value.type == single for value in values):
            yield Kept(node=node, rule="native", where="", reason="its author chose so")


def _raised(model: ir.Model) -> Iterator[Finding]:
    """Scales in half precision need an opset that knows them."""
    current = model.opset_imports.get("", SCALES_OPSET)
    if current >= SCALES_OPSET or not any(
        query.is_op(node, *query.QUANTIZERS) for node in model.graph
    ):
        return
    reason = opset.obstacle(model, SCALES_OPSET)
    if reason is None:
        opset.lift(model, SCALES_OPSET)
    else:
        reason = f"scales stay float32, with casts around them: {reason}"
        yield Finding(rule="opset", where=model.graph.outputs[0].name or "", reason=reason)

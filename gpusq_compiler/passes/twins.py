"""The three models that a sparse INT8 one is compared with, made beside it.

    dense-fp16     the model as it was read, lowered
    dense-int8     dense weights in the quantizers of the result: same sites, same scales of
                   activations; scales of weights from the dense weights
    sparse-fp16    the result's weights before they became codes, without quantizers

Each differs from another in one thing alone, so that a latency can be put down to it: what
sparsity gains is dense INT8 over sparse INT8, not FP16 over sparse INT8.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.errors import FileError, OptionError, PassBug
from gpusq_compiler.ir import claims, edit, io, own, query
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.base import Fact
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.lower import Lower
from gpusq_compiler.quant.arithmetic import weight_scales
from gpusq_compiler.quant.scheme import QuantScheme
from gpusq_compiler.runtime.events import Silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from gpusq_compiler.passes.base import Context, Pass
    from gpusq_compiler.passes.pipeline import PassReport

TWIN = claims.PREFIX + "twin"
NEEDED = ("quantize", "freeze", "lower")


class Twins:
    """Watches a pipeline and makes the twins of what comes out of it.

    Args:
        passes: Of the pipeline.
        dense: The model as it was read; not modified.

    Attributes:
        names: Of the twins.

    Raises:
        OptionError: The passes do not lead from a dense model to a lowered one.
    """

    def __init__(self, passes: Sequence[Pass], dense: ir.Model) -> None:
        require_plan(passes)
        rest = next(step.rest for step in passes if isinstance(step, Lower))
        self.names = (f"dense-{rest}", "dense-int8", f"sparse-{rest}")
        self._dense = dense.clone()
        self._trained = self._dense
        self._lossy = self._frozen = False
        self._lower = Lower()

    def __call__(self, report: PassReport, model: ir.Model) -> None:
        """Keep the model before the first lossy pass, and before its weights become codes."""
        self._lossy |= report.ran.lossy
        self._frozen |= report.ran.name == Freeze.name
        if not self._lossy:
            self._dense = model.clone()
        if not self._frozen:
            self._trained = model.clone()
        if isinstance(report.ran, Lower):
            self._lower = report.ran

    def models(self, ctx: Context) -> Iterator[tuple[str, ir.Model]]:
        """Each twin by name, lowered as the result was.

        Raises:
            PassBug: One is not what it should be.
        """
        silent = dataclasses.replace(ctx, events=Silent())  # all was said of the result
        made = (
            self._dense.clone(),
            _densified(self._trained.clone(), self._dense, ctx),
            unquantized(self._trained.clone()),
        )
        for name, model in zip(self.names, made, strict=True):
            self._lower.fitting(model).rewrite(model, silent)
            model.metadata_props[TWIN] = name
            _require_sound(name, model)
            yield name, model


def require_plan(passes: Sequence[Pass]) -> None:
    """Refuse passes that do not lead from a dense model to a lowered one.

    Raises:
        OptionError: Names what is missing.
    """
    missing = [name for name in NEEDED if name not in {step.name for step in passes}]
    if missing:
        raise OptionError(
            f"the plan has no pass '{missing[0]}', and twins are made of what it does",
            where="--twins",
            remedy="Compile a dense model with --target tensorrt",
        )


@contextlib.contextmanager
def written_whole(models: Mapping[Path, ir.Model]) -> Iterator[list[io.Written]]:
    """Write models, all of them or none, also where the block ends badly."""
    done: list[io.Written] = []
    made = [folder for folder in {path.parent for path in models} if not folder.exists()]
    try:
        for folder in made:
            _make(folder)
        for path, model in models.items():
            done.append(io.save(model, path))  # one by one: a later one may fail
        yield done
    except BaseException:
        for file in (file for one in done for file in (one.path, one.data)):
            if file is not None:
                file.unlink(missing_ok=True)
        for folder in made:
            with contextlib.suppress(OSError):  # somebody else put something there
                folder.rmdir()
        raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise FileError(
            f"the folder cannot be made: {error.strerror}",
            where=str(folder),
            remedy="Choose another with --twins",
        ) from error


def _require_sound(name: str, model: ir.Model) -> None:
    io.check(model, author=f"twin {name}")
    for fact in (Fact.SPARSE, Fact.QDQ, Fact.FROZEN, Fact.TRT_LEGAL):
        broken = facts.verify(model, fact)
        if broken:
            raise PassBug(
                f"{fact.value} does not hold: {broken[0]}",
                where=f"twin {name}",
                remedy="This is a bug: leave --twins out",
            )


def unquantized(model: ir.Model) -> ir.Model:
    """A model, edited, without our quantizers: who read a pair reads what it quantized.

    Its weights are still float: `freeze` has not run.
    """
    for node in list(facts.quantizers(model)):
        if node.op_type != "DequantizeLinear":
            continue
        codes, graph = node.inputs[0], node.graph
        quantizer = None if codes is None else codes.producer()
        assert quantizer is not None, "weights are float until they are frozen"
        assert graph is not None
        source = quantizer.inputs[0]
        assert source is not None
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)
    for node in list(facts.quantizers(model)):
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        graph.remove(node, safe=True)
    for graph in model.graphs():
        edit.drop_unused(graph, _scales(graph))
    return model


def _scales(graph: ir.Graph) -> list[ir.Value]:
    """Scales and zero points that `quantize` made."""
    made = [v for v in graph.initializers.values() if claims.QUANTIZER in v.metadata_props]
    zeros = [v for v in graph.initializers.values() if v.dtype == ir.DataType.INT8]
    return [*made, *zeros]


def _densified(model: ir.Model, dense: ir.Model, ctx: Context) -> ir.Model:
    """With the dense model's parameters in every place, and frozen."""
    parameters = {
        name: value for graph in dense.graphs() for name, value in graph.initializers.items()
    }
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if name in parameters and value.dtype in query.FLOATS:
                _restore(value, parameters[name])
    layers = {use.node.name: use for use in query.weight_uses(dense)}
    for use in query.weight_uses(model):
        twin = layers.get(use.node.name)
        if twin is None:
            raise PassBug("has no dense twin", where=f"node '{use.node.name}'")
        if use.quantized and not use.relaid:
            edit.replace_weight(use.value, own.laid_out(twin))
        use.value.metadata_props.pop(claims.SPARSITY, None)
        _rescale(use)
    Freeze().rewrite(model, ctx)
    return model


def _restore(value: ir.Value, dense: ir.Value) -> None:
    tensor = dense.const_value
    assert tensor is not None
    if tensor.dtype == value.dtype:
        value.const_value = tensor
    else:  # a half precision weight is float32 before its quantizer
        edit.replace_weight(value, tensor.numpy())


def _rescale(use: query.WeightUse) -> None:
    """Scales of a weight from its values."""
    assert use.value.const_value is not None
    weight = use.value.const_value.numpy()
    for node, _ in use.value.uses():
        scale = node.inputs[1] if query.is_op(node, "QuantizeLinear") else None
        text = "" if scale is None else scale.metadata_props.get(claims.QUANTIZER, "")
        if scale is not None and text:
            scheme = QuantScheme.parse(text, narrow=True)
            edit.replace_weight(scale, weight_scales(weight, scheme))

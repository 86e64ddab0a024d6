"""Every layer of a compressed model beside the same layer of the dense one."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.errors import DataError, ModelError
from gpusq_compiler.ir import claims, query, tensors
from gpusq_compiler.parallel import in_order
from gpusq_compiler.runtime.compare import compare
from gpusq_compiler.runtime.events import Events, Silent
from gpusq_compiler.runtime.metrics import decibel, energies
from gpusq_compiler.runtime.session import Session
from gpusq_compiler.sparsity.masking import kept_magnitude

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gpusq_compiler.ir.query import WeightUse
    from gpusq_compiler.runtime.compare import OutputDifference
    from gpusq_compiler.runtime.samples import Array, Samples

MOST_SAMPLES = 16
"""On which the outputs of all layers are compared, one by one: errors are averages over
thousands of values each, and memory holds all layers of one sample."""
SLICE = 1 << 22
"""Weights that are looked at together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer with a constant weight. What is not known is None.

    Attributes:
        layer: Its node.
        operator: Its operator.
        weight: The dense initializer.
        shape: Of the weight as the layer reads it: ``64x192``.
        parameters: Elements of the weight.
        pattern: ``2:4`` where the weight holds one.
        axis: The axis of the pattern.
        zeros: Share of zeros in the weight.
        kept_magnitude: Share of the dense weight's magnitude at the places that are not zero.
        scale_min: Smallest scale of the weight.
        scale_median: Half of the scales are larger.
        scale_max: Largest scale.
        input: The activation that it reads, as the dense model calls it.
        input_scale: The scale of that.
        weight_error: Root of the squared error over the squared dense weights; 0 if unchanged.
        weight_sqnr: The same in dB; None also where there is no error.
        output_cosine: Cosine of the layer's output to the dense one's, on samples.
        output_sqnr: Signal to error ratio of it in dB; None also where there is no error.
    """

    layer: str
    operator: str
    weight: str
    shape: str
    parameters: int
    pattern: str | None = None
    axis: int | None = None
    zeros: float | None = None
    kept_magnitude: float | None = None
    scale_min: float | None = None
    scale_median: float | None = None
    scale_max: float | None = None
    input: str | None = None
    input_scale: float | None = None
    weight_error: float | None = None
    weight_sqnr: float | None = None
    output_cosine: float | None = None
    output_sqnr: float | None = None


def layers(
    dense: ir.Model,
    model: ir.Model,
    samples: Samples | None,
    *,
    threads: int | None = None,
    device: str = "cpu",
    events: Events | None = None,
) -> tuple[Layer, ...]:
    """Compare every layer, in graph order.

    Args:
        dense: Left as it is; layers and tensors are known by name.
        model: Left as it is.
        samples: Both are run on the first of them; None leaves the outputs out.
        threads: Threads of the runtime.
        device: ``cpu``, ``cuda`` or ``auto``.
        events: Told where outputs cannot be compared.
    """
    before = {use.node.name: use for use in query.weight_uses(dense)}
    uses = [use for use in query.weight_uses(model) if use.node.name in before]
    outputs: Mapping[str, OutputDifference] = {}
    names = _shared(dense, model, [before[use.node.name] for use in uses])
    if samples is not None and names:
        few = Subset(samples, np.arange(min(samples.count, MOST_SAMPLES)))
        try:
            outputs = compare(
                dense, model, few, tensors=names, batch_size=1, threads=threads, device=device
            )
        except (ModelError, DataError) as error:
            (events or Silent()).note(f"outputs of layers are not compared: {error.what}")
    rows = zip(
        [_layer(before[use.node.name], use, outputs) for use in uses],
        _as_read(dense, [before[use.node.name] for use in uses]),
        _as_read(model, uses),
        uses,
        strict=True,
    )
    return tuple(in_order(lambda row: _compared(*row), rows, threads))


def _shared(dense: ir.Model, model: ir.Model, uses: Sequence[WeightUse]) -> list[str]:
    """Outputs of the dense layers that the model has too, in the same shape or an open one."""
    known = {value.name: value for node in model.graph for value in node.outputs}
    outputs = (use.node.outputs[0] for use in uses if use.node.graph is dense.graph)
    names = [
        value.name
        for value in outputs
        if value.name in known and _may_match(value, known[value.name])
    ]
    return list(dict.fromkeys(filter(None, names)))


def _may_match(value: ir.Value, other: ir.Value) -> bool:
    shapes = (value.shape, other.shape)
    return None in shapes or str(shapes[0]) == str(shapes[1])


def _layer(
    before: WeightUse, use: WeightUse, outputs: Mapping[str, OutputDifference]
) -> Layer:
    output = outputs.get(before.node.outputs[0].name or "")
    return Layer(
        layer=use.node.name or "",
        operator=use.node.op_type,
        weight=before.value.name or "",
        shape="x".join(map(str, use.shape)),
        parameters=math.prod(use.shape),
        **_scales(use),
        output_cosine=None if output is None else output.cosine,
        output_sqnr=None if output is None else output.sqnr,
    )


def _scales(use: WeightUse) -> dict[str, Any]:
    """What the quantizers before the layer's two operands say."""
    weight, _ = _quantizer(use.node.inputs[use.operand])
    step, source = _quantizer(use.activation)
    found: dict[str, Any] = {"input": None if source is None else source.name}
    if step is not None:
        found["input_scale"] = float(np.max(step))
    if weight is not None:
        found["scale_min"] = float(np.min(weight))
        found["scale_median"] = float(np.median(weight))
        found["scale_max"] = float(np.max(weight))
    return found


def _quantizer(value: ir.Value | None) -> tuple[Array | None, ir.Value | None]:
    """The constant scale of the pair that a value comes from, and what goes into the pair."""
    while value is not None and query.is_op(value.producer(), *query.LAYOUT):
        value = _read(value)
    if value is None or not query.is_op(value.producer(), "DequantizeLinear"):
        return None, value
    node = value.producer()
    assert node is not None
    scale = node.inputs[1]
    source = node.inputs[0]
    if source is not None and query.is_op(source.producer(), "QuantizeLinear"):
        source = _read(source)
        while source is not None and query.is_op(source.producer(), "Cast"):
            source = _read(source)
    tensor = None if scale is None else scale.const_value
    return None if tensor is None else tensor.numpy(), source


def _read(value: ir.Value) -> ir.Value | None:
    """What the node that makes a value reads first."""
    producer = value.producer()
    return None if producer is None else producer.inputs[0]


def _compared(
    layer: Layer,
    reference: ir.TensorProtocol | None,
    tensor: ir.TensorProtocol | None,
    use: WeightUse,
) -> Layer:
    """With how the weight that the layer reads differs from the dense one."""
    if reference is None or tensor is None or reference.shape != tensor.shape:
        return layer
    dense, found = tensors.values(reference), tensors.values(tensor)
    error, energy = energies(found, dense)
    alive = found != 0
    layer = dataclasses.replace(
        layer,
        zeros=1 - int(np.count_nonzero(alive)) / max(found.size, 1),
        weight_error=math.sqrt(error / (energy or 1.0)),
        weight_sqnr=decibel(energy, error),
    )
    claim = claims.sparsity_of(use.value)
    if claim is None:
        return layer
    return dataclasses.replace(
        layer,
        pattern=claim.pattern,
        axis=use.reduction,
        kept_magnitude=kept_magnitude(dense, alive),
    )


def _as_read(model: ir.Model, uses: Sequence[WeightUse]) -> Iterator[ir.TensorProtocol | None]:
    """Each weight as its node reads it, whatever stands before it; None where unknown."""
    for group in _groups(uses):
        behind = [use for use in group if use.path and use.node.graph is model.graph]
        known = _run(model, [use.node.inputs[use.operand] for use in behind])
        for use in group:
            if use.path:
                yield known.get(use.node.inputs[use.operand])
            else:
                yield use.value.const_value


def _groups(uses: Sequence[WeightUse]) -> Iterator[list[WeightUse]]:
    """Neighbours whose weights fit into memory together."""
    group: list[WeightUse] = []
    size = 0
    for use in uses:
        size += math.prod(use.shape)
        if group and size > SLICE:
            yield group
            group, size = [], math.prod(use.shape)
        group.append(use)
    if group:
        yield group


def _run(
    model: ir.Model, values: Sequence[ir.Value | None]
) -> Mapping[ir.Value | None, ir.TensorProtocol]:
    """Constants of the main graph, computed; nothing where the runtime does not take them."""
    wanted = [value for value in dict.fromkeys(values) if value is not None]
    if not wanted:
        return {}
    part = ir.convenience.extract(model.graph, [], wanted)
    try:
        found = Session(ir.Model(part, ir_version=model.ir_version or 10), threads=1)({})
    except ModelError:
        return {}
    return {value: ir.tensor(found[value.name or ""]) for value in wanted}

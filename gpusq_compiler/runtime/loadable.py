"""A private copy of a model, as the installed runtime loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir.io import inlined
from gpusq_compiler.ir.precision import quantized_in_float, widened
from gpusq_compiler.runtime import flavour

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx


def runnable(model: ir.Model, outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """A private protobuf copy that the installed runtime loads and computes as ONNX says.

    bfloat16 becomes float32. Quantizers of float16 do, too: up to 1.29 the runtime cuts off in
    them, and 1.32 quantizes the bias behind them in float16, where its scale is too small.

    Args:
        model: Left as it is.
        outputs: Names of tensors of the main graph to add as outputs.

    Raises:
        ModelError: The model's opset is newer than the runtime and cannot be brought down.
    """
    copy = quantized_in_float(widened(model))
    proto = ir.to_proto(inlined(copy))
    add_outputs(proto, outputs)
    return loadable(proto)


def add_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    """Return tensors of the main graph, too."""
    import onnx

    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in known
    )


def loadable(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model, in place if it can be, as the installed runtime loads it.

    Raises:
        ModelError: Its opset is newer than the runtime and cannot be brought down.
    """
    import onnx

    _name_once(proto.graph)
    opset, ir_version = flavour.ceilings()
    proto.ir_version = min(proto.ir_version, ir_version)
    imports = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    current = imports.get("ai.onnx", 0)
    if current <= opset:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, opset)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        operators = sorted({node.op_type for node in proto.graph.node})
        raise ModelError(
            f"opset {current} cannot be brought down to {opset}, the newest that the "
            f"installed ONNX Runtime takes; operators: {', '.join(operators)}",
            where="model",
            remedy="Export the model with an older opset",
        ) from error


def _name_once(graph: onnx.GraphProto) -> None:
    """Take names from nodes that have that of another, which the runtime refuses."""
    seen = set()
    for node in graph.node:
        if node.name in seen:
            node.name = ""
        seen.add(node.name)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _name_once(body)

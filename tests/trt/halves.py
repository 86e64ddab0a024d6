"""Small graphs made half precision, and looked at from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from gpusq_compiler.ir import edit
from gpusq_compiler.ir.precision import quantized_in_float
from gpusq_compiler.trt.half.narrow import narrow
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpusq_compiler.runtime.samples import Array

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT


def halved(
    text: str, *, wide: Iterable[str] = (), opset: int = 19, kind: ir.DataType = HALF
) -> ir.Model:
    """The model of a text, narrowed but for nodes called after these outputs; it is valid."""
    model = tiny.model_of(text, opset=opset)
    edit.infer_shapes(model)
    nodes = [node for node in model.graph if {v.name for v in node.outputs} & set(wide)]
    assert len(nodes) == len(set(wide))
    left = narrow(model, nodes, kind, author="test")
    between = [node for node in every(model) if _source(node).dtype in {kind, FLOAT}]
    assert left == len(between) == len({(_source(n), n.outputs[0].dtype) for n in between})
    require_valid(model)
    return model


def _source(cast: ir.Node) -> ir.Value:
    assert cast.inputs[0] is not None
    return cast.inputs[0]


def require_valid(model: ir.Model) -> None:
    """The checker infers all types, and they are those that the model says."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    bare = onnx.ModelProto.FromString(proto.SerializeToString())
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    for node in model.graph:
        for value in node.outputs:
            if value.name in types and value.dtype is not None:
                assert types[value.name] == int(value.dtype), value.name


def every(model: ir.Model) -> list[ir.Node]:
    """All casts."""
    return [node for node in model.graph if node.op_type == "Cast"]


def casts(model: ir.Model) -> int:
    """How many casts there are."""
    return len(every(model))


def types(model: ir.Model) -> dict[str, str]:
    """The type of every tensor that a node writes, and of every float constant."""
    values = [v for node in model.graph for v in node.outputs]
    constants = [v for v in model.graph.initializers.values() if v.dtype != ir.DataType.INT64]
    return {v.name or "": v.dtype.name for v in (*values, *constants) if v.dtype is not None}


def run(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime computes, right also where it truncates float16."""
    model = quantized_in_float(model)
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def error(found: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Root of the squared difference over the squared values, of all outputs together."""
    assert set(found) == set(expected)
    pairs = [(found[k].astype(np.float64), expected[k].astype(np.float64)) for k in expected]
    lost = sum(float(np.square(a - b).sum()) for a, b in pairs)
    return float(np.sqrt(lost / sum(float(np.square(b).sum()) for _, b in pairs)))

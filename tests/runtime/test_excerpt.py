from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gpusq_compiler.runtime.excerpt import cut
from gpusq_compiler.runtime.session import Session
from tests import tiny


def test_only_what_is_needed_stays() -> None:
    graph = ir.to_proto(tiny.mlp()).graph
    graph.output.add().name = "h"
    cut(graph, ["h"])
    assert [node.op_type for node in graph.node] == ["Gemm", "Relu"]
    assert [value.name for value in graph.output] == ["h"]
    assert {tensor.name for tensor in graph.initializer} == {"w1", "b1"}
    assert [value.name for value in graph.input] == ["x"]


def test_what_a_body_reads_from_outside_is_needed() -> None:
    proto = ir.to_proto(tiny.if_branch())
    before = proto.SerializeToString(deterministic=True)
    cut(proto.graph, ["y"])
    assert proto.SerializeToString(deterministic=True) == before


def test_an_operator_that_the_runtime_does_not_know_is_no_obstacle_below() -> None:
    model = tiny.mlp()
    node = ir.node("Riddle", [model.graph.outputs[0]], domain="their.domain", name="theirs")
    node.outputs[0].name = "riddle"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])
    model.opset_imports["their.domain"] = 1
    x = tiny.samples(model, 3).arrays["x"]
    assert Session(model, outputs=["h", "y"])({"x": x})["y"].shape == (3, 10)
    assert np.array_equal(
        Session(tiny.mlp())({"x": x})["y"], Session(model, outputs=["y"])({"x": x})["y"]
    )

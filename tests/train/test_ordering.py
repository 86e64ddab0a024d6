"""Nodes stand right before what needs them, and run in that order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from gpusq_compiler.train.gradients.gradient import gradient_graph, with_inputs
from gpusq_compiler.train.kernels.ordering import in_order
from gpusq_compiler.train.sessions import training_options
from tests.train import nets
from tests.train.test_gradient import with_loss

EARLY = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N] x) => (float[N] a_grad, float[N] y, float[N] b_grad) {
    late = Exp(x)
    unused = Sin(x)
    b_grad = Neg(late)
    one = Abs(x)
    y = Cos(one)
    a_grad = Add(late, y)
}"""


def outputs(graph: onnx.GraphProto) -> list[str]:
    return [node.output[0] for node in graph.node]


def test_a_node_stands_before_its_first_user() -> None:
    proto = ir.to_proto(ir.from_onnx_text(EARLY))
    in_order(proto.graph, last="_grad")
    assert outputs(proto.graph) == ["one", "y", "late", "b_grad", "a_grad"]
    onnx.checker.check_model(proto)


def test_what_a_body_reads_stands_before_it() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N] x, bool go) => (float[N] y) {
        inner = Exp(x)
        y = If(go) <
            then_branch = t () => (float[N] a) { a = Neg(inner) },
            else_branch = e () => (float[N] b) { b = Abs(x) }>
    }"""
    proto = ir.to_proto(ir.from_onnx_text(text))
    in_order(proto.graph, last="_grad")
    assert outputs(proto.graph) == ["inner", "y"]


@pytest.mark.training
@nets.needs_training
def test_the_runtime_keeps_the_order(tmp_path: Path) -> None:
    model = nets.quantized(nets.transformer(depth=2))
    names = [*nets.float_names(model, ending="_w"), *nets.scale_names(model)]
    loss = with_loss(model)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in loss.graph.initializer}
    built = gradient_graph(with_inputs(loss, names), names, "loss")
    options = training_options(threads=1, as_written=True)
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(built, options, providers=["CPUExecutionProvider"])
    feeds = {**values, **nets.samples(model, 2).arrays}
    session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ending = "_kernel_time"
    ran = [e["name"].removesuffix(ending) for e in events if e["name"].endswith(ending)]
    nodes = onnx.load_from_string(built).graph.node
    early = {node.name for node in nodes if node.op_type in {"Shape", "Size"}}
    assert [name for name in ran if name not in early] == [
        node.name for node in nodes if node.name not in early
    ]


@pytest.mark.training
@nets.needs_training
def test_gradients_of_weights_come_as_soon_as_they_can() -> None:
    """The last layer's first: what they need may go then."""
    model = nets.quantized(nets.transformer(depth=3))
    names = [*nets.float_names(model, ending="_w"), *nets.scale_names(model)]
    built = gradient_graph(with_inputs(with_loss(model), names), names, "loss")
    order = outputs(onnx.load_from_string(built).graph)
    places = [order.index(f"b{block}_down_w_grad") for block in range(3)]
    assert places == sorted(places, reverse=True)
    assert order.index("loss") < places[2]
    assert np.diff(places).max() < -50

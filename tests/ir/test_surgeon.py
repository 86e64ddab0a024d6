"""The bridge to GraphSurgeon: nothing is lost, nothing large copied, the rest is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from gpusq_compiler.errors import GpusqError, ModelError, PassBug, PreconditionError
from gpusq_compiler.ir import claims, edit, io
from gpusq_compiler.ir.surgeon import surgery
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.sparsity.scores import Magnitude
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Message = TypeVar("Message")
BIG, SMALL = (64, 64), (2, 3)


def content(model: ir.Model) -> bytes:
    """Everything that a file would hold."""
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def tensors(model: ir.Model) -> dict[tuple[int, str], object]:
    """The weights as objects, by graph and name."""
    return {
        (number, name): value.const_value
        for number, graph in enumerate(model.graphs())
        for name, value in graph.initializers.items()
    }


def unchanged_by(model: ir.Model) -> None:
    before, weights = content(model), tensors(model)
    with surgery(model, author="nobody"):
        pass
    assert content(model) == before
    after = tensors(model)
    assert after.keys() == weights.keys()
    assert all(after[key] is tensor for key, tensor in weights.items())


def described(proto: Message, text: str) -> Message:
    """Give a message metadata and a doc string."""
    said: Any = proto
    said.doc_string = f"{text} explained"
    said.metadata_props.add(key="note", value=f"{text} noted")
    return proto


def baroque(folder: Path) -> Path:
    """A file with one of everything that GraphSurgeon's own export loses or changes."""
    rng = np.random.default_rng(0)

    def array(name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> TensorProto:
        return described(
            numpy_helper.from_array(rng.normal(size=shape).astype(dtype), name), name
        )

    def branch(name: str, weight: TensorProto) -> onnx.GraphProto:
        nodes = [helper.make_node("MatMul", ["a", weight.name], ["inner"], name=f"{name}/m")]
        result = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
        return described(helper.make_graph(nodes, name, [], [result], [weight]), name)

    constant = helper.make_tensor(
        "held", TensorProto.FLOAT, BIG, np.ones(BIG).tobytes()[:16384], True
    )
    nodes = [
        helper.make_node("Constant", [], ["table"], name="table", value=constant),
        helper.make_node("MatMul", ["x", "w"], ["a0"], name="first"),
        helper.make_node("Add", ["a0", "table"], ["a1"], name=""),
        helper.make_node("Clip", ["a1", "", "top"], ["a"], name="clip"),
        helper.make_node("Dropout", ["a"], ["dropped", ""], name="drop"),
        helper.make_node(
            "Split", ["dropped"], ["left", "right"], name="split", axis=1, num_outputs=2
        ),
        helper.make_node("Concat", ["right", "left"], ["swapped"], name="concat", axis=1),
        helper.make_node(
            "If", ["up"], ["chosen"], name="if",
            then_branch=branch("then", array("w_then", BIG)),
            else_branch=branch("else", array("w_else", BIG)),
        ),
        helper.make_node("twice", ["swapped"], ["doubled"], name="call", domain="local"),
        helper.make_node(
            "Mystery", ["doubled", "chosen"], ["y"], name="custom", domain="vendor",
            text="t\u00e4xt", texts=["a", "b"], reals=[0.1, float("nan")], whole=3, real=0.1,
        ),
    ]  # fmt: skip
    for node in nodes:
        described(node, node.name)
        for attribute in node.attribute:
            attribute.doc_string = "of an attribute"
    info = helper.make_tensor_value_info
    x = described(info("x", TensorProto.FLOAT, ["batch", 64]), "x")
    graph = helper.make_graph(
        nodes, "baroque",
        [info("top", TensorProto.FLOAT, []), x, info("up", TensorProto.BOOL, [])],
        [described(info("y", TensorProto.FLOAT, ["batch", 64]), "y")],
        [array("unread", SMALL), array("w", BIG), array("top", ())],
        value_info=[described(info("a1", TensorProto.FLOAT, ["batch", 64]), "a1")],
    )  # fmt: skip
    described(graph, "graph")
    note = graph.quantization_annotation.add(tensor_name="a1")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="top")
    body = [helper.make_node("Add", ["i", "i"], ["o"], name="sum")]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    function = described(
        helper.make_function("local", "twice", ["i"], ["o"], body, imports[:1]), "f"
    )
    imports.append(helper.make_opsetid("vendor", 7))
    model = helper.make_model(
        graph, opset_imports=imports, functions=[function], ir_version=10
    )
    model.domain, model.model_version = "example.org", 5
    model.producer_name, model.producer_version = "baroque", "1.2"
    described(model, "model")
    path = folder / "baroque.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=1024)
    return path


@pytest.mark.parametrize("name", tiny.MODELS)
def test_nothing_done_changes_nothing(name: str) -> None:
    unchanged_by(tiny.MODELS[name]())


def test_nothing_done_changes_nothing_of_a_file_with_everything(tmp_path: Path) -> None:
    model = io.load(baroque(tmp_path))
    model.graph.meta["m"] = model.meta["m"] = next(iter(model.graph)).meta["m"] = "kept"
    model.graph.inputs[1].meta["m"] = "kept"
    unchanged_by(model)
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    assert (
        model.graph.meta["m"] == model.meta["m"] == next(iter(model.graph)).meta["m"] == "kept"
    )
    assert model.graph.inputs[1].meta["m"] == "kept"


def test_an_input_that_is_a_weight_keeps_its_place() -> None:
    """As files of IR version 3 have them."""
    model = tiny.mlp()
    for value in model.graph.initializers.values():
        model.graph.inputs.insert(0, value)
    unchanged_by(model)
    with surgery(model, author="me") as graph:
        graph.outputs = [graph.tensors()["a"]]
    assert [value.name for value in model.graph.inputs] == ["b1", "w1", "x"]
    assert list(model.graph.initializers) == ["w1", "b1"]


def test_strings_and_sequences_cross_unread() -> None:
    info, node = helper.make_tensor_value_info, helper.make_node
    words = TensorProto(
        name="words", data_type=TensorProto.STRING, dims=[2], string_data=[b"a", b"bc"]
    )
    first = helper.make_tensor("first", TensorProto.INT64, [], [0])
    graph = helper.make_graph(
        [
            node("StringNormalizer", ["words"], ["lower"], name="lower"),
            node("SequenceConstruct", ["x"], ["list"], name="list"),
            node("SequenceAt", ["list", "first"], ["y"], name="at"),
        ],
        "texts",
        [info("x", TensorProto.FLOAT, ["N"])],
        [info("y", TensorProto.FLOAT, ["N"]), info("lower", TensorProto.STRING, [2])],
        [words, first],
        value_info=[helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, ["N"])],
    )
    imports = [helper.make_opsetid("", 17)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=9))
    unchanged_by(model)
    line = refused(model, lambda graph: graph.tensors()["words"].values, PreconditionError)
    assert line.startswith("tensor 'words': its 3 bytes of STRING cannot be read")


def relu_to_clip(graph: Any) -> None:
    """Replace as the samples of TensorRT do: the new node takes over the tensors."""
    (relu,) = (node for node in graph.nodes if node.op == "Relu")
    low = gs.Constant("low", np.zeros((), np.float32))
    top = gs.Constant("top", np.full((), 6, np.float32))
    graph.nodes.append(
        gs.Node("Clip", inputs=[relu.inputs[0], low, top], outputs=list(relu.outputs))
    )
    relu.outputs.clear()


def test_a_new_node_is_sorted_in_and_stamped() -> None:
    model = tiny.mlp()
    relu = tiny.node(model, "Relu.h").outputs[0]
    relu.metadata_props["note"] = "of h"
    with surgery(model, author="me") as graph:
        relu_to_clip(graph)
    assert tiny.operators(model) == ["Gemm", "Clip", "MatMul", "Add"]
    clip = tiny.node(model, "Clip_h")
    assert clip.metadata_props == {claims.PASS: "me"}
    assert clip.outputs[0].metadata_props["note"] == "of h"
    assert [value.name for value in clip.inputs if value is not None] == ["a", "low", "top"]
    assert claims.PASS not in tiny.node(model, "Gemm.a").metadata_props
    assert tiny.weight(model, "top") == 6
    io.check(model, author="test")


def test_what_is_new_gets_its_type_by_inference_or_from_graphsurgeon() -> None:
    model = tiny.mlp()
    with surgery(model, author="me") as graph:
        (relu,) = (node for node in graph.nodes if node.op == "Relu")
        for name, stated in (
            ("first", {}),
            ("second", {"dtype": np.float32, "shape": (-1, 32)}),
        ):
            copied = gs.Variable(name, **stated)
            graph.nodes.append(gs.Node("Identity", name, {}, [relu.inputs[0]], [copied]))
            relu.inputs[0] = copied
    first, second = (tiny.node(model, name).outputs[0] for name in ("first", "second"))
    assert (str(first.shape), first.dtype) == ("[N,32]", ir.DataType.FLOAT)
    assert second.dtype == ir.DataType.FLOAT
    assert second.shape is not None
    assert second.shape[0] != -1
    assert second.shape[1] == 32
    io.check(model, author="test")


def test_a_free_dimension_of_graphsurgeon_is_one_in_the_model() -> None:
    model = tiny.mlp()
    with surgery(model, author="me") as graph:
        graph.inputs[0].shape = (gs.Tensor.DYNAMIC, 16)
        graph.inputs[0].dtype = np.float16
    (x,) = model.graph.inputs
    assert (str(x.shape), x.dtype) == ("[None,16]", ir.DataType.FLOAT16)


def test_new_values_may_have_another_shape_and_type() -> None:
    model = tiny.mlp()
    with surgery(model, author="me") as graph:
        graph.tensors()["b2"].values = np.ones((1, 10), np.float64)
    b2 = model.graph.initializers["b2"]
    assert (str(b2.shape), b2.dtype) == ("[1,10]", ir.DataType.DOUBLE)


def test_order_stays_where_nothing_forces_another() -> None:
    """GraphSurgeon's own sort goes by depth and would shuffle every branch."""
    model = tiny.model_of("""
    branches (float[N, 4] x) => (float[N, 4] y) {
        a = Relu(x)
        b = Neg(a)
        c = Abs(x)
        y = Add(b, c)
    }""")
    with surgery(model, author="me") as graph:
        assert [node.op for node in graph.copy().toposort().nodes] != tiny.operators(model)
        graph.nodes[-1].op = "Mul"
    assert tiny.operators(model) == ["Relu", "Neg", "Abs", "Mul"]


def test_attributes_nodes_and_weights_can_change() -> None:
    model = tiny.conv_bn_relu()
    kept = model.graph.initializers["w1"].const_value
    tiny.node(model, "Conv.c1").doc_string = "the stem"
    with surgery(model, author="me") as graph:
        stem = next(node for node in graph.nodes if node.name == "Conv.c1")
        stem.attrs["pads"][0] = 0
        stem.attrs["note"] = "\u00fc"
        stem.attrs["auto_pad"] = "NOTSET"
        stem.name = "stem"
        bias = graph.tensors()["bias2"]
        bias.values[0] = 7
        untouched = graph.tensors()["b3"].values.copy()
        bias.name = "offset"
    stem = tiny.node(model, "stem")
    assert stem.doc_string == "the stem"
    assert list(stem.attributes["pads"].as_ints()) == [0, 1, 1, 1]
    assert stem.attributes["note"].as_string() == "\u00fc"
    assert model.graph.initializers["w1"].const_value is kept
    assert tiny.weight(model, "offset")[0] == 7
    assert tiny.weight(tiny.conv_bn_relu(), "bias2")[0] != 7
    assert np.array_equal(tiny.weight(model, "b3"), untouched)
    assert "bias2" not in model.graph.initializers


def test_reading_a_small_constant_keeps_the_tensor(tmp_path: Path) -> None:
    model = io.load(baroque(tmp_path))
    before, weights = content(model), tensors(model)
    with surgery(model, author="me") as graph:
        assert float(graph.tensors()["top"].values) == tiny.weight(model, "top")
    assert content(model) == before
    assert tensors(model) == weights


@pytest.mark.parametrize("name", ["bf16_matmul", "int4_weight", "if_branch"])
def test_odd_types_and_bodies_survive_an_edit(name: str) -> None:
    model = tiny.MODELS[name]()
    weights = tensors(model)
    with surgery(model, author="me") as graph:
        (y,) = graph.outputs
        graph.outputs = graph.layer(name="last", op="Neg", inputs=[y], outputs=["negative"])
        graph.outputs[0].dtype, graph.outputs[0].shape = y.dtype, y.shape
    assert tensors(model) == weights
    assert tiny.operators(model)[-1] == "Neg" or name == "if_branch"
    io.check(model, author="test")


def test_a_body_can_be_edited_and_a_constant_be_shared_with_it() -> None:
    model = tiny.if_branch()
    with surgery(model, author="me") as graph:
        (branching,) = (node for node in graph.nodes if node.op == "If")
        other = branching.attrs["else_branch"].nodes[0]
        other.inputs[0] = gs.Variable("h")
        body = branching.attrs["then_branch"]
        two = gs.Constant("two", np.full((), 2, np.float32))
        doubled = body.layer(
            name="double", op="Mul", inputs=[body.outputs[0], two], outputs=["d"]
        )
        body.outputs = doubled
        product = next(node for node in graph.nodes if node.op == "MatMul")
        total = gs.Variable("h2")
        graph.nodes.append(gs.Node("Mul", "outer", {}, [product.outputs[0], two], [total]))
        next(node for node in graph.nodes if node.op == "ReduceSum").inputs[0] = total
    assert "two" in model.graph.initializers
    assert not any("two" in graph.initializers for graph in model.graph.subgraphs())
    assert tiny.node(model, "double").inputs[1] is model.graph.initializers["two"]
    h = tiny.node(model, "MatMul.h").outputs[0]
    assert tiny.node(model, other.name).inputs[0] is h
    io.check(model, author="test")


def test_new_domains_functions_and_opsets_are_added(tmp_path: Path) -> None:
    model = io.inlined(io.load(baroque(tmp_path)))
    with surgery(model, author="me") as graph:
        i, o = gs.Variable("i"), gs.Variable("o")
        body = [gs.Node("Mul", inputs=[i, i], outputs=[o])]
        graph.functions.append(
            gs.Function("square", "mine", nodes=body, inputs=[i], outputs=[o], opset=18)
        )
        last = next(node for node in graph.nodes if node.op == "Mystery")
        last.inputs[0] = graph.layer(
            op="square", domain="mine", inputs=[last.inputs[0]], outputs=["s"]
        )[0]
    assert model.opset_imports == {"": 18, "local": 1, "vendor": 7, "mine": 1}
    assert {key[:2] for key in model.functions} == {("local", "twice"), ("mine", "square")}
    io.check(model, author="test")


def test_an_input_moved_behind_a_split_leaves_the_other_outputs_in_place() -> None:
    """GraphSurgeon alone would take the first output away, and the second become the first."""
    model = tiny.model_of("""
    split (float[N, 4] x) => (float[N, 3] y) <int64[2] sizes = {1, 3}> {
        left, right = Split<axis = 1>(x, sizes)
        y = Add(left, right)
    }""")
    with surgery(model, author="me") as graph:
        graph.inputs.append(graph.tensors()["left"])
        graph.inputs[-1].dtype, graph.inputs[-1].shape = np.float32, ("N", 1)
    split = tiny.node(model, "Split.left")
    assert [value.name for value in split.outputs] == ["left.unused", "right"]
    assert [value.name for value in model.graph.inputs] == ["x", "left"]
    io.check(model, author="test")


def test_claims_of_sparse_weights_survive() -> None:
    sparse = Prune(score=Magnitude())(Canonicalize()(tiny.mlp()))
    expected = {value.name: str(claim) for value, claim in claims.sparse_values(sparse)}
    weights = tensors(sparse)
    with surgery(sparse, author="me") as graph:
        relu_to_clip(graph)
    after = {value.name: str(claim) for value, claim in claims.sparse_values(sparse)}
    assert after == expected != {}
    assert not facts.broken_claims(sparse)
    assert all(tensors(sparse)[key] is tensor for key, tensor in weights.items())


def test_large_weights_are_neither_copied_nor_opened(tmp_path: Path) -> None:
    model = tiny.mlp()
    weight = model.graph.initializers["w1"]
    array = np.ones((16, 32), np.float32)
    weight.const_value = ir.tensor(array, name="w1")
    new = np.zeros((32, 10), np.float32)
    with surgery(model, author="me") as graph:
        assert "w1" in graph.tensors()
        graph.tensors()["w2"].values = new
    assert np.shares_memory(tiny.weight(model, "w1"), array)
    assert np.shares_memory(tiny.weight(model, "w2"), new)
    missing = io.load(baroque(tmp_path))
    (tmp_path / "w.data").unlink()
    with surgery(missing, author="me"):
        pass
    assert missing.graph.initializers["w"].shape == BIG


def refused(model: ir.Model, act: Callable[[Any], object], kind: type[GpusqError]) -> str:
    """The one line of the error; the model has to be what it was."""
    before = content(model)
    with pytest.raises(kind) as caught, surgery(model, author="me") as graph:
        act(graph)
    assert content(model) == before
    line = str(caught.value)
    assert "\n" not in line
    return line


def with_attribute(attribute: ir.Attr) -> ir.Model:
    model = tiny.mlp()
    tiny.node(model, "Relu.h").attributes[attribute.name] = attribute
    return model


@pytest.mark.parametrize(
    "attribute",
    [
        ir.AttrTensors("odd", [ir.tensor(np.zeros(2, np.float32), name="t")]),
        ir.AttrTypeProto("odd", ir.TypeAndShape(ir.TensorType(ir.DataType.FLOAT), None)),
        ir.Attr("odd", ir.AttributeType.STRING, b"\xff"),
    ],
    ids=lambda attribute: attribute.type.name,
)
def test_attributes_that_graphsurgeon_would_drop_are_refused(attribute: ir.Attr) -> None:
    line = refused(with_attribute(attribute), list, ModelError)
    assert line.startswith("node 'Relu.h': GraphSurgeon cannot hold the model")
    assert "'odd'" in line


def test_a_call_of_an_overload_is_refused(tmp_path: Path) -> None:
    model = io.load(baroque(tmp_path))
    tiny.node(model, "call").overload = "third"
    assert "the overload 'third'" in refused(model, list, ModelError)


def test_a_name_that_stands_for_two_tensors_is_refused() -> None:
    model = tiny.if_branch()
    body = tiny.node(model, "If.y").attributes["then_branch"].as_graph()
    body.outputs[0].name = "h"
    line = refused(model, list, ModelError)
    assert line.startswith("tensor 'h': GraphSurgeon cannot hold the model: two tensors")


def test_a_body_that_only_returns_what_it_was_given_is_refused() -> None:
    proto = ir.to_proto(tiny.if_branch())
    body = proto.graph.node[-1].attribute[0].g
    del body.node[:], body.initializer[:]
    body.output[0].name = "h"
    model = ir.from_proto(proto)
    with (
        pytest.raises(ModelError, match="GraphSurgeon cannot hold the model") as caught,
        surgery(model, author="me"),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_small_constants_can_be_folded_and_large_ones_not() -> None:
    text = """
    fold (float[N, {0}] x) => (float[N, {0}] y) <float[{0}] one, float[{0}] other> {{
        sum = Add(one, other)
        y = Mul(x, sum)
    }}"""
    model = tiny.model_of(text.format(4))
    with surgery(model, author="me") as graph:
        graph.fold_constants()
    assert tiny.operators(model) == ["Mul"]
    one, other = (tiny.weight(tiny.model_of(text.format(4)), key) for key in ("one", "other"))
    assert np.array_equal(tiny.weight(model, "sum"), one + other)
    large = tiny.model_of(text.format(400))
    line = refused(large, lambda graph: graph.fold_constants(), PassBug)
    assert "Inference failed" in line


@pytest.mark.parametrize(
    ("model", "name"),
    [(tiny.mlp, "w1"), (tiny.bf16_matmul, "w"), (tiny.int4_weight, "codes")],
)
def test_values_of_large_and_odd_constants_are_refused(
    model: Callable[[], ir.Model], name: str
) -> None:
    line = refused(model(), lambda graph: graph.tensors()[name].values, PreconditionError)
    assert line.startswith(f"tensor '{name}': its")
    assert "at most 1024 bytes" in line


def two_origins(graph: Any) -> None:
    graph.nodes.append(gs.Node("Neg", "neg", {}, [graph.inputs[0]], [graph.outputs[0]]))


def cycle(graph: Any) -> None:
    gemm = next(node for node in graph.nodes if node.op == "Gemm")
    gemm.inputs[0] = graph.outputs[0]


def unproduced(graph: Any) -> None:
    graph.nodes[-1].inputs[0] = gs.Variable("nowhere")


def empty_list(graph: Any) -> None:
    graph.nodes[-1].attrs["odd"] = []


def same_name(graph: Any) -> None:
    graph.nodes[0].outputs[0].name = "h"


def unknown_option(graph: Any) -> None:
    graph.fold_constants(partitioning="odd")


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (two_origins, "left 'y' with two origins"),
        (cycle, "cycle"),
        (unproduced, "reads 'nowhere', which nothing computes"),
        (empty_list, "the attribute 'odd' cannot be written"),
        (same_name, "GraphSurgeon warns: Found distinct tensors that share the same name"),
        (unknown_option, "GraphSurgeon: Argument for parameter 'partitioning'"),
    ],
)
def test_what_is_no_graph_is_the_fault_of_the_author(
    act: Callable[[Any], object], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(tiny.mlp(), act, PassBug)
    assert line.startswith("me")
    assert text in line
    assert not capsys.readouterr().out


def test_what_graphsurgeon_says_of_types_is_no_matter(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tiny.bf16_matmul()
    edit.infer_shapes(model)
    unchanged_by(model)
    printed = capsys.readouterr()
    assert not printed.out + printed.err


def test_an_error_of_the_block_itself_passes_through() -> None:
    model = tiny.mlp()

    def fail(graph: Any) -> None:
        graph.outputs.clear()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), surgery(model, author="me") as graph:
        fail(graph)
    assert len(model.graph.outputs) == 1

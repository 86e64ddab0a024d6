"""A gradient graph's kernels give the numbers of the nodes that were differentiated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.train.gradients.gradient import gradient_graph, with_inputs
from gpusq_compiler.train.kernels import fakequant
from gpusq_compiler.train.kernels.forms import with_kernels
from gpusq_compiler.train.protograph import array_of
from tests.train import nets
from tests.train.test_gradient import gradients, lsq_oracle, with_loss
from tests.train.test_trainable import operator_model, qdq_model

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array, Feeds

pytestmark = [pytest.mark.training, nets.needs_training]
NETS = {"transformer": nets.transformer, "convnet": nets.convnet}


def both_ways(
    loss: onnx.ModelProto, names: list[str], feeds: Feeds, masks: dict[str, Array]
) -> list[dict[str, Array]]:
    """All outputs of the gradient graph as the builder makes it, and with kernels."""
    values = {t.name: array_of(t) for t in loss.graph.initializer if t.name in names}
    values.update({name: values[name] * mask for name, mask in masks.items()})
    found = []
    for kernels in (False, True):
        moved = with_inputs(loss, names)
        built = gradient_graph(moved, names, "loss", masks=masks, kernels=kernels)
        found.append(nets.run(built, {**feeds, **values}, optimize=False))
    return found


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_of_the_builders_graph(name: str) -> None:
    model = nets.quantized(NETS[name]())
    feeds = nets.samples(model, 16).arrays
    names = [n for n in nets.float_names(model) if not n.endswith(("_m", "_v"))]
    names += nets.scale_names(model)
    weights = nets.float_names(model, ending="_w")
    rng = np.random.default_rng(3)
    sizes = {t.name: list(t.dims) for t in ir.to_proto(model).graph.initializer}
    masks = {weight: rng.random(sizes[weight]) < 0.5 for weight in weights}
    plain, fast = both_ways(with_loss(model), names, feeds, masks)
    assert fast["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    for parameter in names:
        ours, theirs = fast[f"{parameter}_grad"], plain[f"{parameter}_grad"]
        # A scale's gradient is a small difference of sums of both signs.
        error = np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-3)
        assert error < (2e-3 if parameter.endswith("_scale") else 1e-5), parameter
        if parameter in masks:
            assert np.all(ours[~masks[parameter]] == 0)
            assert np.any(ours[masks[parameter]] != 0)


def test_no_slow_node_is_left() -> None:
    kinds = {name: kernels_of(NETS[name]()) for name in NETS}
    assert not kinds["convnet"] & {"ReluGrad", "ATen"}
    assert not kinds["transformer"] & {"GeluGrad", "Gelu", "ATen"}
    assert "ConvInteger" in kinds["convnet"]
    assert "MatMulIntegerToFloat" in kinds["transformer"]


def kernels_of(model: ir.Model) -> set[str]:
    quantized = nets.quantized(model)
    names = [*nets.float_names(quantized, ending="_w"), *nets.scale_names(quantized)]
    names = [n for n in names if "head" not in n]
    built = gradient_graph(with_inputs(with_loss(quantized), names), names, "loss")
    return {node.op_type for node in onnx.load_from_string(built).graph.node}


@pytest.mark.parametrize(("kind", "low"), [
    (onnx.TensorProto.INT8, -128), (onnx.TensorProto.INT4, -8),
])  # fmt: skip
def test_halfway_values_at_the_ends_are_in_or_out_as_they_round(kind: int, low: int) -> None:
    high = -low - 1
    x = np.array([[low - 1, low - 0.5, low, high, high + 0.5, high + 1]], np.float32) / 4
    model = qdq_model(scale=np.array(0.25, np.float32), kind=kind)
    found, _ = gradients(with_loss(model, "dq"), ["x", "scale"], {"x": x})
    y = 0.25 * np.clip(np.rint(4 * x), low, high)
    upstream = 3 * np.cos(3 * y) / y.size
    of_x, of_scale = lsq_oracle(x, np.full(x.shape, 0.25, np.float32), upstream, low, high)
    assert np.count_nonzero(of_x) == 3  # the lower half rounds to an even code, which is in
    assert found["x"] == pytest.approx(of_x, abs=1e-6)
    assert found["scale"] == pytest.approx(of_scale.sum(), rel=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_scale_alone_gets_its_gradient(axis: int) -> None:
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(4, 6)).astype(np.float32)
    scale = rng.uniform(0.01, 0.03, (weight.shape[axis],)).astype(np.float32)
    loss = with_loss(qdq_model(scale=scale, axis=axis, weight=weight), "y")
    x = rng.normal(size=(4, 6)).astype(np.float32)
    alone, _ = gradients(loss, ["scale"], {"x": x})
    together, _ = gradients(loss, ["scale", "w"], {"x": x})
    assert np.array_equal(alone["scale"], together["scale"])


def test_a_scale_of_one_element_keeps_its_shape() -> None:
    model = qdq_model(scale=np.array([0.05], np.float32))
    x = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    found, _ = gradients(with_loss(model, "dq"), ["scale"], {"x": x})
    assert found["scale"].shape == (1,)
    assert found["scale"] != 0


@pytest.mark.parametrize("size", [("N", 6), (200000, 6)])
def test_sums_for_a_scale_lose_little(size: tuple[int | str, int]) -> None:
    """Of a million products of which the sum is a ten-thousandth of the sum of sizes."""
    rng = np.random.default_rng(7)
    x = rng.normal(0, 3, (200000, 6)).astype(np.float32)
    scale = np.float32(0.05)
    model = qdq_model(scale=np.asarray(scale))
    model.graph.inputs[0].shape = ir.Shape(size)
    found, _ = gradients(with_loss(model, "dq"), ["scale"], {"x": x})
    ratio = x / np.float64(scale)
    codes = np.clip(np.rint(ratio), -128, 127)
    upstream = 3 * np.cos(3 * codes * np.float64(scale)) / x.size
    parts = upstream * (codes - (np.rint(ratio) == codes) * ratio)
    sizes = np.abs(upstream * codes).sum()
    # float32 holds 24 bits; what is added up loses a few of them
    assert abs(float(found["scale"]) - parts.sum()) < 2e-6 * sizes


def behind(
    body: str, size: tuple[int | str, ...] = ("N", 4, 6, 6), *, more: str = "Identity"
) -> onnx.ModelProto:
    """The loss of a quantized function of x, and of what else it goes to."""
    proto = ir.to_proto(operator_model(body))
    proto.graph.node[-1].output[0] = "r"
    net = nets.Net()
    scale = net.constant("s", np.array(0.02, np.float32))
    codes = net.add("QuantizeLinear", "r", scale, net.constant("z", np.array(0, np.int8)))
    y = net.add("DequantizeLinear", codes, scale, "z")
    if more == "Add":
        y = net.add("Add", y, "r")
    net.add("Identity", y, out="y")
    proto.graph.node.extend(net.nodes)
    proto.graph.initializer.extend(net.weights)
    model = ir.from_proto(proto)
    model.graph.inputs[0].shape = ir.Shape(size)
    return with_loss(model, "y")


@pytest.mark.parametrize("size", [("N", 4, 6, 6), (8, 4, 6, 6), (8, 4, 6, 4), (7, 4, 6, 6)])
def test_sums_of_every_size(size: tuple[int | str, ...]) -> None:
    """Rows of products where sizes are known and divide well, else all at once."""
    shape = tuple(8 if isinstance(n, str) else n for n in size)
    x = np.random.default_rng(2).normal(0, 2, shape).astype(np.float32)
    plain, fast = both_ways(behind("Abs(x)", size), ["x", "s"], {"x": x}, {})
    assert fast["s_grad"] == pytest.approx(plain["s_grad"], rel=1e-4)
    assert fast["x_grad"] == pytest.approx(plain["x_grad"], abs=1e-8)


@pytest.mark.parametrize(("body", "more", "below", "masks"), [
    ("Relu(x)", "Identity", 1, 1),  # the Relu's own is the only comparison with a lower bound
    ("Relu(x)", "Add", 1, 2),
    ("Abs(x)", "Identity", 1, 1),
])  # fmt: skip
def test_masks_behind_a_relu(body: str, more: str, below: int, masks: int) -> None:
    loss = behind(body, more=more)
    built = gradient_graph(with_inputs(loss, ["x", "s"]), ["x", "s"], "loss")
    kinds = [node.op_type for node in onnx.load_from_string(built).graph.node]
    assert sum(kind.startswith("Greater") for kind in kinds) == below
    assert kinds.count("Cast") == masks
    x = np.random.default_rng(2).normal(0, 2, (2, 4, 6, 6)).astype(np.float32)
    x[0, 0, 0, :3] = 0, 40, -40
    plain, fast = both_ways(loss, ["x", "s"], {"x": x}, {})
    assert fast["x_grad"] == pytest.approx(plain["x_grad"], abs=1e-8)
    assert fast["s_grad"] == pytest.approx(plain["s_grad"], rel=1e-4)


@pytest.mark.parametrize("reader", ["handed", "neg"])
def test_a_relus_gradient_that_is_asked_for_is_its_own(reader: str) -> None:
    """What a quantizer hands on is an output or read elsewhere: no mask may go into it."""
    graph = onnx.parser.parse_model(f"""
    <ir_version: 8, opset_import: ["": 17, "org.pytorch.aten": 1, "com.microsoft": 1]>
    g (float[4] dy, float[4] x, float s) => (float[4] {reader}, float[4] dx) {{
        r = Relu(x)
        y = org.pytorch.aten.ATen <operator = "{fakequant.FORWARD}"> (r, s)
        handed, ds = org.pytorch.aten.ATen <operator = "{fakequant.BACKWARD}"> (dy, r, s, y)
        dx = com.microsoft.ReluGrad (handed, r)
        neg = Neg (handed)
    }}""")
    fake = fakequant.Fake(x="r", size=(4,), scale="s", shape=(), y="y", low=-128, high=127)
    with_kernels(graph, {"y": fake})
    feeds = {"dy": np.ones(4, np.float32), "x": np.array([-1, 0, 1, 99], np.float32)}
    found = nets.run(graph, {**feeds, "s": np.array(0.1, np.float32)}, optimize=False)
    assert np.abs(found[reader]).tolist() == [1, 1, 1, 0]
    assert found["dx"].tolist() == [0, 0, 1, 0]


def test_a_gradient_that_another_node_reads_is_there() -> None:
    """Beside the scale that it could be left out for."""
    graph = onnx.parser.parse_model(f"""
    <ir_version: 8, opset_import: ["": 17, "org.pytorch.aten": 1, "com.microsoft": 1]>
    g (float[1,1,3,3] dy, float[1,1,3,3] x, float s, float[1,1,1,1] w)
        => (float ds, float[1,1,3,3] neg) {{
        y = org.pytorch.aten.ATen <operator = "{fakequant.FORWARD}"> (x, s)
        dq = com.microsoft.ConvGrad <kernel_shape = [1, 1]> (dy, y, w)
        dx, ds = org.pytorch.aten.ATen <operator = "{fakequant.BACKWARD}"> (dq, x, s, y)
        neg = Neg (dq)
    }}""")
    size = (1, 1, 3, 3)
    fake = fakequant.Fake(x="x", size=size, scale="s", shape=(), y="y", low=-128, high=127)
    with_kernels(graph, {"y": fake})
    x, dy = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    feeds = {"x": x, "dy": dy, "w": np.full((1, 1, 1, 1), 2, np.float32)}
    found = nets.run(graph, {**feeds, "s": np.array(0.1, np.float32)}, optimize=False)
    assert np.array_equal(found["neg"], -2 * dy)
    expected = np.sum(2 * dy * (np.rint(x / 0.1) - x / 0.1), dtype=np.float64)
    assert found["ds"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("body", ["Relu(x)", "Gelu(x)"])
def test_activations_have_the_gradient_of_the_builder(body: str) -> None:
    model = operator_model("Relu(x)") if body == "Relu(x)" else gelu_model()
    x = np.random.default_rng(2).normal(0, 2, (2, 4, 6, 6)).astype(np.float32)
    x[0, 0, 0, :3] = 0, 40, -40
    loss = with_loss(model, "y")
    plain, fast = both_ways(loss, ["x"], {"x": x}, {})
    assert fast["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    assert fast["x_grad"] == pytest.approx(plain["x_grad"], abs=1e-8)


def gelu_model() -> ir.Model:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N,4,6,6] x) => (float[N,4,6,6] y)
    <float root = {1.4142135}, float one = {1}, float half = {0.5}> {
        a = Div(x, root)
        b = Erf(a)
        c = Add(b, one)
        d = Mul(x, c)
        y = Mul(d, half)
    }"""
    return ir.from_onnx_text(text)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_the_loss(wrong: float) -> None:
    model = nets.quantized(nets.transformer())
    x = nets.samples(model, 4).arrays["x"]
    loss = with_loss(model)
    names = [*nets.scale_names(model)]
    values = {t.name: array_of(t) for t in loss.graph.initializer if t.name in names}
    built = gradient_graph(with_inputs(loss, names), names, "loss")
    assert np.isfinite(nets.run(built, {"x": x, **values})["loss"])
    x[1, 2, 3] = wrong
    assert not np.isfinite(nets.run(built, {"x": x, **values})["loss"])


def forward(text: str, arrays: dict[str, Array]) -> tuple[set[str], list[dict[str, Array]]]:
    """Operators with kernels; outputs without and with them."""
    model = ir.to_proto(ir.from_onnx_text(text))
    found = [nets.run(model, arrays, optimize=False)]
    fakes = fakequant.find(model)
    fakequant.collapse(model.graph, fakes)
    with_kernels(model, fakes)
    found.append(nets.run(model, arrays, optimize=False))
    return {node.op_type for node in model.graph.node}, found


CHAIN = """
    {y}1 = Div({x}, {s})
    {y}2 = Add({y}1, coarse)
    {y}3 = Sub({y}2, coarse)
    {y}4 = Clip({y}3, low, high)
    {y} = Mul({y}4, {s})
"""


def fake(x: str, scale: str) -> str:
    return CHAIN.format(x=x, s=scale, y=f"q{x}")


def product(node: str, x: str, w: str, scale: str, more: str = "") -> str:
    return f"""
    <ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
    g (float[{x}] x, float[{w}] w, float s, float[{scale}] t{more}) => (float y)
    <float coarse = {{12582912}}, float low = {{-127}}, float high = {{127}}> {{
        {fake("x", "s")}
        {fake("w", "t")}
        y = {node}
    }}"""


PRODUCTS: dict[str, Any] = {
    "matmul": ("MatMul(qx, qw)", (3, 4, 8), (8, 5), (1, 5)),
    "conv": ("Conv<pads=[1,1,0,1]>(qx, qw)", (2, 3, 6, 6), (4, 3, 3, 3), (4, 1, 1, 1)),
}
NEAR_MISSES: dict[str, Any] = {
    "scales of rows": ("MatMul(qx, qw)", (3, 4, 8), (8, 5), (8, 1)),
    "one scale": ("MatMul(qx, qw)", (3, 4, 8), (8, 5), ()),
    "weight first": ("MatMul(qw, qx)", (8, 5), (8, 8), (1, 8)),
    "matrices": ("MatMul(qx, qw)", (3, 4, 8), (3, 8, 5), (1, 1, 5)),
    "float side": ("MatMul(x, qw)", (3, 4, 8), (8, 5), (1, 5)),
    "long": ("MatMul(qx, qw)", (1, 40000), (40000, 5), (1, 5)),
    "groups": ("Conv<group=3>(qx, qw)", (2, 3, 6, 6), (6, 1, 3, 3), (6, 1, 1, 1)),
    "line": ("Conv(qx, qw)", (2, 3, 6), (4, 3, 3), (4, 1, 1)),
}


def case(name: str) -> tuple[set[str], list[dict[str, Array]]]:
    node, x, w, scale = {**PRODUCTS, **NEAR_MISSES}[name]
    sizes = [",".join(map(str, shape)) for shape in (x, w, scale)]
    text = product(node, *sizes).replace("float[] t", "float t")
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=x).astype(np.float32),
        "w": rng.normal(size=w).astype(np.float32),
        "s": np.array(0.03, np.float32),
        "t": rng.uniform(0.01, 0.03, scale).astype(np.float32),
    }
    return forward(text, arrays)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_run_on_integers(name: str) -> None:
    operators, (expected, found) = case(name)
    assert not operators & {"MatMul", "Conv"}
    size = float(np.abs(expected["y"]).max())
    # The float product rounds after every addition, at most 27 of them.
    assert found["y"] == pytest.approx(expected["y"], abs=27 * 2**-24 * size)


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_other_products_stay_float(name: str) -> None:
    operators, (expected, found) = case(name)
    assert operators & {"MatMul", "Conv"}
    assert np.array_equal(found["y"], expected["y"])


def test_a_convolution_keeps_its_bias() -> None:
    text = product(
        "Conv<strides=[2,1]>(qx, qw, b)", "1,2,5,5", "3,2,3,3", "3,1,1,1", ", float[3] b"
    )
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=(1, 2, 5, 5)).astype(np.float32),
        "w": rng.normal(size=(3, 2, 3, 3)).astype(np.float32),
        "s": np.array(0.03, np.float32),
        "t": np.full((3, 1, 1, 1), 0.02, np.float32),
        "b": np.array([1, 10, 100], np.float32),
    }
    operators, (expected, found) = forward(text, arrays)
    assert "ConvInteger" in operators
    assert found["y"] == pytest.approx(expected["y"], rel=1e-6, abs=1e-5)


def test_extreme_codes_do_not_saturate() -> None:
    text = product("MatMul(qx, qw)", "4,512", "512,4", "1,4")
    signs = np.where(np.arange(4) % 2, 1, -1).astype(np.float32)
    arrays = {
        "x": np.outer(signs, np.full(512, 127)).astype(np.float32),
        "w": np.outer(np.full(512, 127), signs).astype(np.float32),
        "s": np.array(1, np.float32),
        "t": np.ones((1, 4), np.float32),
    }
    _, (_, found) = forward(text, arrays)
    assert np.array_equal(found["y"], 512 * 127**2 * np.outer(signs, signs))


CHANGES = {
    "another number": ("coarse = {12582912}", "coarse = {12582913}"),
    "a fraction": ("low = {-127}", "low = {-126.5}"),
    "too many codes": ("low = {-127}", "low = {-129}"),
    "no zero": ("low = {-127}", "low = {1}"),
    "other scale": ("qx = Mul(qx4, s)", "qx = Mul(qx4, high)"),
    "inner output": ("(float y)", "(float y, float qx2)"),
    "inner use": ("y = MatMul(qx, qw)", "z = Neg(qx3)\n y = MatMul(qx, qw)"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_chains_are_left(change: str) -> None:
    text = product("MatMul(qx, qw)", "4,8", "8,4", "1,4")
    whole = fakequant.find(ir.to_proto(ir.from_onnx_text(text)))
    assert {f.x: (f.low, f.high, f.axis) for f in whole.values()} == {
        "x": (-127, 127, None),
        "w": (-127, 127, 1),
    }
    before, after = CHANGES[change]
    assert before in text
    assert "qx" not in fakequant.find(
        ir.to_proto(ir.from_onnx_text(text.replace(before, after)))
    )


def test_repeated_and_renaming_nodes_go() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y, float[N] z, float[N] r) {
        a = Neg(x)
        b = Identity(a)
        c = Neg(x)
        d = Neg(b)
        e = Neg(c)
        y = Add(d, e)
        z = Identity(y)
        u = RandomUniformLike(x)
        v = RandomUniformLike(x)
        r = Sub(u, v)
    }"""
    model = ir.to_proto(ir.from_onnx_text(text))
    with_kernels(model, {})
    operators = [node.op_type for node in model.graph.node]
    assert sorted(operators) == sorted(
        ["Neg", "Neg", "Add", "Identity", "RandomUniformLike", "RandomUniformLike", "Sub"]
    )
    x = np.arange(5, dtype=np.float32)
    found = nets.run(model, {"x": x}, optimize=False)
    assert np.array_equal(found["y"], 2 * x)
    assert np.array_equal(found["z"], 2 * x)

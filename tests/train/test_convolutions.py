"""Convolutions and their gradients on blocked kernels: the numbers of the runtime's own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from gpusq_compiler.runtime.session import session_options
from gpusq_compiler.train.gradients.gradient import gradient_graph, with_inputs
from gpusq_compiler.train.kernels import blocked, strided
from gpusq_compiler.train.protograph import array_of
from tests.train import nets
from tests.train.test_gradient import gradients, slope, with_loss

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Array

pytestmark = [pytest.mark.training, nets.needs_training]
needs_blocks = pytest.mark.skipif(
    blocked.block() is None,
    reason="needs a processor that ONNX Runtime has blocked kernels for",
)


class Case(NamedTuple):
    """A convolution of x by w."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    attributes: dict[str, Any]


def case(x: tuple[int, ...], w: tuple[int, ...], **attributes: Any) -> Case:
    return Case(x, w, attributes)


SAME = [1, 1, 1, 1]
WHOLE = {
    "plain": case((2, 32, 6, 5), (16, 32, 3, 3), pads=SAME),
    "unpadded": case((2, 16, 6, 5), (32, 16, 3, 2)),
    "uneven pads": case((2, 16, 6, 5), (16, 16, 3, 3), pads=[0, 1, 2, 1]),
    "dilated": case((2, 16, 7, 6), (16, 16, 3, 2), dilations=[2, 3], pads=[1, 0, 2, 1]),
    "pointwise": case((3, 16, 4, 4), (48, 16, 1, 1)),
    "few outputs": case((2, 16, 5, 5), (3, 16, 3, 3), pads=SAME),
    "strided": case((2, 16, 6, 6), (32, 16, 3, 3), strides=[2, 2], pads=SAME),
    "strided one way": case((2, 32, 5, 6), (16, 32, 3, 3), strides=[1, 2]),
    "long strides": case((2, 16, 9, 8), (16, 16, 5, 4), strides=[3, 2], pads=[2, 1, 1, 1]),
    "strided, few outputs": case(
        (2, 16, 6, 6), (3, 16, 2, 4), strides=[2, 2], pads=[0, 1] * 2
    ),
    "depthwise": case((2, 16, 6, 5), (16, 1, 3, 2), group=16, pads=[1, 0, 2, 1]),
    "depthwise, dilated": case((2, 32, 6, 5), (32, 1, 2, 2), group=32, dilations=[2, 1]),
}
"""Of which blocked kernels compute ``dx``."""
AS_BEFORE = {
    "strided, pointwise": case((2, 16, 6, 6), (16, 16, 1, 1), strides=[2, 2]),
    "strided, odd": case((2, 16, 7, 6), (16, 16, 3, 3), strides=[2, 2], pads=SAME),
    "strided, dilated": case((2, 16, 8, 8), (16, 16, 2, 2), strides=[2, 2], dilations=[3, 3]),
    "strided, more pads": case((2, 16, 6, 6), (16, 16, 3, 3), strides=[2, 2], pads=[3] * 4),
    "strided, no block": case((2, 20, 6, 6), (16, 20, 3, 3), strides=[2, 2], pads=SAME),
    "depthwise, strided": case((2, 16, 6, 6), (16, 1, 3, 3), group=16, strides=[2, 2]),
    "more pads than taps": case((2, 16, 5, 5), (16, 16, 2, 2), pads=[2, 1, 1, 1]),
    "groups": case((2, 32, 5, 5), (32, 16, 3, 3), group=2),
    "more outputs than groups": case((2, 16, 5, 5), (32, 1, 3, 3), group=16),
    "inputs that fill no block": case((2, 20, 5, 5), (16, 20, 3, 3)),
    "outputs that fill no block": case((2, 16, 5, 5), (20, 16, 3, 3)),
    "line": case((2, 16, 9), (16, 16, 3), pads=[1, 1]),
    "space": case((2, 16, 4, 3, 4), (16, 16, 2, 2, 2)),
}
"""Of which the runtime's own gradient does."""
CASES = {**WHOLE, **AS_BEFORE}


def model_of(case: Case) -> ir.Model:
    """``y`` = Conv(x, w, b)."""
    net = nets.Net(1)
    bias = net.rng.normal(size=case.w[0]).astype(np.float32)
    weights = net.weight("w", *case.w), net.constant("b", bias)
    net.add("Conv", "x", *weights, out="y", **case.attributes)
    return net.model(list(case.x), {"y": list("ncyxz"[: len(case.x)])})


def both_ways(
    loss: onnx.ModelProto, names: list[str], x: Array
) -> tuple[onnx.GraphProto, dict[str, Array], dict[str, Array]]:
    """The graph with kernels; what the builder's graph and what that one computes."""
    feeds = {"x": x, **{t.name: array_of(t) for t in loss.graph.initializer}}
    found = []
    for kernels in (False, True):
        moved = with_inputs(loss, names)
        graph = onnx.load_from_string(gradient_graph(moved, names, "loss", kernels=kernels))
        fed = {value.name: feeds[value.name] for value in graph.graph.input}
        found.append(nets.run(graph, fed, optimize=False))
    return graph.graph, found[0], found[1]


def conv_ways(
    case: Case, names: list[str]
) -> tuple[onnx.GraphProto, dict[str, Array], dict[str, Array]]:
    x = np.random.default_rng(2).normal(size=case.x).astype(np.float32)
    return both_ways(with_loss(model_of(case), "y"), names, x)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_builders_graph(name: str) -> None:
    _, plain, fast = conv_ways(CASES[name], ["x", "w", "b"])
    assert fast["loss"] == pytest.approx(plain["loss"], abs=2e-7)  # a mean of sines
    for key in ("x_grad", "w_grad", "b_grad"):
        size = float(np.abs(plain[key]).max())
        # Sums of a few hundred products, added up in another order.
        assert fast[key] == pytest.approx(plain[key], abs=2e-6 * size), key


@needs_blocks
@pytest.mark.parametrize("name", CASES)
def test_which_kernel_computes_the_inputs_gradient(name: str) -> None:
    nodes = conv_ways(CASES[name], ["x", "w", "b"])[0].node
    of_input = [n for n in nodes if n.op_type == "ConvGrad" and n.output[0]]
    assert bool(of_input) == (name in AS_BEFORE)
    assert sum(n.op_type == "ConvGrad" for n in nodes) == 1


@pytest.mark.parametrize("name", WHOLE)
def test_gradients_against_differences(name: str) -> None:
    case = CASES[name]
    x = np.random.default_rng(2).normal(size=case.x).astype(np.float32)
    loss, feeds = with_loss(model_of(case), "y"), {"x": x}
    found, values = gradients(loss, ["x", "w", "b"], feeds)
    for index, (parameter, gradient) in enumerate(found.items()):
        along = np.random.default_rng(index).normal(size=gradient.shape)
        along = along + np.sign(gradient) * 2
        expected = slope(loss, parameter, values[parameter], along, feeds)
        assert np.vdot(gradient, along) == pytest.approx(expected, rel=0.03, abs=2e-4)


@needs_blocks
def test_the_gradient_of_the_input_alone() -> None:
    """No gradient of a weight is computed that nobody wants."""
    nodes = conv_ways(WHOLE["plain"], ["x"])[0].node
    assert all(node.op_type != "ConvGrad" for node in nodes)


@needs_blocks
@pytest.mark.parametrize(("name", "forward"), [
    ("plain", True), ("strided, odd", True), ("depthwise, strided", True), ("pointwise", True),
    ("few inputs", True), ("few outputs", False), ("groups", False), ("line", False),
    ("inputs that fill no block", False),
])  # fmt: skip
def test_which_convolutions_run_in_blocks(name: str, forward: bool) -> None:
    few = case((2, 3, 6, 6), (16, 3, 3, 3), strides=[2, 2], pads=SAME)
    graph, plain, fast = conv_ways({**CASES, "few inputs": few}[name], ["w"])
    domains = [node.domain for node in graph.node if node.op_type == "Conv"]
    assert domains == [blocked.DOMAIN if forward else ""]
    assert fast["loss"] == pytest.approx(plain["loss"], abs=2e-7)


@needs_blocks
def test_without_sizes_a_strided_gradient_stays() -> None:
    """How the remainders fall is known with the image's size."""
    model = model_of(WHOLE["strided"])
    model.graph.inputs[0].shape = ir.Shape(["N", 16, "h", "w"])
    x = np.random.default_rng(2).normal(size=(2, 16, 6, 6)).astype(np.float32)
    graph, plain, fast = both_ways(with_loss(model, "y"), ["x"], x)
    assert any(n.op_type == "ConvGrad" and n.output[0] for n in graph.node)
    size = float(np.abs(plain["x_grad"]).max())
    assert fast["x_grad"] == pytest.approx(plain["x_grad"], abs=2e-6 * size)


def test_phases_of_an_axis() -> None:
    """The usual one: 3 taps, stride 2, one zero on either side."""
    even, odd = strided.phases(length=8, taps=3, stride=2, pads=(1, 1))
    assert even == strided.Phase(taps=(1,), before=0, after=0)
    assert odd == strided.Phase(taps=(2, 0), before=0, after=1)


def reordered(x: Array, width: int) -> Array:
    """What ReorderInput makes of ``[n, c, y, x]`` with blocks of ``width``."""
    n, c, h, w = x.shape
    found: Array = x.reshape(n, c // width, width, h * w).swapaxes(2, 3)
    return found


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("size", [(16, 32, 3, 2), (48, 16, 1, 1)])
def test_rows_of_a_weight_for_every_width(width: int, size: tuple[int, ...]) -> None:
    """``[out/b, in/b, y x, b of in, b of out]``, of the weight and of the turned one."""
    weight = np.arange(math.prod(size), dtype=np.float32).reshape(size)
    out, into, *_ = size
    form = blocked.Images(
        size=size, width=width, group=1, strides=[1, 1], dilations=[1, 1], pads=[0] * 4
    )
    turned = form.turned()
    assert turned is not None
    swapped = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    taps = math.prod(size[2:])
    strips = reordered(weight.reshape(1, out, into * taps, 1), width).reshape(-1, width)
    found = strips[blocked.rows_of(form)]
    assert np.array_equal(found.ravel(), in_blocks(weight, width).ravel())
    strips = reordered(weight.reshape(out, into, taps, 1), width).reshape(-1, width)
    found = strips[blocked.turned_rows(turned, range(taps)[::-1])]
    assert np.array_equal(found.ravel(), in_blocks(swapped, width).ravel())


def in_blocks(weight: Array, width: int) -> Array:
    out, into = weight.shape[:2]
    parts = weight.reshape(out // width, width, into // width, width, -1)
    found: Array = parts.transpose(0, 2, 4, 3, 1)
    return found


@needs_blocks
def test_blocks_are_those_that_the_runtime_makes_itself(tmp_path: Path) -> None:
    case = WHOLE["plain"]
    options = session_options(threads=1)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        ir.to_proto(model_of(case)).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    kept = onnx.load(tmp_path / "optimized.onnx").graph.initializer
    weight = next(t for t in ir.to_proto(model_of(case)).graph.initializer if t.name == "w")
    width = blocked.block()
    assert width is not None
    expected = in_blocks(array_of(weight), width).ravel()
    assert any(np.array_equal(array_of(t).ravel(), expected) for t in kept)


def first_layer(more: str = "Identity", *, channels: int = 16) -> ir.Model:
    """A convolution of quantized x, and what else reads the quantized one."""
    net = nets.Net(3)
    scale = net.constant("s", np.array(0.015, np.float32))
    codes = net.add("QuantizeLinear", "x", scale, net.constant("z", np.array(0, np.int8)))
    dq = net.add("DequantizeLinear", codes, scale, "z")
    weight = net.weight("w", channels, 3, 3, 3)
    y = net.add("Conv", dq, weight, strides=[2, 2], pads=SAME)
    if more == "Conv":
        other = net.add("Conv", dq, net.add("Neg", weight), strides=[2, 2], pads=SAME)
        y = net.add("Add", y, net.add("Sin", other))
    elif more == "ReduceMean":
        y = net.add("Add", y, net.add("ReduceMean", dq, keepdims=1))
    net.add("Identity", y, out="y")
    return net.model(["N", 3, 8, 8], {"y": ["n", "c", "h", "w"]})


X = np.random.default_rng(4).normal(size=(2, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("channels", [16, 5])
def test_a_first_layers_scale_needs_no_gradient_of_its_input(channels: int) -> None:
    assert 0.01 < np.mean(np.abs(X) > 0.015 * 127.5) < 0.3  # some are cut off
    loss = with_loss(first_layer(channels=channels), "y")
    graph, plain, fast = both_ways(loss, ["s", "w"], X)
    assert all(not node.output[0] for node in graph.node if node.op_type == "ConvGrad")
    # A difference of sums in the builder's graph.
    assert fast["s_grad"] == pytest.approx(plain["s_grad"], rel=2e-4)
    assert fast["w_grad"] == pytest.approx(plain["w_grad"], abs=1e-6)


@pytest.mark.parametrize(("more", "names"), [
    ("Identity", ["s", "w", "x"]), ("Conv", ["s", "w"]), ("ReduceMean", ["s", "w"]),
])  # fmt: skip
def test_where_the_inputs_gradient_is_wanted_it_is_there(more: str, names: list[str]) -> None:
    graph, plain, fast = both_ways(with_loss(first_layer(more), "y"), names, X)
    assert any(node.output[0] for node in graph.node if node.op_type == "ConvGrad")
    for name in names:
        expected = plain[f"{name}_grad"]
        size = float(np.abs(expected).max())
        assert fast[f"{name}_grad"] == pytest.approx(expected, abs=2e-4 * size), name

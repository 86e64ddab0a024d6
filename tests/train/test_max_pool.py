"""The largest code of a window and its place in one pass: what the runtime's MaxPool says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpusq_compiler.train.kernels import pooling
from tests.train import nets
from tests.train.test_convolutions import both_ways
from tests.train.test_gradient import with_loss

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array

pytestmark = [pytest.mark.training, nets.needs_training]

WINDOWS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "resnet": (
        (2, 3, 8, 9),
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    "touching": ((2, 3, 8, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "overlapping": ((1, 2, 7, 7), {"kernel_shape": [3, 2], "pads": [0, 1, 2, 0]}),
    "dilated": ((1, 2, 7, 7), {"kernel_shape": [2, 3], "dilations": [3, 2]}),
    "ceil": ((2, 1, 7, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "line": ((2, 3, 12), {"kernel_shape": [4], "strides": [2]}),
    "space": ((1, 2, 4, 5, 4), {"kernel_shape": [2, 2, 2]}),
}


def pooled(
    size: tuple[int, ...], attributes: dict[str, Any], *, kind: type = np.int8, zero: int = 0
) -> ir.Model:
    """MaxPool of x, behind Q and DQ if there is a kind."""
    net, x = nets.Net(), "x"
    if kind is not float:
        scale = net.constant("s", np.array(0.4, np.float32))
        codes = net.add("QuantizeLinear", x, scale, net.constant("z", np.array(zero, kind)))
        x = net.add("DequantizeLinear", codes, scale, "z")
    net.add("MaxPool", x, out="y", **attributes)
    return net.model(list(size), {"y": list("ncyxz"[: len(size)])})


def x_of(size: tuple[int, ...]) -> Array:
    """Few codes, so that most windows have several largest elements; some are cut off."""
    x = np.random.default_rng(0).normal(0, 0.6, size).astype(np.float32)
    x.flat[::17] = 99
    x.flat[5::23] = -99
    return x


def pools(graph: onnx.GraphProto) -> list[int]:
    """How many outputs each MaxPool has."""
    return [len(node.output) for node in graph.node if node.op_type == "MaxPool"]


def same_places(found: Array, expected: Array) -> None:
    """The same elements have a gradient, and it is the same but for its last bit."""
    assert np.any(expected != 0)
    assert np.array_equal(found != 0, expected != 0)
    assert found == pytest.approx(expected, rel=2e-7)


@pytest.mark.parametrize(("kind", "zero"), [(np.int8, 0), (np.uint8, 0), (np.uint8, 90)])
@pytest.mark.parametrize("name", WINDOWS)
def test_values_and_places_are_the_runtimes(name: str, kind: type, zero: int) -> None:
    size, attributes = WINDOWS[name]
    loss = with_loss(pooled(size, attributes, kind=kind, zero=zero), "y")
    graph, plain, fast = both_ways(loss, ["x", "s"], x_of(size))
    assert pools(graph) == [1]
    assert fast["loss"] == pytest.approx(plain["loss"], rel=2e-7)
    same_places(fast["x_grad"], plain["x_grad"])
    # Sums whose parts, of elements cut off, are 255 times as large as a code.
    assert fast["s_grad"] == pytest.approx(plain["s_grad"], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("case", ["float", "row by row", "too many places"])
def test_other_pools_are_left(case: str) -> None:
    size, attributes = WINDOWS["resnet"]
    if case == "row by row":
        attributes = {**attributes, "storage_order": 1}
    if case == "too many places":
        size = (1, 1, 257, 256)  # 2^17 times 2^8 codes are more than float32 counts
    model = pooled(size, attributes, kind=float if case == "float" else np.int8)
    loss, x = with_loss(model, "y"), x_of(size)
    graph, plain, fast = both_ways(loss, ["x"], x)
    assert pools(graph) == [2]
    same_places(fast["x_grad"], plain["x_grad"])


def test_as_many_places_as_float32_counts() -> None:
    size = (1, 1, 256, 256)
    loss = with_loss(pooled(size, WINDOWS["touching"][1]), "y")
    x = x_of(size)
    x[0, 0, -2:] = -99  # the code 0 at the last places: the smallest number
    x[0, 0, :2] = 99
    graph, plain, fast = both_ways(loss, ["x"], x)
    assert pools(graph) == [1]
    assert pooling.MOST == 256 * 256 * 256
    same_places(fast["x_grad"], plain["x_grad"])
    assert fast["loss"] == pytest.approx(plain["loss"], rel=2e-7)

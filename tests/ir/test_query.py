from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpusq_compiler.ir import edit, query
from gpusq_compiler.ir.gemms import operations
from tests import tiny

if TYPE_CHECKING:
    import onnx_ir as ir


def only_use(model: ir.Model) -> query.WeightUse:
    (use,) = query.weight_uses(model)
    return use


# What the product sums over, and which axis of the weight becomes the output's channels,
# written down from the operators' definitions.
AXES = {
    "y = MatMul(x, w)": ("N, 8", "8, 6", "N, 6", 1, 0, 1),
    "y = MatMul(w, x)": ("8, 3", "6, 8", "6, 3", 0, 1, 0),
    "y = Gemm(x, w)": ("N, 8", "8, 6", "N, 6", 1, 0, 1),
    "y = Gemm<transB = 1>(x, w)": ("N, 8", "6, 8", "N, 6", 1, 1, 0),
    "y = Gemm(w, x)": ("8, 3", "6, 8", "6, 3", 0, 1, 0),
    "y = Gemm<transA = 1>(w, x)": ("8, 3", "8, 6", "6, 3", 0, 0, 1),
    "y = Gemm<transA = 1>(x, w)": ("8, 3", "8, 6", "3, 6", 1, 0, 1),
    "y = Conv(x, w)": ("N, 8, 4, 4", "6, 8, 1, 1", "N, 6, 4, 4", 1, 1, 0),
    "y = ConvTranspose(x, w)": ("N, 8, 4, 4", "8, 6, 1, 1", "N, 6, 4, 4", 1, 0, 1),
}


@pytest.mark.parametrize("node", AXES)
def test_axes(node: str) -> None:
    x, w, y, operand, reduction, channel = AXES[node]
    model = tiny.model_of(f"net (float[{x}] x) => (float[{y}] y) <float[{w}] w> {{ {node} }}")
    use = only_use(model)
    assert (use.operand, use.reduction, use.channel) == (operand, reduction, channel)
    assert use.reduction_length == 8
    assert use.shape[channel] == 6
    assert use.activation is model.graph.inputs[0]
    assert use.value is model.graph.initializers["w"]
    assert not use.depthwise


def test_a_batched_weight_reduces_the_last_but_one() -> None:
    model = tiny.model_of("""
    net (float[5, N, 8] x) => (float[5, N, 6] y) <float[5, 8, 6] w> { y = MatMul(x, w) }
    """)
    assert (only_use(model).reduction, only_use(model).channel) == (1, 2)


@pytest.mark.parametrize(
    ("operator", "shape", "group", "length", "depthwise"),
    [
        ("Conv", "8, 4, 3, 3", 2, 4, False),
        ("Conv", "8, 1, 3, 3", 8, 1, True),
        ("Conv", "16, 1, 3, 3", 8, 1, True),
        ("ConvTranspose", "8, 4, 3, 3", 2, 4, False),
        ("ConvTranspose", "8, 1, 3, 3", 8, 1, True),
    ],
)
def test_groups(operator: str, shape: str, group: int, length: int, depthwise: bool) -> None:
    first, second = (int(d) for d in shape.split(",")[:2])
    channels = first if operator == "Conv" else second * group
    model = tiny.model_of(f"""
    net (float[N, 8, 4, 4] x) => (float[N, {channels}, h, v] y) <float[{shape}] w> {{
        y = {operator}<group = {group}>(x, w)
    }}""")
    use = only_use(model)
    assert use.groups == group
    assert use.reduction_length == length
    assert use.depthwise is depthwise


@pytest.mark.parametrize(
    "body",
    [
        "<float[8, 8] w> { y = Add(x, w) }",
        "<float[8] w> { y = MatMul(x, w) }",
        "{ y = MatMul(x, x) }",
    ],
)
def test_what_is_no_weight(body: str) -> None:
    shape = "8" if "float[8] w" in body else "8, 8"
    model = tiny.model_of(f"net (float[8, 8] x) => (float[{shape}] y) {body}")
    assert list(query.weight_uses(model)) == []


def test_an_initializer_that_is_an_input_is_no_constant() -> None:
    model = tiny.mlp()
    model.graph.inputs.append(model.graph.initializers["w1"])
    assert [use.value.name for use in query.weight_uses(model)] == ["w2"]


@pytest.mark.parametrize(
    ("node", "shape", "sums_of_nothing"),
    [
        ("MatMul(x, w)", "0, 6", True),
        ("Gemm(x, w)", "0, 6", True),
        ("Gemm<transB = 1>(x, w)", "6, 0", True),
        ("Gemm<transB = 1>(x, w)", "0, 6", False),
        ("MatMul(x, w)", "6, 0", False),
        ("MatMul(x, w)", "6, 6", False),
    ],
)
def test_sum_of_nothing(node: str, shape: str, sums_of_nothing: bool) -> None:
    model = tiny.model_of(
        f"net (float[N, K] x) => (float[N, M] y) <float[{shape}] w> {{ y = {node} }}"
    )
    found = query.sum_of_nothing(model)
    assert found == (model.graph.node(0) if sums_of_nothing else None)


def test_a_weight_without_values_is_no_layer() -> None:
    model = tiny.model_of("""
    hollow (float[N, 16] x) => (float[N, 8] y)
    <float[16, 0] none, float[0, 8] nothing, float[16, 8] w> {
        a = MatMul(x, none)
        b = MatMul(a, nothing)
        c = MatMul(x, w)
        y = Add(b, c)
    }""")
    assert [use.value.name for use in query.weight_uses(model)] == ["w"]


def test_an_operator_of_another_domain_is_no_layer() -> None:
    model = tiny.mlp()
    tiny.node(model, "Gemm.a").domain = "their.domain"
    assert [use.value.name for use in query.weight_uses(model)] == ["w2"]


def test_weights_are_seen_through_quantizers_and_in_bodies() -> None:
    assert [use.value.name for use in query.weight_uses(tiny.int4_weight())] == ["codes", "w"]
    names = [use.value.name for use in query.weight_uses(tiny.if_branch())]
    assert names == ["w", "w_then", "w_else"]


def conv(kernel: str, strides: str, before: str = "x") -> ir.Model:
    return tiny.model_of(f"""
    net (float[N, 4, 8, 8] x) => (float[N, 8, h, v] y) <float[8, 4, {kernel}] w> {{
        a = Relu(x)
        y = Conv<strides = [{strides}]>({before}, w)
    }}""")


@pytest.mark.parametrize(
    ("kernel", "strides", "stem"),
    [
        ("3, 3", "1, 1", True),
        ("3, 3", "2, 2", True),
        ("2, 2", "2, 2", False),
        ("4, 2", "4, 2", False),
        ("1, 1", "1, 1", True),
    ],
)
@pytest.mark.parametrize("before", ["x", "a"])
def test_a_stem_is_no_patch_embedding(
    kernel: str, strides: str, stem: bool, before: str
) -> None:
    assert query.is_stem(only_use(conv(kernel, strides, before))) is stem


def test_only_the_first_convolution_is_a_stem() -> None:
    stems = {use.value.name: query.is_stem(use) for use in query.weight_uses(tiny.residual())}
    assert stems == {"w1": True, "w2": False, "w3": False}
    assert not any(map(query.is_stem, query.weight_uses(tiny.mlp())))


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("mlp", {"w1", "b1", "w2", "b2"}),
        ("conv_bn_relu", {"w1", "g1", "b1", "w2", "bias2", "g2", "b2", "w3", "b3"}),
        ("attention", {"norm_g", "norm_b", "w_qkv", "b_qkv", "w_out", "b_out"}),
        ("if_branch", {"w", "w_else"}),
        ("bf16_matmul", {"w"}),
        ("int4_weight", {"w"}),
    ],
)
def test_parameters_are_trainable_and_constants_are_not(
    which: str, expected: set[str]
) -> None:
    found = [value.name for value in query.trainable_values(tiny.MODELS[which]())]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_a_table_that_a_gather_reads_is_not_trainable() -> None:
    model = tiny.model_of("""
    net (float[N, 4] x, int64[N] ids) => (float[N, 4] y) <float[9, 4] table> {
        row = Gather(table, ids)
        y = Add(x, row)
    }""")
    assert query.trainable_values(model) == []


def test_critical_layers_are_the_residual_sums() -> None:
    model = tiny.residual()
    edit.infer_shapes(model)
    assert [v.name for v in query.critical_values(model)] == ["s"]


def test_without_residuals_the_layers_are_critical() -> None:
    assert [v.name for v in query.critical_values(tiny.mlp())] == ["a", "z"]
    lines = "\n".join(f"h{i + 1} = MatMul(h{i}, w)" for i in range(9))
    model = tiny.model_of(f"""
    net (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w> {{
        h0 = Relu(x)
        {lines}
        y = Relu(h9)
    }}""")
    assert [v.name for v in query.critical_values(model)] == ["h1", "h3", "h5", "h7"]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("mlp", 16 * 32 + 32 * 10),
        ("residual", (8 * 8 * 9 + 8 * 4 * 9 + 8 * 8) * 36),
        ("attention", 4 * 16 * 48 + 4 * 16 * 16),
    ],
)
def test_operations_per_sample(which: str, expected: int) -> None:
    model = tiny.MODELS[which]()
    edit.infer_shapes(model)
    shapes = {
        value.name or "": [d if isinstance(d, int) else 1 for d in value.shape or ()]
        for node in model.graph
        for value in node.outputs
    }
    assert operations(model, shapes) == expected


def test_a_post_norm_stream_goes_on_behind_the_norm() -> None:
    model = tiny.model_of("""
    net (float[N, 4] x) => (float[N, 4] y)
    <float[4, 4] w, float[4] g, float[4] b, float[4, 4] v> {
        h = MatMul(x, w)
        r = Relu(h)
        s = Add(h, r)
        n = LayerNormalization(s, g, b)
        y = MatMul(n, v)
    }""")
    edit.infer_shapes(model)
    assert [v.name for v in query.critical_values(model)] == ["n"]


@pytest.mark.parametrize(
    ("model", "convolutional"),
    [(tiny.conv_bn_relu(), True), (tiny.residual(), True), (tiny.mlp(), False)],
)
def test_convolutional_is_what_holds_most_weights_in_kernels(
    model: ir.Model, convolutional: bool
) -> None:
    assert query.is_convolutional(model) is convolutional


def test_kernels_of_one_element_are_matrices() -> None:
    model = tiny.model_of("""
    net (float[N, 8, 4, 4] x) => (float[N, 8, 4, 4] y)
        <float[8, 8, 1, 1] w, float[8, 1, 3, 3] v> {
        c = Conv(x, w)
        y = Conv<group = 8, pads = [1, 1, 1, 1]>(c, v)
    }""")
    assert query.is_convolutional(model) == (8 * 9 > 64)
    weights = {use.value.name: use for use in query.weight_uses(model)}
    weights["v"].value.const_value = None
    assert not query.is_convolutional(model)

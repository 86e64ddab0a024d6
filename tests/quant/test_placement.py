"""Each rule on one small graph: which tensors get a pair, who reads it, what is refused.

Graphs name their tensors by role: ``w...`` are weights, the sparse ones ``ws...``.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from gpusq_compiler.ir import claims, query
from gpusq_compiler.quant.placement import (
    PLACEMENTS,
    TARGETS,
    Draft,
    Placement,
    Scene,
    Site,
    gemms,
    place,
)
from gpusq_compiler.quant.placement.pairs import insert
from gpusq_compiler.runtime.session import Session
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir


def scene_of(model: ir.Model, *, without: str = "", **options: Any) -> Scene:
    for name, value in model.graph.initializers.items():
        if name.startswith("ws"):
            value.metadata_props[claims.SPARSITY] = "2:4 axis=0"
    layers = tuple(use for use in query.weight_uses(model) if use.value.name != without)
    return Scene(graph=model.graph, layers=layers, **options)


def draft_of(
    text: str, placement: Placement = "tensorrt-sparse", *, opset: int = 17, **options: Any
) -> Draft:
    return place(placement, scene_of(tiny.model_of(text, opset=opset), **options))


def net(
    shape: str,
    weight: str,
    body: str,
    *,
    weights: str = "ws",
    outputs: str = "y",
    more: str = "",
) -> str:
    """A graph whose tensors have one shape, and its weights another."""
    given = ", ".join(f"float[{shape}] {name}" for name in outputs.split())
    held = ", ".join([*(f"float[{weight}] {name}" for name in weights.split()), more])
    return f"net (float[{shape}] x) => ({given}) <{held.rstrip(', ')}> {{ {body} }}"


rows = functools.partial(net, "N, 8", "8, 8")
images = functools.partial(net, "N, 4, 5, 5", "4, 4, 1, 1")


def readers(sites: Iterable[Site]) -> dict[str, list[str]]:
    """Who reads every tensor that is quantized, by the names of their outputs."""
    return {
        str(site.value.name): sorted(str(node.outputs[0].name) for node, _ in site.readers)
        for site in sites
    }


def activations(draft: Draft) -> dict[str, list[str]]:
    return readers(site for site in draft.sites if not site.weight)


def repeats(draft: Draft) -> dict[str, list[str]]:
    return readers(draft.repeats)


def weights(draft: Draft) -> dict[str, str]:
    return {str(site.value.name): str(site.scheme) for site in draft.sites if site.weight}


def refusals(draft: Draft) -> dict[str, str]:
    for refusal in draft.refusals:
        assert len(refusal.reason.split()) > 3
    return {refusal.where: refusal.rule for refusal in draft.refusals}


# gemm-inputs ------------------------------------------------------------------------------


LAYOUTS = [
    # x, weight, y, node, channel axis of the weight
    ("N, 8", "8, 4", "N, 4", "MatMul(x, w)", 1),
    ("8, N", "4, 8", "4, N", "MatMul(w, x)", 0),
    ("N, 2, 8", "8, 4", "N, 2, 4", "MatMul(x, w)", 1),
    ("3, N, 8", "3, 8, 4", "3, N, 4", "MatMul(x, w)", None),
    ("N, 8", "8, 4", "N, 4", "Gemm(x, w)", 1),
    ("N, 8", "4, 8", "N, 4", "Gemm<transB = 1>(x, w)", 0),
    ("8, N", "4, 8", "4, N", "Gemm(w, x)", 0),
    ("8, N", "8, 4", "4, N", "Gemm<transA = 1>(w, x)", 1),
    ("N, 8, 9", "4, 8, 3", "N, 4, 7", "Conv(x, w)", 0),
    ("N, 8, 5, 5", "4, 4, 3, 3", "N, 4, 3, 3", "Conv<group = 2>(x, w)", 0),
    ("N, 8, 5, 5", "8, 1, 3, 3", "N, 8, 3, 3", "Conv<group = 8>(x, w)", 0),
    ("N, 2, 4, 4, 4", "4, 2, 3, 3, 3", "N, 4, 2, 2, 2", "Conv(x, w)", 0),
    ("N, 8, 5, 5", "8, 4, 3, 3", "N, 4, 7, 7", "ConvTranspose(x, w)", 1),
    ("N, 8, 5, 5", "8, 4, 3, 3", "N, 8, 7, 7", "ConvTranspose<group = 2>(x, w)", None),
]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(("shapes", "axis"), [(row[:4], row[4]) for row in LAYOUTS])
def test_gemm_inputs_quantises_both_factors_of_every_layout(
    shapes: tuple[str, str, str, str], axis: int | None, placement: Placement
) -> None:
    x, w, y, node = shapes
    text = f"net (float[{x}] x) => (float[{y}] y) <float[{w}] w> {{ y = {node} }}"
    draft = draft_of(text, placement)
    grain = "per-tensor" if axis is None else f"per-channel axis={axis}"
    assert weights(draft) == {"w": f"int8 {grain}"}
    assert activations(draft) == {"x": ["y"]}


def test_gemm_inputs_leaves_the_bias_and_everything_else_float() -> None:
    body = "a = Gemm(x, ws, b)  h = Relu(a)  s = Add(h, x)  y = MatMul(s, w2)"
    draft = draft_of(rows(body, weights="ws w2", more="float[8] b"), "gemm-inputs")
    assert activations(draft) == {"x": ["a"], "s": ["y"]}
    assert list(weights(draft)) == ["ws", "w2"]
    assert not draft.refusals


def test_gemm_inputs_leaves_an_input_that_is_quantised_already() -> None:
    draft = draft_of(
        """
        net (float[N, 8] x) => (float[N, 4] y) <float[8, 4] w, float s = {0.1}> {
            q = QuantizeLinear(x, s)
            d = DequantizeLinear(q, s)
            y = MatMul(d, w)
        }""",
    )
    assert activations(draft) == {}
    assert refusals(draft) == {"MatMul.y": "already-quantized"}


def test_a_weight_read_along_one_axis_is_quantised_once_and_along_two_twice() -> None:
    body = "a = MatMul(x, w)  b = MatMul(a, w)  y = Gemm<transB = 1>(b, w)"
    draft = draft_of(rows(body, weights="w"), "gemm-inputs")
    sites = [site for site in draft.sites if site.weight]
    assert [(str(s.scheme), len(s.readers)) for s in sites] == [
        ("int8 per-channel axis=1", 2),
        ("int8 per-channel axis=0", 1),
    ]
    assert refusals(draft) == {"w": "two-axes"}


def test_a_weight_is_quantised_before_its_transpose() -> None:
    model = tiny.model_of("""
    net (float[N, 8] x) => (float[N, 4] y) <float[4, 8] w> {
        t = Transpose<perm = [1, 0]>(w)
        y = MatMul(x, t)
    }""")
    node = tiny.node(model, "MatMul.y")
    stored = model.graph.initializers["w"]
    use = query.WeightUse(node=node, operand=1, value=stored, reduction=1, channel=0)
    (site, _) = place("gemm-inputs", Scene(graph=model.graph, layers=(use,))).sites
    assert site.value is stored
    assert [(reader.op_type, index) for reader, index in site.readers] == [("Transpose", 0)]


# sparse-output ----------------------------------------------------------------------------

EPILOGUES = {
    "nothing": "e = Identity(b)",
    "Relu": "e = Relu(b)",
    "Clip": "e = Clip(b, zero, six)",
    "Gelu": "d = Div(b, two) r = Erf(d) p = Add(r, one) m = Mul(b, p) e = Mul(m, half)",
    "Gelu, half first": (
        "d = Div(b, two) r = Erf(d) p = Add(r, one) h = Mul(half, p) e = Mul(b, h)"
    ),
    "SiLU": "g = Sigmoid(b)  e = Mul(b, g)",
    "HardSwish": "p = Add(b, two)  c = Clip(p, zero, six)  m = Mul(b, c)  e = Div(m, six)",
    "scale": "e = Mul(b, half)",
}
CONSTANTS = "float zero={0}, float one={1}, float two={2}, float six={6}, float half={0.5}"


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_sparse_output_stands_behind_bias_and_activation(epilogue: str) -> None:
    draft = draft_of(f"""
    net (float[N, 8] x) => (float[N, 4] y)
    <float[8, 8] ws, float[8] bias, float[8, 4] w2, {CONSTANTS}> {{
        a = MatMul(x, ws)
        b = Add(bias, a)
        {EPILOGUES[epilogue]}
        k = ReduceSum<keepdims = 1>(e)
        f = MatMul(e, w2)
        y = Add(f, k)
    }}""")
    assert activations(draft) == {"x": ["a"], "e": ["f", "k"]}


def test_sparse_output_is_for_sparse_layers_only() -> None:
    text = """
    net (float[N, 8] x) => (float[N, 1] y) <float[8, 8] ws, float[8] b> {
        a = Gemm(x, ws, b)
        h = Relu(a)
        y = ReduceSum<keepdims = 1>(h)
    }"""
    assert activations(draft_of(text)) == {"x": ["a"], "h": ["y"]}
    assert activations(draft_of(text.replace("ws", "w"))) == {"x": ["a"]}


def test_sparse_output_of_a_transformer_block_leaves_the_residual_stream_float() -> None:
    body = """
        n = LayerNormalization(x, g)
        a = MatMul(n, ws)
        o = Add(a, b)
        s = Add(x, o)
        m = LayerNormalization(s, g)
        y = Add(s, m)"""
    draft = draft_of(rows(body, more="float[8] g, float[8] b"))
    assert activations(draft) == {"n": ["a"], "o": ["s"]}


def test_an_epilogue_ends_where_others_read_it() -> None:
    body = "a = MatMul(x, ws)  o = Add(a, b)  h = Relu(o)  y = Sqrt(h)  z = Sqrt(o)"
    draft = draft_of(rows(body, outputs="y z", more="float[8] b"))
    assert activations(draft) == {"x": ["a"], "o": ["h", "z"]}


def test_an_epilogue_ends_where_the_model_gives_it_out() -> None:
    body = "a = MatMul(x, ws)  o = Add(a, b)  h = Relu(o)  y = Sqrt(h)"
    draft = draft_of(rows(body, outputs="y o", more="float[8] b"))
    assert activations(draft) == {"x": ["a"]}
    assert refusals(draft) == {"o": "graph-output"}


def test_a_table_of_positions_is_no_bias() -> None:
    draft = draft_of("""
    net (float[N, 4, 8] x) => (float[N, 4, 8] y) <float[8, 8] ws, float[4, 8] positions> {
        a = MatMul(x, ws)
        s = Add(a, positions)
        y = Sqrt(s)
    }""")
    assert activations(draft) == {"x": ["a"], "a": ["s"]}


def test_graph_outputs_stay_float() -> None:
    draft = draft_of("""
    net (float[N, 8] x) => (float[N, 8] h, float[N, 4] y) <float[8, 8] ws, float[8, 4] ws2> {
        a = MatMul(x, ws)
        h = Relu(a)
        y = MatMul(h, ws2)
    }""")
    assert activations(draft) == {"x": ["a"], "h": ["y"]}
    assert refusals(draft) == {"h": "graph-output", "y": "graph-output"}


@pytest.mark.parametrize(
    "reader",
    [
        "y = LayerNormalization<axis = -1>(t, g)",
        "y = Softmax(t)",
        "mean = ReduceMean<axes = [-1]>(t)  y = Sub(t, mean)",
    ],
)
def test_inputs_of_norm_and_softmax_stay_float(reader: str) -> None:
    draft = draft_of(f"""
    net (float[N, 4, 8] x) => (float[N, 8, 4] y) <float[8, 8] ws, float[4] g> {{
        a = MatMul(x, ws)
        t = Transpose<perm = [0, 2, 1]>(a)
        {reader}
    }}""")
    assert activations(draft) == {"x": ["a"]}
    assert refusals(draft) == {"a": "float-reader"}


def test_outputs_of_norm_and_gelu_are_quantised_as_inputs_of_layers() -> None:
    draft = draft_of(
        """
        net (float[N, 8] x) => (float[N, 4] y)
        <float[8] g, float[8, 8] ws, float[8] b, float[8, 4] w2> {
            n = LayerNormalization(x, g)
            a = Gemm(n, ws, b)
            h = Gelu(a)
            y = MatMul(h, w2)
        }""",
        opset=20,
    )
    assert activations(draft) == {"n": ["a"], "h": ["y"]}


# residual Adds ----------------------------------------------------------------------------


def test_residual_add_quantises_the_skip_side_and_the_sum() -> None:
    body = "r = Sigmoid(x)  c = Conv(r, ws, b)  s = Add(r, c)  h = Relu(s)  y = Sqrt(h)"
    draft = draft_of(images(body, more="float[4] b"))
    assert activations(draft) == {"r": ["c", "s"], "h": ["y"]}


def test_residual_add_of_two_convolutions_fuses_into_the_longer_path() -> None:
    body = """
        c1 = Conv(x, ws1)
        r = Relu(c1)
        c2 = Conv(r, ws2)
        down = Conv(x, ws3)
        s = Add(%s)
        h = Relu(s)
        y = Sqrt(h)"""
    for operands in ("c2, down", "down, c2"):
        draft = draft_of(images(body % operands, weights="ws1 ws2 ws3"))
        assert activations(draft) == {
            "x": ["c1", "down"],
            "r": ["c2"],
            "down": ["s"],
            "h": ["y"],
        }


def test_residual_add_behind_an_activation_does_not_fuse() -> None:
    body = "c = Conv(x, ws)  g = Sigmoid(c)  m = Mul(c, g)  s = Add(m, x)  y = Sqrt(s)"
    draft = draft_of(images(body))
    assert activations(draft) == {"x": ["c"], "m": ["s"]}


def test_residual_add_of_a_convolution_that_others_read_does_not_fuse() -> None:
    body = "c = Conv(x, ws)  s = Add(c, x)  y = Sqrt(s)  z = Sqrt(c)"
    draft = draft_of(images(body, outputs="y z"))
    assert activations(draft) == {"x": ["c"], "c": ["s", "z"]}


def test_residual_sum_that_is_an_output_stays_float() -> None:
    draft = draft_of(images("c = Conv(x, ws)  y = Add(c, x)"))
    assert activations(draft) == {"x": ["c", "y"]}
    assert refusals(draft) == {"y": "graph-output"}


# attention --------------------------------------------------------------------------------

FUSED = """
net (float[N, 4, 8] x) => (float[N, 4, 8] y)
<float[8, 24] ws, float[24] b, float[8, 8] w_out, int64[5] split = {0, 4, 3, 2, 4},
 int64[3] merge = {0, 4, 8}, int64[3] thirds = {1, 1, 1}, int64[1] first = {0},
 float scale = {0.5}> {
    a = MatMul(x, ws)
    qkv = Add(a, b)
    parts = Reshape(qkv, split)
    heads = Transpose<perm = [2, 0, 3, 1, 4]>(parts)
    q5, k5, v5 = Split<axis = 0>(heads, thirds)
    q4 = Squeeze(q5, first)
    k = Squeeze(k5, first)
    v = Squeeze(v5, first)
    q = Mul(q4, scale)
    kt = Transpose<perm = [0, 1, 3, 2]>(k)
    scores = MatMul(q, kt)
    p = Softmax(scores)
    mixed = MatMul(p, v)
    turned = Transpose<perm = [0, 2, 1, 3]>(mixed)
    joined = Reshape(turned, merge)
    y = MatMul(joined, w_out)
}"""

SEPARATE = """
net (float[N, 4, 8] x, float[N, 1, 4] mask) => (float[N, 4, 8] y)
<float[8, 8] ws_q, float[8, 8] ws_k, float[8, 8] ws_v, float[8] b, float c = {2.8}> {
    aq = MatMul(x, ws_q)
    q = Add(aq, b)
    ak = MatMul(x, ws_k)
    k = Add(ak, b)
    v = MatMul(x, ws_v)
    kt = Transpose<perm = [0, 2, 1]>(k)
    product = MatMul(q, kt)
    scaled = Div(product, c)
    scores = Add(scaled, mask)
    p = Softmax(scores)
    mixed = MatMul(p, v)
    y = Sqrt(mixed)
}"""


def test_attention_quantises_a_fused_projection_once_before_the_split() -> None:
    draft = draft_of(FUSED)
    assert activations(draft) == {
        "x": ["a"],
        "qkv": ["parts"],
        "p": ["mixed"],
        "joined": ["y"],
    }
    (softmax,) = [site for site in draft.sites if site.value.name == "p"]
    assert softmax.fixed is not None
    assert math.isclose(softmax.fixed, 1 / 127)


def test_attention_quantises_separate_projections_each() -> None:
    draft = draft_of(SEPARATE)
    assert activations(draft) == {
        "x": ["ak", "aq", "v"],
        "q": ["product"],
        "k": ["kt"],
        "v": ["mixed"],
        "p": ["mixed"],
    }


def test_attention_of_dense_projections_is_quantised_for_all_their_readers() -> None:
    text = SEPARATE.replace("ws_", "w_").replace("y = Sqrt(mixed)", "y = Add(mixed, q)")
    assert activations(draft_of(text)) == {
        "x": ["ak", "aq", "v"],
        "q": ["product", "y"],
        "k": ["kt"],
        "v": ["mixed"],
        "p": ["mixed"],
    }


@pytest.mark.parametrize("text", [FUSED, SEPARATE])
def test_attention_none_leaves_projections_and_softmax_float(text: str) -> None:
    attention: Literal["none"] = "none"
    draft = draft_of(text, attention=attention)
    assert set(activations(draft)) <= {"x", "joined"}
    assert refusals(draft)["Softmax.p"] == "float-attention"
    assert set(refusals(draft).values()) == {"float-attention"}


def test_attention_is_quantised_altogether_or_not_at_all() -> None:
    draft = draft_of(SEPARATE, without="ws_k")
    assert activations(draft) == {"x": ["aq", "v"]}
    assert refusals(draft) == {
        "MatMul.aq": "float-attention",
        "MatMul.v": "float-attention",
        "Softmax.p": "float-attention",
    }


def test_attention_with_rotated_queries_is_quantised_where_the_products_read() -> None:
    draft = draft_of("""
    net (float[N, 4, 8] x, float[N, 4, 8] cos) => (float[N, 4, 8] y)
    <float[8, 8] ws_q, float[8, 8] ws_v> {
        q = MatMul(x, ws_q)
        turned = Mul(q, cos)
        kt = Transpose<perm = [0, 2, 1]>(turned)
        scores = MatMul(turned, kt)
        p = Softmax(scores)
        v = MatMul(x, ws_v)
        mixed = MatMul(p, v)
        y = Sqrt(mixed)
    }""")
    assert activations(draft) == {
        "x": ["q", "v"],
        "q": ["turned"],
        "turned": ["kt", "scores"],
        "v": ["mixed"],
        "p": ["mixed"],
    }


def test_a_softmax_that_weighs_nothing_is_no_attention() -> None:
    draft = draft_of("""
    net (float[N, 8] x) => (float[N, 4] y) <float[8, 8] ws, float[8, 4] w> {
        a = MatMul(x, ws)
        p = Softmax(a)
        y = MatMul(p, w)
    }""")
    assert activations(draft) == {"x": ["a"], "p": ["y"]}
    assert refusals(draft) == {"a": "float-reader"}


# pooling, moves, Concat -------------------------------------------------------------------


@pytest.mark.parametrize(
    "move",
    [
        "m = MaxPool<kernel_shape = [2, 2]>(h)",
        "m = Transpose<perm = [0, 1, 3, 2]>(h)",
        "m = Reshape(h, shape)",
        "m = Slice(h, from, to, axis)",
        "m = DepthToSpace<blocksize = 1>(h)",
        'm = Resize<mode = "nearest">(h, , double)',
    ],
)
def test_moves_hand_codes_on_and_a_layer_behind_repeats_their_scale(move: str) -> None:
    draft = draft_of(f"""
    net (float[N, 4, 5, 5] x) => (float[N, 4, H, W] y)
    <float[4, 4, 1, 1] ws, float[4, 4, 1, 1] w2, int64[4] shape = {{0, 0, 0, 0}},
     int64[1] from = {{1}}, int64[1] to = {{3}}, int64[1] axis = {{2}},
     float[4] double = {{1, 1, 2, 2}}> {{
        c = Conv(x, ws)
        h = Relu(c)
        {move}
        y = Conv(m, w2)
    }}""")
    assert activations(draft) == {"x": ["c"], "h": ["m"]}
    assert repeats(draft) == {"m": ["y"]}
    (repeat,) = draft.repeats
    assert str(draft.scale_of(repeat.value).name) == "h"


def test_moves_that_no_layer_reads_need_no_second_pair() -> None:
    body = """
        c = Conv(x, ws1)
        h = Relu(c)
        skip = Transpose<perm = [0, 1, 3, 2]>(h)
        main = Conv(x, ws2)
        s = Add(main, skip)
        y = Sqrt(s)"""
    draft = draft_of(images(body, weights="ws1 ws2"))
    assert activations(draft) == {"x": ["c", "main"], "h": ["skip"], "s": ["y"]}
    assert repeats(draft) == {}


def test_moves_in_a_row_repeat_the_scale_of_the_first_pair() -> None:
    body = """
        c = Conv(x, ws1)
        m = MaxPool<kernel_shape = [1, 1]>(c)
        a = Conv(m, ws2)
        n = Transpose<perm = [0, 1, 3, 2]>(m)
        b = Conv(n, ws3)
        y = Sub(a, b)"""
    draft = draft_of(images(body, weights="ws1 ws2 ws3"))
    assert repeats(draft) == {"m": ["a"], "n": ["b"]}
    assert {str(draft.scale_of(site.value).name) for site in draft.repeats} == {"c"}


def test_a_repeated_scale_is_one_tensor_and_changes_no_value() -> None:
    body = """
        c = Conv(x, ws1)
        m = MaxPool<kernel_shape = [2, 2], pads = [0, 0, 1, 1]>(c)
        y = Conv(m, ws2)"""
    model = tiny.model_of(images(body, weights="ws1 ws2"))
    draft = place("tensorrt-sparse", scene_of(model))
    (repeat,) = draft.repeats
    scales = insert(model, draft, {"x": 3.0, "c": 1.0})
    assert scales[repeat] == np.float32(1 / 127)
    first, second = (tiny.node(model, f"{name}.QuantizeLinear") for name in "cm")
    assert first.inputs[1:] == second.inputs[1:]
    model.graph.outputs.extend([*first.outputs, *second.outputs])
    model.graph.outputs.extend(
        [repeat.value, tiny.node(model, "m.DequantizeLinear").outputs[0]]
    )
    found = Session(model, optimize=False)(tiny.samples(model, 4).arrays)
    assert np.array_equal(found["m"], found["m.dequantized"])
    assert np.unique(found["m.quantized"]).size > 20
    assert np.abs(found["c.quantized"]).max() >= 127


def test_a_repeated_scale_that_is_known_beforehand_stays_known() -> None:
    model = tiny.model_of(
        rows("p = Softmax(x)  m = Identity(p)  y = MatMul(m, w)", weights="w")
    )
    move, layer = (tiny.node(model, name) for name in ("Identity.m", "MatMul.y"))
    scheme = scene_of(model).activation
    known = Site(
        value=tiny.node(model, "Softmax.p").outputs[0],
        scheme=scheme,
        readers=((move, 0),),
        rule="attention",
        fixed=1 / 127,
    )
    wanted = Site(value=move.outputs[0], scheme=scheme, readers=((layer, 0),), rule=gemms.RULE)
    draft = Draft()
    draft.take([known, wanted])
    draft.settle_superfluous()
    assert insert(model, draft, {}) == {
        known: np.float32(1 / 127),
        wanted: np.float32(1 / 127),
    }


def test_a_move_of_a_float_tensor_keeps_the_pair_at_the_layer() -> None:
    draft = draft_of("""
    net (float[N, 4, 8] x) => (float[N, 8, 4] y) <float[4, 4] w> {
        t = Transpose<perm = [0, 2, 1]>(x)
        y = MatMul(t, w)
    }""")
    assert activations(draft) == {"t": ["y"]}


@pytest.mark.parametrize(
    "pool", ["GlobalAveragePool(h)", "AveragePool<kernel_shape = [5, 5]>(h)"]
)
def test_average_pooling_reads_and_writes_int8(pool: str) -> None:
    draft = draft_of(f"""
    net (float[N, 4, 5, 5] x) => (float[N, 2] y) <float[4, 4, 1, 1] w, float[4, 2] w2> {{
        c = Conv(x, w)
        h = Relu(c)
        p = {pool}
        f = Flatten(p)
        y = Gemm(f, w2)
    }}""")
    assert activations(draft) == {"x": ["c"], "h": ["p"], "p": ["f"]}
    assert repeats(draft) == {"f": ["y"]}


def test_average_pooling_among_float_tensors_is_left() -> None:
    draft = draft_of("""
    net (float[N, 4, 5, 5] x) => (float[N, 4] y, float[N, 2] z) <float[100, 2] w> {
        p = GlobalAveragePool(x)
        f = Flatten(p)
        y = Sqrt(f)
        all = Flatten(x)
        z = Gemm(all, w)
    }""")
    assert activations(draft) == {"all": ["z"]}


def test_concat_inputs_share_one_scale() -> None:
    body = """
        a = Conv(x, ws1)
        b = Conv(x, ws2)
        s = Sqrt(x)
        r = Relu(b)
        j = Concat<axis = 1>(a, r, s)
        y = Conv(j, w)"""
    draft = draft_of(images(body, weights="ws1 ws2", more="float[4, 12, 1, 1] w"))
    assert activations(draft) == {"x": ["a", "b"], "a": ["j"], "r": ["j"], "s": ["j"]}
    assert repeats(draft) == {"j": ["y"]}
    by_name = {site.value.name: draft.scale_of(site.value) for site in draft.sites}
    assert by_name["a"] is by_name["r"] is by_name["s"]
    assert by_name["x"] is not by_name["a"]


def test_concats_that_have_an_input_in_common_share_one_scale() -> None:
    body = """
        a = Conv(x, ws1)
        one = Concat<axis = 1>(a, x)
        b = Conv(one, ws2)
        two = Concat<axis = 1>(one, b)
        y = Conv(two, w)"""
    wide = "float[4, 8, 1, 1] ws2, float[4, 12, 1, 1] w"
    draft = draft_of(images(body, weights="ws1", more=wide))
    assert activations(draft) == {"x": ["a", "one"], "a": ["one"], "b": ["two"]}
    assert repeats(draft) == {"one": ["b"], "two": ["y"]}
    placed = [site for site in (*draft.sites, *draft.repeats) if not site.weight]
    assert len({draft.scale_of(site.value) for site in placed}) == 1


def test_concat_with_a_constant_keeps_the_pair_behind_it() -> None:
    draft = draft_of("""
    net (float[2, 4] x) => (float[2, 4] y)
    <float[4, 4] ws, float[2, 4] table, float[8, 4] w> {
        a = MatMul(x, ws)
        j = Concat<axis = 1>(a, table)
        y = MatMul(j, w)
    }""")
    assert activations(draft) == {"x": ["a"], "a": ["j"], "j": ["y"]}


def test_concat_of_float_tensors_that_no_layer_reads_is_left() -> None:
    draft = draft_of("""
    net (float[N, 4] x, float[N, 4] z) => (float[N, 8] y, float[N, 4] v) <float[4, 4] w> {
        v = MatMul(x, w)
        j = Concat<axis = 1>(x, z)
        y = Sqrt(j)
    }""")
    assert activations(draft) == {"x": ["v"]}


# all rules together -----------------------------------------------------------------------


def test_a_tensor_gets_one_pair_with_all_who_want_it() -> None:
    body = "a = Conv(x, ws1)  b = Conv(a, ws2)  s = Add(b, a)  h = Relu(s)  y = Sqrt(h)"
    draft = draft_of(images(body, weights="ws1 ws2"))
    (site,) = [site for site in draft.sites if site.value.name == "a"]
    assert site.rule == "gemm-inputs, residual-skip, sparse-output"
    assert activations(draft)["a"] == ["b", "s"]


def test_reading_the_shape_of_a_tensor_is_not_reading_it() -> None:
    draft = draft_of("""
    net (float[N, 8] x) => (float[N, 8] y, int64[2] size) <float[8, 8] ws> {
        a = MatMul(x, ws)
        size = Shape(a)
        h = Relu(a)
        y = Sqrt(h)
    }""")
    assert activations(draft) == {"x": ["a"], "h": ["y"]}


def test_every_target_has_a_placement() -> None:
    assert TARGETS == {"onnxruntime": "onnxruntime-integer", "tensorrt": "tensorrt-sparse"}
    assert set(TARGETS.values()) <= set(PLACEMENTS)

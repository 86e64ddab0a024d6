"""Chains of integer kernels: which tensors get a pair for them, and which layers have none.

What a placement promises is held against ONNX Runtime itself: the kernels that it runs.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from gpusq_compiler.ir import edit, query
from gpusq_compiler.passes.base import Context
from gpusq_compiler.quant.placement import Draft, Scene, place
from gpusq_compiler.recipe import plan_of
from gpusq_compiler.runtime.session import session_options
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.passes.pipeline import PassReport

ContextFor = Callable[..., Context]


def placed(body: str, *, shape: str = "N, 4, 6, 6", out: str = "y", **options: Any) -> Draft:
    """What is placed in a graph of tensors of four channels; ``u``, ``v``, ``w`` weigh."""
    model = tiny.model_of(f"""
    net (float[{shape}] x) => (float[{shape}] {out})
    <float[4, 4, 1, 1] u, float[4, 4, 1, 1] v, float[4, 4, 1, 1] w, float[4] b,
     float zero = {{0}}, float one = {{1}}, float six = {{6}}> {{ {body} }}""")
    return draft_of(model, **options)


def draft_of(model: ir.Model, **options: Any) -> Draft:
    layers = tuple(query.weight_uses(model))
    return place("onnxruntime-integer", Scene(graph=model.graph, layers=layers, **options))


def schemes(draft: Draft) -> dict[str, str]:
    """The type of codes of every activation that is quantized."""
    return {
        str(site.value.name): site.scheme.dtype
        for site in (*draft.sites, *draft.repeats)
        if not site.weight
    }


def rules(draft: Draft) -> dict[str, str]:
    sites = (*draft.sites, *draft.repeats)
    return {str(site.value.name): site.rule for site in sites if not site.weight}


def test_a_pair_stands_behind_every_convolution_and_its_relu() -> None:
    draft = placed("a = Conv(x, u, b)  h = Relu(a)  c = Conv(h, v)  y = Sqrt(c)")
    assert schemes(draft) == {"x": "int8", "h": "uint8", "c": "int8"}
    assert rules(draft)["h"] == "gemm-inputs, conv-output"


@pytest.mark.parametrize(
    ("epilogue", "where", "dtype"),
    [
        ("h = Clip(a, zero, six)", "h", "uint8"),
        ("h = Clip(a, zero)", "h", "uint8"),
        ("h = Clip(a, one, six)", "a", "int8"),  # saturation cuts at 0, not at 1
        ("h = Clip(a)", "a", "int8"),
        ("h = LeakyRelu(a)", "a", "int8"),
        ("h = HardSwish(a)", "a", "int8"),
    ],
)
def test_the_kernel_takes_a_cut_at_zero_and_no_other_activation(
    epilogue: str, where: str, dtype: str
) -> None:
    draft = placed(f"a = Conv(x, u)  {epilogue}  c = Conv(h, v)  y = Sqrt(c)")
    found = schemes(draft)
    assert found[where] == dtype
    assert ("a" in found) is (where == "a")


def test_a_relu_that_others_pass_by_is_no_part_of_the_kernel() -> None:
    draft = placed("a = Conv(x, u)  h = Relu(a)  s = Add(a, h)  c = Conv(s, v)  y = Sqrt(c)")
    assert schemes(draft)["a"] == "int8"


def test_a_sum_of_codes_gives_codes() -> None:
    draft = placed("""
        a = Conv(x, u)  h = Relu(a)  c = Conv(h, v)
        s = Add(c, h)  r = Relu(s)  d = Conv(r, w)  y = Sqrt(d)""")
    assert schemes(draft) == {
        "x": "int8", "h": "uint8", "c": "int8", "r": "uint8", "d": "int8",
    }  # fmt: skip
    assert rules(draft)["r"] == "gemm-inputs, integer-join"


def test_a_sum_with_something_float_stays_float() -> None:
    draft = placed("""
        a = Conv(x, u)  f = Exp(x)  s = Add(a, f)  t = Add(s, a)  c = Conv(t, v)
        y = Sqrt(c)""")
    assert schemes(draft) == {"x": "int8", "a": "int8", "t": "int8", "c": "int8"}
    assert rules(draft)["t"] == "gemm-inputs"


def test_a_sum_that_no_kernel_reads_gets_no_pair() -> None:
    draft = placed("a = Conv(x, u)  c = Conv(x, v)  s = Add(a, c)  y = Sqrt(s)")
    assert schemes(draft) == {"x": "int8", "a": "int8", "c": "int8"}


def test_what_only_moves_repeats_the_scale_for_all_who_read_it() -> None:
    body = """
        a = Conv(x, u)  h = Relu(a)
        m = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(h)
        c = Conv(m, v)  s = Add(c, m)  d = Conv(s, w)  y = Sqrt(d)"""
    draft = placed(body)
    (repeat,) = draft.repeats
    assert (repeat.value.name, repeat.scheme.dtype) == ("m", "uint8")
    assert [node.outputs[0].name for node, _ in repeat.readers] == ["c", "s"]
    assert draft.scale_of(repeat.value).name == "h"


def test_an_average_between_codes_gives_codes() -> None:
    pool = "AveragePool<kernel_shape = [1, 1]>"
    draft = placed(f"a = Conv(x, u)  p = {pool}(a)  c = Conv(p, v)  y = Sqrt(c)")
    assert rules(draft)["p"] == "gemm-inputs, integer-average"
    draft = placed(f"a = Conv(x, u)  p = {pool}(a)  y = Sqrt(p)")
    assert "p" not in rules(draft)


def test_who_asks_for_the_shape_reads_the_pair() -> None:
    model = tiny.model_of("""
    net (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y, int64[4] size) <float[4, 4, 1, 1] w> {
        a = Conv(x, w)  size = Shape(a)  y = Sqrt(a)
    }""")
    (site,) = [s for s in draft_of(model).sites if s.value.name == "a"]
    assert sorted(node.op_type for node, _ in site.readers) == ["Shape", "Sqrt"]


FLOAT_LAYERS = {
    "output": "y = Conv(x, w)",
    "relu and output": "a = Conv(x, w)  y = Relu(a)",
    "softmax": "a = Conv(x, w)  y = Softmax<axis = 1>(a)",
    "transposed": "a = ConvTranspose(x, w)  y = Sqrt(a)",
}


@pytest.mark.parametrize("name", FLOAT_LAYERS)
def test_layers_without_an_integer_kernel_are_named_and_get_no_more_pairs(name: str) -> None:
    model = tiny.model_of(f"""
    net (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) <float[4, 4, 1, 1] w> {{
        {FLOAT_LAYERS[name]}
    }}""")
    draft = draft_of(model)
    assert rules(draft) == {"x": "gemm-inputs"}
    (refusal,) = draft.refusals
    assert refusal.rule == "no-integer-kernel"
    assert len(refusal.reason.split()) > 5


def test_a_convolution_in_a_body_gets_no_pair_behind_it() -> None:
    model = tiny.model_of("""
    net (float[N, 4, 6, 6] x, bool up) => (float[N, 4, 6, 6] y) <float[4, 4, 1, 1] w> {
        y = If(up) <
            then_branch = yes () => (float[N, 4, 6, 6] p) { a = Conv(x, w)  p = Sqrt(a) },
            else_branch = no () => (float[N, 4, 6, 6] q) { q = Identity(x) }
        >
    }""")
    draft = draft_of(model)
    assert rules(draft) == {"x": "gemm-inputs"}
    assert "body" in draft.refusals[0].reason


def test_half_precision_keeps_its_pairs_and_gets_no_more() -> None:
    model = tiny.model_of("""
    net (float16[N, 4, 6, 6] x) => (float16[N, 4, 6, 6] y)
    <float16[4, 4, 1, 1] v, float16[4, 4, 1, 1] w> { a = Conv(x, v)  y = Conv(a, w) }""")
    edit.infer_shapes(model)
    draft = draft_of(model)
    assert rules(draft) == {"x": "gemm-inputs", "a": "gemm-inputs"}


def test_products_of_attention_have_a_range_for_each_factor() -> None:
    draft = draft_of(tiny.attention())
    found = rules(draft)
    assert {name for name, rule in found.items() if rule == "attention-product"} == {
        "q", "kt", "weights", "v",
    }  # fmt: skip
    assert schemes(draft)["weights"] == "uint8"
    draft = draft_of(tiny.attention(), attention="none")
    assert "attention-product" not in rules(draft).values()
    assert [refusal.rule for refusal in draft.refusals] == ["float-attention"]


@pytest.mark.parametrize(("tokens", "quantized"), [(63, False), (64, True)])
def test_products_of_few_tokens_stay_float(tokens: int, quantized: bool) -> None:
    model = tiny.model_of(f"""
    net (float[N, {tokens}, 8] x) => (float[N, {tokens}, 8] y)
    <float[8, 8] w, float[8, 8] v> {{
        q = MatMul(x, w)
        k = Transpose<perm = [0, 2, 1]>(x)
        s = MatMul(q, k)
        a = Softmax<axis = -1>(s)
        m = MatMul(a, x)
        y = MatMul(m, v)
    }}""")
    edit.infer_shapes(model)
    draft = draft_of(model)
    assert ("attention-product" in rules(draft).values()) is quantized
    reasons = [refusal.reason for refusal in draft.refusals]
    assert len(reasons) == (0 if quantized else 1)
    assert quantized or reasons[0].startswith("with 63 tokens, ")


# held against the runtime -------------------------------------------------------------------

NETS = {
    "residual": """
        net (float[N, 3, 8, 8] x) => (float[N, 10] y)
        <float[8, 3, 3, 3] w1, float[8] b1, float[8, 8, 3, 3] w2, float[8] b2,
         float[8, 8, 3, 3] w3, float[8] b3, float[10, 8] w4, float[10] b4> {
            c1 = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            r1 = Relu(c1)
            m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r1)
            c2 = Conv<pads = [1, 1, 1, 1]>(m, w2, b2)
            r2 = Relu(c2)
            c3 = Conv<pads = [1, 1, 1, 1]>(r2, w3, b3)
            s = Add(c3, m)
            r3 = Relu(s)
            p = GlobalAveragePool(r3)
            f = Flatten(p)
            y = Gemm<transB = 1>(f, w4, b4)
        }""",
    "depthwise": """
        net (float[N, 8, 8, 8] x) => (float[N, 4] y)
        <float[8, 1, 3, 3] w1, float[8] b1, float[4, 8, 1, 1] w2, float[4] b2,
         float[4, 4] w3, float zero = {0}, float six = {6}> {
            c1 = Conv<group = 8, pads = [1, 1, 1, 1]>(x, w1, b1)
            r1 = Clip(c1, zero, six)
            c2 = Conv(r1, w2, b2)
            p = GlobalAveragePool(c2)
            f = Flatten(p)
            y = MatMul(f, w3)
        }""",
}
FLOAT_OPERATORS = {"Conv", "FusedConv", "Gemm", "MatMul", "Relu", "Clip", "Add"}


def kernels(model: ir.Model, folder: Path) -> collections.Counter[str]:
    """The operators that the runtime runs of a model."""
    options = session_options(threads=1)
    options.optimized_model_filepath = str(folder / "ran.onnx")
    proto = ir.to_proto(model).SerializeToString()
    onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folder / "ran.onnx").graph
    return collections.Counter(node.op_type for node in graph.node)


def compiled(model: ir.Model, context_for: ContextFor, passes: str) -> tuple[PassReport, ...]:
    return plan_of(passes).pipeline.run(model, context_for(model))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("passes", ["quantize", "prune,quantize"])
def test_the_runtime_computes_all_of_it_in_integers(
    name: str, passes: str, context_for: ContextFor, tmp_path: Path
) -> None:
    model = tiny.model_of(NETS[name])
    compiled(model, context_for, passes)
    ran = kernels(model, tmp_path)
    assert not FLOAT_OPERATORS.intersection(ran)
    assert ran["QLinearConv"] == NETS[name].count("Conv")
    assert ran["QLinearAdd"] == NETS[name].count("Add(")
    # One for the input, and one around Flatten, which 1.19 does not flatten as codes.
    assert ran["QuantizeLinear"] <= 2
    assert ran["DequantizeLinear"] <= 1


@pytest.mark.skipif(
    not onnxruntime.__version__.startswith("1.19."),
    reason="needs ONNX Runtime 1.19: later ones take float biases into the kernel",
)
def test_without_the_form_convolutions_run_in_float(
    context_for: ContextFor, tmp_path: Path
) -> None:
    model = tiny.model_of(NETS["residual"])
    plan = plan_of("quantize,freeze")
    steps = [
        type(step)(form="plain") if step.name == "freeze" else step  # type: ignore[call-arg]
        for step in plan.pipeline.passes
    ]
    type(plan.pipeline)(passes=tuple(steps)).run(model, context_for(model))
    assert kernels(model, tmp_path)["QLinearConv"] < NETS["residual"].count("Conv")

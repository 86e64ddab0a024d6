from __future__ import annotations

import pytest

from gpusq_compiler.ir import outputs
from tests import tiny

TAILS = {
    "y = Gemm(h, w)": False,
    "s = Gemm(h, w)  y = Div(s, two)": False,
    "s = Gemm(h, w)  y = Softmax(s)": False,
    "l = ReduceL2<axes = [1]>(h)  y = Div(h, l)": True,
    "l = LpNormalization(h)  y = Identity(l)": True,
    "t = Gemm(h, w)  y = Tanh(t)": True,
    "m = ReduceMean<axes = [2]>(x)  y = Reshape(m, flat)": True,
    "n = LayerNormalization(x, g)  y = Gather<axis = 2>(n, first)": True,
}


@pytest.mark.parametrize(("tail", "pooled"), TAILS.items())
def test_pooled_and_normalised_vectors_are_no_class_scores(tail: str, pooled: bool) -> None:
    model = tiny.model_of(f"""
    net (float[N, 8, 4] x) => (float[N, M] y)
        <float[8, 8] w, float[4] g, float two = {{2.0}}, int64 first = {{0}},
         int64[2] flat = {{-1, 8}}> {{
        h = Gather<axis = 2>(x, first)
        {tail}
    }}""")
    assert outputs.embeddings(model) == ({"y"} if pooled else set())


JOINED = {
    "y = Concat<axis = 1>(boxes, scores)": {"y": ("boxes", "scores")},
    "both = Concat<axis = 1>(boxes, scores)  y = Concat<axis = 1>(both, boxes)": {
        "y": ("boxes", "scores", "boxes")
    },
    "y = Concat<axis = 1>(boxes, anchors)": {},
    "y = Add(boxes, scores)": {},
}


@pytest.mark.parametrize(("tail", "expected"), JOINED.items())
def test_what_an_output_joins(tail: str, expected: dict[str, tuple[str, ...]]) -> None:
    model = tiny.model_of(f"""
    net (float[N, 8] x) => (float[N, M] y) <float[8, 8] w, float[1, 8] anchors> {{
        boxes = MatMul(x, w)
        scores = Sigmoid(boxes)
        {tail}
    }}""")
    assert outputs.joined(model) == expected

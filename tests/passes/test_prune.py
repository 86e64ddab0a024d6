from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpusq_compiler.errors import ModelError, OptionError
from gpusq_compiler.ir import claims, edit
from gpusq_compiler.passes import canonicalize
from gpusq_compiler.passes.base import Context, PassResult
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.sparsity.scores import Magnitude
from tests import tiny

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array

ContextFor = Callable[..., Context]


def pruned(model: ir.Model, context_for: ContextFor, step: Prune | None = None) -> PassResult:
    steps = (Canonicalize(), step or Prune(score=Magnitude()))
    return Pipeline(passes=steps).run(model, context_for(model))[-1].result


def claim(model: ir.Model, name: str) -> str | None:
    for graph in model.graphs():
        if name in graph.initializers:
            return graph.initializers[name].metadata_props.get(claims.SPARSITY)
    raise KeyError(name)


def reasons(result: PassResult) -> dict[str, str]:
    return {finding.where: finding.rule for finding in result.skipped}


def best(values: Array, n: int) -> Array:
    """The n largest magnitudes of one group stay; on ties the lowest index."""
    order = sorted(range(len(values)), key=lambda i: (-abs(float(values[i])), i))
    return np.array([v if i in order[:n] else 0 for i, v in enumerate(values)], values.dtype)


def oracle(weight: Array, axis: int, n: int = 2, m: int = 4) -> Array:
    """Prune group by group along the axis."""
    result: Array = weight.copy()
    others = [range(d) for a, d in enumerate(weight.shape) if a != axis]
    for place in itertools.product(*others):
        line = np.moveaxis(result, axis, -1)[place]
        for start in range(0, len(line), m):
            line[start : start + m] = best(line[start : start + m], n)
    return result


@pytest.mark.parametrize(
    ("which", "name", "axis"),
    [
        ("mlp", "w1", 0),
        ("mlp", "w2", 0),
        ("conv_bn_relu", "w3", 1),
        ("residual", "w2", 1),
        ("residual", "w3", 1),
        ("attention", "w_qkv", 0),
        ("if_branch", "w_then", 0),
        ("bf16_matmul", "w", 0),
        ("int4_weight", "w", 0),
    ],
)
def test_the_best_two_of_every_four_stay(
    which: str, name: str, axis: int, context_for: ContextFor
) -> None:
    model = tiny.MODELS[which]()
    expected = oracle(tiny.weight(model, name), axis)
    result = pruned(model, context_for)
    found = tiny.weight(model, name)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert claim(model, name) == f"2:4 axis={axis}"
    assert name in result.changed


def test_ties_keep_the_lowest_index(context_for: ContextFor) -> None:
    model = tiny.bf16_matmul()
    edit.replace_weight(model.graph.initializers["w"], np.ones((16, 8), np.float32))
    pruned(model, context_for)
    assert tiny.weight(model, "w")[:4, 0].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(("pattern", "n", "m"), [("1:4", 1, 4), ("1:2", 1, 2), ("4:8", 4, 8)])
def test_other_patterns(pattern: str, n: int, m: int, context_for: ContextFor) -> None:
    model = tiny.mlp()
    expected = oracle(tiny.weight(model, "w1"), 0, n, m)
    pruned(model, context_for, Prune(pattern=pattern, score=Magnitude()))
    assert np.array_equal(tiny.weight(model, "w1"), expected)
    assert claim(model, "w1") == f"{pattern} axis=0"


@pytest.mark.parametrize("pattern", ["2", "4:2", "0:4", "2:4:8", "two:four", ""])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(OptionError, match="is not a sparsity pattern"):
        Prune(pattern=pattern)


def test_the_stem_stays_dense_and_has_no_claim(context_for: ContextFor) -> None:
    model = tiny.residual()
    before = tiny.weight(model, "w1")
    result = pruned(model, context_for)
    assert reasons(result) == {"Conv.c1": "stem"}
    assert np.array_equal(tiny.weight(model, "w1"), before)
    assert claim(model, "w1") is None


def test_a_patch_embedding_is_pruned(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 4, 8, 8] x) => (float[N, 16, 4, 4] y) <float[16, 4, 2, 2] w> {
        y = Conv<kernel_shape = [2, 2], strides = [2, 2]>(x, w)
    }""")
    assert pruned(model, context_for).changed == ("w",)


def one_conv(shape: str, group: int, channels: int) -> ir.Model:
    return tiny.model_of(f"""
    net (float[N, 8, 4, 4] x) => (float[N, {channels}, 4, 4] y)
    <float[8, 8, 1, 1] first, float[{shape}] w> {{
        h = Conv(x, first)
        y = Conv<group = {group}, auto_pad = "SAME_UPPER">(h, w)
    }}""")


@pytest.mark.parametrize(
    ("shape", "group", "rule"),
    [
        ("8, 1, 3, 3", 8, "depthwise"),
        ("8, 2, 3, 3", 4, "k-not-multiple-of-4"),
        ("16, 1, 3, 3", 8, "depthwise"),
        ("1, 8, 1, 1", 1, "one-channel"),
    ],
)
def test_groups_without_four_channels_stay(
    shape: str, group: int, rule: str, context_for: ContextFor
) -> None:
    channels = int(shape.split(",", maxsplit=1)[0])
    model = one_conv(shape, group, channels)
    result = pruned(model, context_for)
    assert reasons(result)["Conv.y"] == rule
    assert claim(model, "w") is None


def test_a_length_that_is_no_multiple_says_so(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 6] x) => (float[N, 8] y) <float[6, 8] w> { y = MatMul(x, w) }
    """)
    (finding,) = pruned(model, context_for).skipped
    assert finding.rule == "k-not-multiple-of-4"
    assert finding.reason == "its reduction length 6 is no multiple of 4"


def test_a_foreign_integer_weight_stays(context_for: ContextFor) -> None:
    model = tiny.int4_weight()
    before = tiny.weight(model, "codes")
    assert reasons(pruned(model, context_for)) == {"MatMul.h": "not-float"}
    assert np.array_equal(tiny.weight(model, "codes"), before)


def test_a_shared_weight_is_pruned_once(context_for: ContextFor) -> None:
    model = tiny.shared_weight()
    expected = oracle(tiny.weight(model, "w"), 0)
    result = pruned(model, context_for)
    assert result.changed == ("w",)
    assert result.metrics == {
        "layers": 1,
        "parameters_in_pattern": 256,
        "share_of_weights": 1.0,
    }
    assert [row["layer"] for row in result.tables["layers"]] == ["MatMul.a", "MatMul.y"]
    assert np.array_equal(tiny.weight(model, "w"), expected)


def test_a_weight_that_reduces_along_two_axes_is_split(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 16] x) => (float[N, 16] y) <float[16, 16] w> {
        h = MatMul(x, w)
        y = Gemm<transB = 1>(h, w)
    }""")
    dense = tiny.weight(model, "w")
    result = pruned(model, context_for)
    assert reasons(result) == {"Gemm.y": "copied-weight"}
    assert "1024 bytes more: another layer reduces along another axis" in str(
        result.skipped[0]
    )
    assert claim(model, "w") == "2:4 axis=0"
    assert claim(model, "w.own") == "2:4 axis=1"
    assert np.array_equal(tiny.weight(model, "w"), oracle(dense, 0))
    assert np.array_equal(tiny.weight(model, "w.own"), oracle(dense, 1))


def test_a_weight_that_is_an_output_stays_as_it_was(context_for: ContextFor) -> None:
    model = tiny.shared_weight()
    model.graph.outputs.append(model.graph.initializers["w"])
    dense = tiny.weight(model, "w")
    result = pruned(model, context_for)
    assert reasons(result) == {"MatMul.a": "copied-weight"}
    assert [value.name for value in model.graph.outputs] == ["y", "w"]
    assert claim(model, "w") is None
    assert np.array_equal(tiny.weight(model, "w"), dense)
    own = model.graph.initializers["w.own"]
    assert {node.name for node, _ in own.uses()} == {"MatMul.a", "MatMul.y"}


def test_a_tied_embedding_is_copied_and_the_table_stays_dense(
    context_for: ContextFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canonicalize, "FOLD_LIMIT", 4)  # tables are larger than the limit
    model = tiny.model_of("""
    tied (int64[N, 3] ids) => (float[N, 3, 10] y) <float[10, 8] table> {
        x = Gather(table, ids)
        head = Transpose<perm = [1, 0]>(table)
        y = MatMul(x, head)
    }""")
    dense = tiny.weight(model, "table")
    result = pruned(model, context_for)
    assert reasons(result) == {"MatMul.y": "copied-weight"}
    assert np.array_equal(tiny.weight(model, "table"), dense)
    assert np.array_equal(tiny.weight(model, "table.own"), oracle(dense.T, 0))
    assert tiny.operators(model) == ["Gather", "MatMul"]


def test_an_excluded_layer_keeps_the_dense_weight_that_it_shares(
    context_for: ContextFor,
) -> None:
    model = tiny.shared_weight()
    dense = tiny.weight(model, "w")
    result = pruned(model, context_for, Prune(exclude=("MatMul.a",), score=Magnitude()))
    assert reasons(result) == {"MatMul.a": "user", "MatMul.y": "copied-weight"}
    assert np.array_equal(tiny.weight(model, "w"), dense)
    assert np.array_equal(tiny.weight(model, "w.own"), oracle(dense, 0))


def test_the_weight_may_be_the_left_operand(context_for: ContextFor) -> None:
    model = tiny.model_of("""
    net (float[N, 8, 3] x) => (float[N, 6, 3] y) <float[6, 8] w> { y = MatMul(w, x) }
    """)
    expected = oracle(tiny.weight(model, "w"), 1)
    pruned(model, context_for)
    assert np.array_equal(tiny.weight(model, "w"), expected)


def test_a_product_of_two_activations_is_no_layer(context_for: ContextFor) -> None:
    result = pruned(tiny.attention(), context_for)
    assert {row["layer"] for row in result.tables["layers"]} == {"MatMul.qkv0", "MatMul.out0"}


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ((), (), {"w1", "w2"}),
        (("w1",), (), {"w1"}),
        (("Gemm",), (), {"w1"}),
        (("MatMul\\..*",), (), {"w2"}),
        ((), ("Gemm.a",), {"w2"}),
        (("w.",), ("MatMul",), {"w1"}),
    ],
)
def test_include_and_exclude(
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    expected: set[str],
    context_for: ContextFor,
) -> None:
    model = tiny.mlp()
    result = pruned(model, context_for, Prune(include=include, exclude=exclude))
    assert set(result.changed) == expected
    assert {f.rule for f in result.skipped} <= {"user"}
    assert len(result.skipped) == 2 - len(expected)


def test_a_name_that_looks_like_an_expression_is_a_name(context_for: ContextFor) -> None:
    model = tiny.mlp()
    tiny.node(model, "Gemm.a").name = "block[0/(a"
    result = pruned(model, context_for, Prune(include=("block[0/(a",)))
    assert result.changed == ("w1",)


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_an_entry_that_matches_nothing_is_refused(
    option: str, context_for: ContextFor
) -> None:
    step = Prune(include=("Gemn.a",)) if option == "include" else Prune(exclude=("Gemn.a",))
    with pytest.raises(OptionError, match=rf"prune.{option}: 'Gemn.a'.*Gemm.a"):
        pruned(tiny.mlp(), context_for, step)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(bad: float, context_for: ContextFor) -> None:
    model = tiny.mlp()
    weight = tiny.weight(model, "w2").copy()
    weight[3, 1] = bad
    edit.replace_weight(model.graph.initializers["w2"], weight)
    with pytest.raises(ModelError, match=r"tensor 'w2': the weight holds NaN or infinity"):
        pruned(model, context_for)


def test_the_table_tells_what_was_kept(context_for: ContextFor) -> None:
    model = tiny.mlp()
    weight = np.abs(tiny.weight(model, "w1")).astype(np.float64)
    result = pruned(model, context_for)
    first = result.tables["layers"][0]
    kept = np.abs(tiny.weight(model, "w1")).sum(dtype=np.float64) / weight.sum()
    assert first["kept_magnitude"] == pytest.approx(float(kept), rel=1e-6)
    assert (first["weight"], first["shape"], first["axis"]) == ("w1", "16x32", 0)
    assert result.metrics["share_of_weights"] == 1.0


def test_a_model_without_layers_is_left(context_for: ContextFor) -> None:
    model = tiny.model_of("net (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    result = pruned(model, context_for)
    assert not result.changed
    assert not result.skipped
    assert result.metrics["share_of_weights"] == 0.0


@pytest.mark.parametrize(("operator", "domain"), [("Einsum", ""), ("Riddle", "theirs")])
def test_a_layer_that_no_pass_knows_is_listed_and_counted(
    context_for: ContextFor, operator: str, domain: str
) -> None:
    model = tiny.model_of("""
    net (float[N, 16] x) => (float[N, 16] y) <float[16, 16] v, float[16, 16] w> {
        h = MatMul(x, v)
        y = MatMul(h, w)
    }""")
    last = model.graph[1]
    last.op_type = operator
    last.domain = domain
    result = Prune(score=Magnitude()).rewrite(model, context_for(model))
    assert reasons(result) == {"MatMul.y": "unknown-layer"}
    assert f"{operator} is left as it is, with its 256 weights" in result.skipped[0].reason
    assert result.metrics["share_of_weights"] == 0.5

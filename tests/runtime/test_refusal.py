"""What the runtime refuses, told from the structure of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from gpusq_compiler.errors import ModelError
from gpusq_compiler.runtime import flavour, loadable, session
from gpusq_compiler.runtime.session import Session, refusal
from tests import tiny
from tests.analysis.odd_models import MODELS

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[ir.Model]:
    """Models whose weights were looked at."""
    seen: list[ir.Model] = []
    runnable: Callable[..., onnx.ModelProto] = loadable.runnable

    def watched(model: ir.Model, outputs: object = ()) -> onnx.ModelProto:
        seen.append(model)
        return runnable(model, outputs)

    monkeypatch.setattr(session, "runnable", watched)
    return seen


@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_sound_model_is_taken_without_a_look_at_its_weights(
    name: str, whole: list[ir.Model]
) -> None:
    assert refusal(tiny.MODELS[name](), threads=1) is None
    assert not whole


@pytest.mark.parametrize("name", ["custom domain", "another domain"])
def test_unknown_operators(name: str, whole: list[ir.Model]) -> None:
    model = ir.from_proto(MODELS[name]())
    known = name == "another domain"
    told = refusal(model, threads=1)
    assert (told is None) == known
    if not known:
        assert told is not None
        assert "ONNX Runtime refuses the model" in told
        assert "Strange" in told
        assert whole == [model], "the reason is that of the whole model"


def test_strings_are_refused() -> None:
    told = refusal(ir.from_proto(MODELS["strings"]()))
    assert told is not None
    assert "strings" in told


def test_the_whole_has_the_last_word(
    whole: list[ir.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a kernel wants a constant weight, the structure alone is refused."""
    wanting = onnx.ModelProto()
    wanting.CopyFrom(MODELS["custom domain"]())
    monkeypatch.setattr(session, "structure", lambda model: wanting)
    model = tiny.mlp()
    assert refusal(model, threads=1) is None
    assert whole == [model]


def test_every_supported_runtime_takes_what_is_not_asked_about() -> None:
    assert flavour.ceilings() >= flavour.OLDEST
    assert flavour.ceilings()[1] >= flavour.OLDEST[1]
    assert not flavour.may_refuse(*flavour.OLDEST)
    assert flavour.may_refuse(flavour.OLDEST[0] + 1, 8)
    assert flavour.may_refuse(17, flavour.OLDEST[1] + 1)


@pytest.mark.skipif(
    not onnxruntime.__version__.startswith("1.19."),
    reason="needs ONNX Runtime 1.19: later ones may run such a Gemm",
)
def test_a_sum_of_nothing_is_named() -> None:
    model = tiny.model_of("""
    net (float[N, 4] x) => (float[N, 6] y) <float[4, 0] a, float[0, 6] b, float[6] c> {
        none = MatMul(x, a)
        y = Gemm(none, b, c)
    }""")
    tiny.node(model, "Gemm.y").name = "hollow"
    with pytest.raises(ModelError, match=r"^Gemm 'hollow': its weight has a dimension of 0"):
        Session(model, threads=1)({"x": np.zeros((2, 4), np.float32)})

"""Layers that lists name: asked for before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from gpusq_compiler.errors import OptionError
from gpusq_compiler.passes.base import Pass, PassResult
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.passes.selection import require_layers
from tests import tiny

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.passes.base import Context


class SplitLayers(Pass):
    """A pass of somebody else, behind which layers may have other names."""

    name: ClassVar[str] = "split-layers"

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Nothing; it does not run here."""
        raise NotImplementedError


def nameless() -> ir.Model:
    """A model whose layers get their names when it becomes canonical."""
    model = tiny.mlp()
    for node in model.graph:
        node.name = ""
    return model


def test_names_are_those_of_the_canonical_model() -> None:
    model = nameless()
    require_layers((Canonicalize(), Prune(include=("Gemm_a",)), Quantize()), model)
    assert {node.name for node in model.graph} == {""}, "the model stays as it is"
    with pytest.raises(OptionError, match=r"quantize\.exclude: 'Gemm_z' matches no layer"):
        require_layers((Prune(include=("Gemm_a",)), Quantize(exclude=("Gemm_z",))), model)


def test_nothing_is_asked_behind_a_pass_of_somebody_else() -> None:
    unknown = Prune(include=("half_of_a",))
    require_layers((Canonicalize(), SplitLayers(), unknown), tiny.mlp())
    with pytest.raises(OptionError, match="half_of_a"):
        require_layers((unknown, SplitLayers()), tiny.mlp())

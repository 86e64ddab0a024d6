"""Services for passes that run outside of a compile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

from gpusq_compiler import Pass, compile_model, open_context
from gpusq_compiler.errors import DataError, OptionError
from gpusq_compiler.ir import io
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.freeze import Freeze
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.recipe import recipe_text
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Array

ONE_SHOT: tuple[Pass, ...] = (Canonicalize(), Prune(), Quantize(), Freeze())
TRAINED: tuple[Pass, ...] = (
    Canonicalize(),
    Prune(),
    Quantize(),
    Qat(steps=8, batch_size=4),
    Freeze(),
)


def weights(model: ir.Model) -> dict[str, Array]:
    return {name: tiny.weight(model, name) for name in model.graph.initializers}


@pytest.mark.parametrize(
    "steps", [ONE_SHOT, pytest.param(TRAINED, marks=pytest.mark.training)], ids=len
)
def test_passes_one_by_one_do_what_a_compile_does(
    steps: tuple[Pass, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny.mlp()
    io.save(model, tmp_path / "mlp.onnx")
    arrays = {"x": tiny.samples(model, 40).arrays["x"]}
    (tmp_path / "same.toml").write_text(recipe_text(steps, 3, None))
    compile_model("mlp.onnx", recipe="same.toml", data=arrays, threads=1)
    expected = weights(io.load(tmp_path / "mlp.gpusq.onnx"))
    with open_context(model, arrays, seed=3, threads=1) as ctx:
        for step in steps:
            model = step(model, ctx)
    found = weights(model)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_a_tenth_is_held_out_and_files_are_read(tmp_path: Path) -> None:
    model = tiny.mlp()
    np.savez(tmp_path / "data.npz", x=tiny.samples(model, 40).arrays["x"])
    with open_context(ir.to_proto(model), tmp_path / "data.npz", target="tensorrt") as ctx:
        assert ctx.data is not None
        assert ctx.held_out is not None
        assert (ctx.data.count, ctx.held_out.count, ctx.synthesised) == (36, 4, False)
        assert ctx.target == "tensorrt"
        assert ctx.workdir.is_dir()
    assert not ctx.workdir.exists()


def test_without_data_they_are_made_up_and_it_says_so() -> None:
    with open_context(tiny.mlp(), None) as ctx:
        assert ctx.synthesised
        assert ctx.samples("quantize").count > 1


def test_data_that_do_not_fit_and_choices_that_are_none_are_refused() -> None:
    with (
        pytest.raises(DataError, match="'z' is no input of the model"),
        open_context(tiny.mlp(), {**tiny.samples(tiny.mlp()).arrays, "z": np.zeros(64)}),
    ):
        pass
    with (
        pytest.raises(OptionError, match="'gpu' is not known"),
        open_context(tiny.mlp(), None, device="gpu"),
    ):
        pass

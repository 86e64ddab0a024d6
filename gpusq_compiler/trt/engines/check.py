"""Asking NVIDIA's own parser and builder about a model, on a machine without a GPU.

TensorRT for RTX builds engines without one. It has the importer of TensorRT and a compiler of
its own, so it tells whether a model is accepted, and of matrix products whether they run on
INT8. What it does with convolutions is its own choice, and of sparsity it shows nothing.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.errors import GateError, ModelError
from gpusq_compiler.ir import io
from gpusq_compiler.trt.engines import bindings, enginelayers
from gpusq_compiler.trt.engines.evidence import product_of
from gpusq_compiler.trt.engines.names import NodeNames
from gpusq_compiler.trt.engines.network import network_of
from gpusq_compiler.trt.engines.options import EngineOptions
from gpusq_compiler.trt.engines.outputs import require_unpacked
from gpusq_compiler.trt.engines.prediction import predict
from gpusq_compiler.trt.engines.profiles import Profile, Shapes, usual_profiles
from gpusq_compiler.trt.legality.taken import as_taken

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from gpusq_compiler.trt.engines.enginelayers import EngineLayer
    from gpusq_compiler.trt.engines.prediction import Layer

GEMMS = ("Gemm", "MatMul")
HEADINGS = ("layer", "operator", "expected", "runs in")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """One product with a constant weight, in the model and in the engine.

    Attributes:
        name: The node.
        operator: Its operator.
        expected: Whether it should run on INT8.
        integer: Whether it does; None where the engine shows no product of its own for it.
    """

    name: str
    operator: str
    expected: bool
    integer: bool | None

    @property
    def disappoints(self) -> bool:
        """Whether a matrix product, not a convolution, runs in float that should not."""
        return self.operator in GEMMS and self.expected and self.integer is False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    """What parser and builder made of a model.

    Attributes:
        tool: Which they were.
        refusal: Why there is no engine; None if there is one.
        products: Every product with a constant weight; empty without an engine.
        layers: The layers of the engine.
        profiles: The shapes that inputs with free dimensions had.
    """

    tool: str
    refusal: ModelError | None
    products: tuple[Product, ...] = ()
    layers: tuple[EngineLayer, ...] = ()
    profiles: tuple[Profile, ...] = ()

    def rows(self) -> list[tuple[str, ...]]:
        """The table for people, under `HEADINGS`."""
        words = {True: "int8", False: "float", None: "not shown"}
        return [
            (one.name, one.operator, words[one.expected], words[one.integer])
            for one in self.products
        ]

    def summary(self) -> str:
        """One line that claims no more than is known."""
        wanted = [one for one in self.products if one.operator in GEMMS and one.expected]
        right = sum(one.integer is True for one in wanted)
        return (
            f"{self.tool} accepts it; {right} of {len(wanted)} matrix products that should "
            "run on INT8 do. Convolutions are its own choice. It knows no sparse kernels, so "
            "this says nothing about sparsity"
        )

    def require_integers(self, path: Path) -> None:
        """Matrix products that should run on INT8 have to.

        Raises:
            GateError: One does not.
        """
        if self.disappointing:
            others = len(self.disappointing) - 1
            more = f", and {others} more" if others else ""
            raise GateError(
                f"'{self.disappointing[0].name}' runs in float and should run on INT8{more}",
                where=str(path),
                remedy="Place quantizers with --target tensorrt, and ask gpusq lint",
            )

    @property
    def disappointing(self) -> tuple[Product, ...]:
        """Matrix products that run in float and should not."""
        return tuple(product for product in self.products if product.disappoints)


def check(path: Path, shapes: Shapes | None = None, model: ir.Model | None = None) -> Checked:
    """Parse and build a file.

    Args:
        path: The file.
        shapes: Of inputs with free dimensions; guessed from their names where left out.
        model: The same file, if it was read already.

    Raises:
        MissingRuntime: TensorRT for RTX is not installed.
        OptionError: The shapes do not fit.
        PreconditionError: The file is packed.
    """
    rtx = bindings.tensorrt_rtx()
    model = as_taken(io.load(path) if model is None else model)
    require_unpacked(model)
    profiles = usual_profiles(model, shapes or Shapes())
    options = EngineOptions(sparse_weights=False)
    with rtx.listening() as heard:
        try:
            network = network_of(rtx, path, model, options, profiles)
            network.serialized()
        except ModelError as error:
            return Checked(tool=str(rtx), refusal=error, profiles=profiles)
    layers = enginelayers.from_log(heard.lines, NodeNames(model, heard.lines))
    return Checked(
        tool=str(rtx),
        refusal=None,
        products=tuple(_product(layer, layers) for layer in predict(model, rtx.rules)),
        layers=layers,
        profiles=profiles,
    )


def _product(layer: Layer, engine: tuple[EngineLayer, ...]) -> Product:
    found = product_of(layer.name, engine)
    return Product(
        name=layer.name,
        operator=layer.operator,
        expected=layer.reads == "int8",
        integer=None if found is None else found.is_integer,
    )

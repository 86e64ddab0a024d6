"""The networks of this folder as ONNX graphs, written without any training framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from digit_networks import residual_network, vision_transformer
from layers import Sketch
from photo_network import super_resolution
from text_network import next_character

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NETWORKS: Mapping[str, Callable[[Sketch], ir.Value]] = {
    "vit_digits": vision_transformer,
    "resnet_digits": residual_network,
    "sr_photos": super_resolution,
    "text_python": next_character,
}


def build(name: str, *, seed: int = 0, training: bool = False) -> ir.Model:
    """Build a network with random parameters.

    Args:
        name: A key of `NETWORKS`.
        seed: Where the parameters come from.
        training: Whether it stands in the form that is trained. That of the digit networks
            has batch normalization over the batch; that of the others has the targets as an
            input and their error as its output.
    """
    sketch = Sketch(seed, training=training)
    return sketch.model(name, NETWORKS[name](sketch))


def parameters(model: ir.Model) -> dict[str, npt.NDArray[np.float32]]:
    """Values of the float initializers, in graph order."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return {t.name: t.numpy() for t in tensors if t is not None and t.name is not None}


def fill(model: ir.Model, values: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Give initializers new values of the same number of elements."""
    for name, current in parameters(model).items():
        if name in values:
            array = np.ascontiguousarray(values[name].reshape(current.shape))
            model.graph.initializers[name].const_value = ir.tensor(array, name=name)

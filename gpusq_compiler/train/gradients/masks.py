"""Gradients of pruned weights are zero, so that the weights stay where they are.

A weight of 0 whose gradient was always 0 has moments of 0, and AdamW does not move it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from gpusq_compiler.train.protograph import ProtoGraph


def mask_gradients(graph: ProtoGraph, masks: Mapping[str, npt.NDArray[np.bool_]]) -> None:
    """Multiply each parameter's output ``<parameter>_grad`` by its mask."""
    outputs = {value.name for value in graph.graph.output}
    renamed = {
        f"{name}_grad": graph.fresh("whole") for name in masks if f"{name}_grad" in outputs
    }
    for node in graph.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for name, mask in masks.items():
        masked = f"{name}_grad"
        if masked in renamed:
            byte = graph.constant(mask.astype(np.uint8))
            factor = graph.node("Cast", byte, to=TensorProto.FLOAT)
            graph.add(
                helper.make_node(
                    "Mul", [renamed[masked], factor], [masked], name=graph.fresh("Mul")
                )
            )

"""Where quantizers go: small named rules that answer sites and reasons.

A rule is a function of the scene (graph, layers to quantize, options) and of the draft (what
the rules before it placed). It answers `Site`, `SharedScale` and `Refusal`. A placement is a
list of rules; a pair on what arrives quantized repeats its scale where an integer kernel
reads it and is dropped elsewhere. ``docs/placement.md`` shows every rule with its picture and
its reason.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from gpusq_compiler.quant.placement.attention import attention
from gpusq_compiler.quant.placement.chains import (
    attention_products,
    float_kernels,
    integer_chain,
)
from gpusq_compiler.quant.placement.draft import Draft
from gpusq_compiler.quant.placement.gemms import gemm_inputs
from gpusq_compiler.quant.placement.joins import average_pooling, concat, residual_add
from gpusq_compiler.quant.placement.outputs import sparse_output
from gpusq_compiler.quant.placement.scene import Scene
from gpusq_compiler.quant.placement.sites import Refusal, SharedScale, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Rule = Callable[[Scene, Draft], Iterator[Site | SharedScale | Refusal]]

__all__ = [
    "PLACEMENTS",
    "TARGETS",
    "Draft",
    "Refusal",
    "Scene",
    "SharedScale",
    "Site",
    "place",
]

Placement = Literal["gemm-inputs", "onnxruntime-integer", "tensorrt-sparse"]
PLACEMENTS: Mapping[Placement, tuple[Rule, ...]] = {
    "gemm-inputs": (gemm_inputs,),
    "onnxruntime-integer": (gemm_inputs, attention_products, integer_chain, float_kernels),
    "tensorrt-sparse": (
        gemm_inputs,
        residual_add,
        sparse_output,
        attention,
        average_pooling,
        concat,
    ),
}
UNSIGNED = frozenset[Placement]({"onnxruntime-integer"})
"""Placements in which what is never negative gets codes from 0 to 255."""
TARGETS: Mapping[str, Placement] = {
    "onnxruntime": "onnxruntime-integer",
    "tensorrt": "tensorrt-sparse",
}


def place(placement: Placement, scene: Scene) -> Draft:
    """Ask every rule of the placement in turn."""
    scene = dataclasses.replace(scene, unsigned=placement in UNSIGNED)
    draft = Draft()
    for rule in PLACEMENTS[placement]:
        draft.take(rule(scene, draft))
    draft.settle_superfluous()
    return draft

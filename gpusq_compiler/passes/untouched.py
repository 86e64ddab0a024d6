"""Layers whose weights no pass can compress: they pass through, and the report lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.ir import query
from gpusq_compiler.passes.base import Finding

if TYPE_CHECKING:
    import onnx_ir as ir


def untouched(model: ir.Model) -> list[Finding]:
    """One finding for each of them."""
    return [
        Finding(
            rule="unknown-layer",
            where=node.name or "",
            reason=f"{node.op_type} is left as it is, with its {size} weights",
        )
        for node, size in query.other_weights(model)
    ]

"""The nodes that compute a packed weight: this is written, and nothing else is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir.packed.form import PLACES

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTHOR = "pack"
CHAIN = ("BitShift", "Mod", "Cast", "ScatterElements", "Reshape")
ZEROS = "ConstantOfShape"
INPUTS = {"BitShift": 2, "Mod": 2, "Cast": 1, "ScatterElements": 3, "Reshape": 2, ZEROS: 1}


def attributes(op_type: str) -> Mapping[str, ir.Attr]:
    """What one of the nodes has; new objects, for a node owns its own."""
    made = {
        "BitShift": ir.AttrString("direction", "RIGHT"),
        "Cast": ir.AttrInt64("to", int(ir.DataType.INT32)),
        "ScatterElements": ir.AttrInt64("axis", PLACES),
        ZEROS: ir.AttrTensor("value", ir.tensor(np.zeros(1, np.int8))),
    }
    return {made[op_type].name: made[op_type]} if op_type in made else {}

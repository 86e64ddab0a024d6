"""Passes of ours between those of onnx_ir, in one sequence.

From the root of the checkout: ``python examples/onnx_ir_sequence.py``.
"""

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes import common

from gpusq_compiler import Fact, open_context
from gpusq_compiler.passes import Canonicalize, ForOnnxIr, Prune, facts

model = ir.load("models/vit_digits.onnx")
with open_context(model, data="models/digits/train.npz") as ctx:
    sequence = ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(),
        ForOnnxIr(Canonicalize(), Prune(exclude=("head.*",)), ctx=ctx),
        common.DeduplicateHashedInitializersPass(),
        common.CheckerPass(),
    )
    result = sequence(model)

held = facts.present(result.model)  # looked up in the values; claims alone are not enough
assert Fact.SPARSE in held
print(f"modified: {result.modified}; holds: {', '.join(sorted(fact.value for fact in held))}")

ir.save(result.model, "vit_digits.sparse.onnx")
test = np.load("models/digits/test.npz")
session = onnxruntime.InferenceSession("vit_digits.sparse.onnx")
(logits,) = session.run(None, {"x": test["x"]})
print(f"vit_digits.sparse.onnx: {(logits.argmax(axis=1) == test['labels']).mean():.2%} right")

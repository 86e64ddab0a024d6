"""Compile a model, read the report, run the file.

From the root of the checkout: ``python examples/python_api.py``.
"""

import numpy as np
import onnxruntime

from gpusq_compiler import compile_model

report = compile_model(
    "models/vit_digits.onnx",
    passes="prune,quantize",  # with qat behind them it also trains, for half a minute
    data="models/digits/train.npz",
    eval_data="models/digits/test.npz",
)
report.show()

test = np.load("models/digits/test.npz")
session = onnxruntime.InferenceSession(report.output.path)
(logits,) = session.run(None, {"x": test["x"]})
print(f"{report.output.path}: {(logits.argmax(axis=1) == test['labels']).mean():.2%} right")

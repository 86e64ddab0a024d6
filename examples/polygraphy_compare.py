"""Dense and compressed side by side in Polygraphy, on our data.

From the root of the checkout, once ``vit_digits.gpusq.onnx`` is compiled:
``python examples/polygraphy_compare.py``. Needs: ``pip install "polygraphy>=0.53"``.
`load_data` also serves its command line: ``polygraphy run --data-loader-script``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

DENSE, COMPRESSED = "models/vit_digits.onnx", "vit_digits.gpusq.onnx"
BATCH = 50


def load_data() -> Iterator[dict[str, np.ndarray]]:
    """Batches of the samples that --eval-data names, without their labels."""
    x = np.load("models/digits/test.npz")["x"]
    for start in range(0, len(x), BATCH):
        yield {"x": x[start : start + BATCH]}


def main() -> int:
    """Run both and compare: 0 where all outputs are alike, else 1."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator, SimpleCompareFunc

    runners = [OnnxrtRunner(SessionFromOnnx(file), name=file) for file in (DENSE, COMPRESSED)]
    results = Comparator.run(runners, data_loader=load_data())
    close = SimpleCompareFunc(atol=0.5, rtol=0, check_error_stat="mean")  # of logits around 3
    return 0 if Comparator.compare_accuracy(results, compare_func=close) else 1


if __name__ == "__main__":
    sys.exit(main())

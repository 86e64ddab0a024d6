"""One contender of `cpu_latency`: runs a file on the ONNX Runtime that is installed here.

usage: python -m benchmarks.cpu_latency_step FILE HELD THREADS OUTPUTS

Leaves the outputs on all held-out samples in OUTPUTS, then takes turns: one sample each. Needs
nothing but numpy and onnxruntime.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime

from benchmarks.turns import take_turns


def main() -> None:
    """Run what the command line names."""
    file, held, threads, outputs = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = int(threads), 4
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    samples = np.load(held)["x"]
    found = [session.run(None, {given.name: x[None]})[0] for x in samples]
    np.save(outputs, np.concatenate(found))
    one = {given.name: samples[:1]}
    take_turns(lambda: session.run(None, one))


if __name__ == "__main__":
    main()

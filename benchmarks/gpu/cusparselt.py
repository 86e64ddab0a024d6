"""Run every pruned product of a compiled model on Sparse Tensor Cores, through cuSPARSELt.

usage: python -m benchmarks.gpu.cusparselt gemms.npz [-o result.json] [--tokens 128,1024,8192]

Needs PyTorch with CUDA, NumPy and this folder, nothing else; `python -m benchmarks.gpu.gemms`
makes gemms.npz from a compiled model. For every layer:

- exact: `codes x activations` in INT8 with INT32 sums, 2:4 compressed, equals the integer
  product computed here on the processor, bit for bit;
- control: the same call with a matrix that is not 2:4 is refused or gives a wrong product.

For every shape and number of tokens: the time of sparse INT8, dense INT8, sparse FP16 and
dense FP16 (`torch_gpu.py` says how). Sides that are no multiples of 32 are padded with zeros,
for the dense variants, too.

Exit codes: 0 all exact and all controls caught; 1 no such archive; 3 not exact, or a control
not caught; 4 no GPU, or no cuSPARSELt.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from benchmarks.gpu.pruned import (
    BLOCK,
    Layer,
    activations,
    dense_like,
    load,
    padded,
    reference,
    shapes,
)
from benchmarks.gpu.torch_gpu import (
    DENSE,
    SPARSE,
    VARIANTS,
    Gpu,
    Measured,
    NotThere,
    first_line,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.gpu.pruned import Codes, Sums

FORMAT = 1
BROKEN, MISSING = 3, 4
EXACT_TOKENS = 256


class Device(Protocol):
    """What multiplies; the tests put a stand-in here."""

    def about(self) -> dict[str, Any]:
        """Device and versions."""
        ...

    def product(self, codes: Codes, x: Codes) -> Sums:
        """``codes @ x.T`` with compressed codes; an error where they are refused."""
        ...

    def times(self, codes: Codes, x: Codes, seconds: float) -> Measured:
        """Time by variant."""
        ...


def checked(device: Device, layer: Layer, seed: int) -> dict[str, Any]:
    """One layer bit for bit, and its negative control."""
    codes = padded(layer.codes)
    x = activations(EXACT_TOKENS, codes.shape[1], seed)
    wrong = dense_like(codes, seed + 1)
    try:
        differing = int(np.count_nonzero(device.product(codes, x) != reference(codes, x)))
        failed = ""
    except RuntimeError as error:
        differing, failed = codes.shape[0] * EXACT_TOKENS, first_line(error)
    try:
        differs = device.product(wrong, x) != reference(wrong, x)
        control = f"wrong product, {np.count_nonzero(differs)} of {differs.size} values"
        caught = bool(np.any(differs))
    except RuntimeError as error:
        control, caught = f"refused: {first_line(error)}", True
    return {
        "layer": layer.name,
        "operator": layer.operator,
        "rows_per_sample": layer.rows or None,
        "shape": list(layer.codes.shape),
        "run_as": list(codes.shape),
        "values": codes.shape[0] * EXACT_TOKENS,
        "differing": differing,
        "failed": failed,
        "exact": not differing and not failed,
        "control": control,
        "control_caught": caught,
    }


def timed(
    device: Device, layers: Sequence[Layer], tokens: int, seconds: float
) -> dict[str, Any]:
    """One shape at a number of tokens."""
    codes = padded(layers[0].codes)
    tokens += -tokens % BLOCK
    x = activations(tokens, codes.shape[1], 0)
    try:
        found = device.times(codes, x, seconds)
    except RuntimeError as error:
        failed = dict.fromkeys(VARIANTS, first_line(error))
        found = Measured(times=failed, kernels={}, equal=None)
    row: dict[str, Any] = {
        "shape": list(codes.shape),
        "layers": len(layers),
        "tokens": tokens,
        "kernels": dict(found.kernels),
        "sparse_equals_dense": found.equal,
    }
    for name in VARIANTS:
        one = found.times[name]
        row[name] = {"failed": one} if isinstance(one, str) else one.as_json()
    row["sparse_gain"] = ratio(row, DENSE, SPARSE)
    return row


def ratio(row: Mapping[str, Any], slow: str, fast: str) -> float | None:
    """How many times faster one variant is; None where one of them failed."""
    a, b = (row[name].get("median_us") for name in (slow, fast))
    return None if a is None or b is None else a / b


def totals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All layers at the same number of tokens, as in a transformer; only where all ran."""
    found = []
    for tokens in sorted({row["tokens"] for row in rows}):
        at = [row for row in rows if row["tokens"] == tokens]
        total: dict[str, Any] = {"tokens": tokens, "layers": sum(r["layers"] for r in at)}
        for name in VARIANTS:
            parts = [(row["layers"], row[name].get("median_us")) for row in at]
            whole = all(taken is not None for _, taken in parts)
            total[name] = {"median_us": sum(n * t for n, t in parts) if whole else None}
        total["sparse_gain"] = ratio(total, DENSE, SPARSE)
        found.append(total)
    return found


def run(
    device: Device,
    about: Mapping[str, Any],
    layers: Sequence[Layer],
    *,
    tokens: Sequence[int],
    seconds: float,
    command: str,
) -> dict[str, Any]:
    """Everything, as one object."""
    exact = [checked(device, layer, seed) for seed, layer in enumerate(layers)]
    rows = [
        timed(device, same, count, seconds)
        for same in shapes(layers).values()
        for count in tokens
    ]
    return {
        "format": FORMAT,
        "command": command,
        "model": about["model"],
        "sha256": about["sha256"],
        **device.about(),
        "all_exact": all(one["exact"] for one in exact)
        and all(row["sparse_equals_dense"] is not False for row in rows),
        "all_controls_caught": all(one["control_caught"] for one in exact),
        "layers": exact,
        "not_covered": about["left"],
        "times": rows,
        "totals": totals(rows),
    }


def exported(path: Path) -> Path:
    """The archive of a model: itself, or made beside it where this checkout can."""
    if path.suffix != ".onnx":
        return path
    try:
        gemms = importlib.import_module("benchmarks.gpu.gemms")
    except ImportError as error:
        raise NotThere(f"{error.name} is missing to read ONNX; give a gemms.npz") from error
    archive = path.with_suffix(".gemms.npz")
    gemms.write(path, archive)
    return archive


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a summary, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gemms", type=Path, help="gemms.npz, or a compiled .onnx")
    parser.add_argument("-o", "--out", type=Path, default=Path("cusparselt.json"))
    parser.add_argument("--tokens", default="128,1024,8192")
    parser.add_argument("--seconds", type=float, default=0.5, help="per variant and cell")
    asked = parser.parse_args(arguments)
    try:
        about, layers = load(exported(asked.gemms))
        device = Gpu()
    except NotThere as error:
        print(f"cusparselt: nothing was measured: {error}", file=sys.stderr)
        return MISSING
    found = run(
        device,
        about,
        layers,
        tokens=[int(word) for word in asked.tokens.split(",")],
        seconds=asked.seconds,
        command="python -m benchmarks.gpu.cusparselt " + " ".join(arguments or sys.argv[1:]),
    )
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(*summary(found), sep="\n")
    return 0 if found["all_exact"] and found["all_controls_caught"] else BROKEN


def summary(found: Mapping[str, Any]) -> list[str]:
    """What a person wants to know."""
    exact = sum(one["exact"] for one in found["layers"])
    caught = sum(one["control_caught"] for one in found["layers"])
    left = len(found["not_covered"])
    lines = [f"{found['model']} on {found['device']}: {exact} of {len(found['layers'])} exact"]
    lines += [f"{caught} negative controls caught, {left} layers not covered"]
    for total in found["totals"]:
        gain = total["sparse_gain"]
        told = "failed" if gain is None else f"{gain:.2f}x as fast as dense INT8"
        what = f"{total['layers']} layers of {total['tokens']} tokens"
        lines.append(f"{what}: sparse INT8 {told}")
    return lines


if __name__ == "__main__":
    sys.exit(main())

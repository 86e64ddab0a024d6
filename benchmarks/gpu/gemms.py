"""Take the pruned INT8 products out of a compiled model, for machines that have only PyTorch.

usage: python -m benchmarks.gpu.gemms model.gpusq.onnx -o gemms.npz

The file holds the integer codes of every weight that claims 2:4, as `[outputs, summed]` with
the groups of four along the second axis, and why the other ones are not in it. It is what
`benchmarks/gpu/cusparselt.py` reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from gpusq_compiler.ir import claims, edit, io, query
from gpusq_compiler.sparsity import nm

if TYPE_CHECKING:
    from collections.abc import Iterator

PATTERN = str(nm.TWO_OF_FOUR)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemm:
    """One product with a pruned weight.

    Attributes:
        name: The node.
        operator: MatMul, Gemm or Conv.
        codes: The weight, `[outputs, summed]`, int8.
        rows: Rows of the activation per sample (tokens, pixels); 0 where that is not known.
    """

    name: str
    operator: str
    codes: npt.NDArray[np.int8]
    rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Left:
    """A pruned weight that is no such product, and why."""

    name: str
    reason: str


def products(model: ir.Model) -> Iterator[Gemm | Left]:
    """Every pruned weight of the model, in graph order; infers the model's shapes."""
    edit.infer_shapes(model)
    for use in query.weight_uses(model):
        claim = claims.sparsity_of(use.value)
        if claim is None:
            continue
        name = use.node.name or ""
        reason = _not_covered(use, claim)
        yield Left(name=name, reason=reason) if reason else _gemm(use, name)


def _not_covered(use: query.WeightUse, claim: claims.Sparsity) -> str:
    """Why a weight is not exported; empty where it is."""
    assert use.value.const_value is not None
    stored = use.value.const_value.dtype
    kernel = use.shape[2:] if use.node.op_type.startswith("Conv") else ()
    grouped = use.node.op_type == "ConvTranspose" or use.groups > 1
    reasons = {
        f"its pattern is {claim.pattern}": claim.pattern != PATTERN,
        f"its weight is stored as {stored.name}, not as codes": stored != ir.DataType.INT8,
        "a layout operator stands between its weight and the product": use.relaid,
        f"{use.node.op_type} in {use.groups} groups is no single product": grouped,
        f"a {'x'.join(map(str, kernel))} convolution is no product without im2col": (
            math.prod(kernel) > 1
        ),
        "its weight is a batch of matrices": len(use.shape) - len(kernel) > 2,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _gemm(use: query.WeightUse, name: str) -> Gemm:
    assert use.value.const_value is not None
    codes = use.value.const_value.numpy()
    if use.node.op_type == "Conv":
        codes = codes.reshape(codes.shape[:2])
    codes = codes if use.reduction == 1 else codes.T
    if nm.violations(codes, axis=1).size:
        raise SystemExit(f"{name}: the codes are not 2:4; see: gpusq check")
    return Gemm(
        name=name,
        operator=use.node.op_type,
        codes=np.ascontiguousarray(codes, np.int8),
        rows=_rows(use),
    )


def _rows(use: query.WeightUse) -> int:
    """Rows of the activation per sample: all sizes of the output but batch and channels."""
    shape = use.node.outputs[0].shape
    sizes = [] if shape is None else list(shape)
    inner = sizes[2:] if use.node.op_type == "Conv" else sizes[1:-1]
    fixed = [size for size in inner if isinstance(size, int)]
    return math.prod(fixed) if sizes and len(fixed) == len(inner) else 0


def write(model: Path, out: Path) -> tuple[list[Gemm], list[Left]]:
    """Export a compiled model; an archive without products is not written."""
    found = list(products(io.load(model)))
    gemms = [one for one in found if isinstance(one, Gemm)]
    left = [one for one in found if isinstance(one, Left)]
    if not gemms:
        raise SystemExit(f"{model}: no product with a 2:4 weight of INT8 codes in it")
    about = {
        "model": model.name,
        "sha256": io.file_hash(model),
        "gemms": [{"name": g.name, "operator": g.operator, "rows": g.rows} for g in gemms],
        "left": [dataclasses.asdict(one) for one in left],
    }
    arrays: dict[str, Any] = {f"codes_{i}": gemm.codes for i, gemm in enumerate(gemms)}
    np.savez_compressed(out, about=np.array(json.dumps(about)), **arrays)
    return gemms, left


def main() -> None:
    """Export, and say what is in the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("gemms.npz"))
    asked = parser.parse_args()
    gemms, left = write(asked.model, asked.out)
    for one in left:
        print(f"not covered: {one.name}: {one.reason}")
    print(f"{asked.out}: {len(gemms)} products, {len(left)} not covered")


if __name__ == "__main__":
    main()

"""Build a compiled model and its twins with TensorRT, and measure what sparsity gives.

usage: python -m benchmarks.gpu.tensorrt_engines model.gpusq.onnx --twins DIR
           [--inputs-only FILE] [--batch-sizes 1,32] [-o result.json] [--work DIR]

Needs TensorRT, a GPU and this package. For every batch size an engine of its own is built, of

- the four twins: dense FP16, dense INT8, sparse FP16 (in DIR), sparse INT8 (the model);
- the model once more with the flag SPARSE_WEIGHTS off;
- with `--inputs-only`, the same compile without quantizers on outputs
  (`--set quantize.placement=gemm-inputs`), which is said to run dense.

Of each: which layers are eligible and which were chosen, by the builder's log and the engine
itself; how far its outputs are from ONNX Runtime's on the same file; its time, all in turn.
The ratios are to dense INT8: what sparsity gains is dense INT8 over sparse INT8.

Exit codes are those of gpusq: 0 measured, 1 a model is refused, 4 no TensorRT or no GPU, 6 a
file is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq_compiler.analysis.bench import Settings, bench
from gpusq_compiler.analysis.inputs import cast
from gpusq_compiler.analysis.twins import DENSE_INT8, SPARSE_INT8, twins_of
from gpusq_compiler.calibration.synthetic import synthesize
from gpusq_compiler.errors import FileError, GpusqError
from gpusq_compiler.ir import io
from gpusq_compiler.manifest import versions
from gpusq_compiler.runtime.metrics import difference
from gpusq_compiler.runtime.session import Session, input_specs
from gpusq_compiler.trt.engines.build import build
from gpusq_compiler.trt.engines.engine import Engine
from gpusq_compiler.trt.engines.options import EngineOptions
from gpusq_compiler.trt.engines.profiles import Shapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Feeds
    from gpusq_compiler.trt.engines.build import EngineInfo

FORMAT = 1
FLAG_OFF, INPUTS_ONLY = "sparse-int8-flag-off", "sparse-int8-inputs-only"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One engine to build: from which file, and whether sparse kernels are allowed."""

    name: str
    model: Path
    sparse: bool = True


def variants(model: Path, folder: Path, inputs_only: Path | None) -> list[Variant]:
    """Dense INT8 first, for the others are compared with it.

    Raises:
        FileError: A file is missing, or the twin that the comparison stands on.
    """
    for path in filter(None, (model, inputs_only)):
        if not path.is_file():
            raise FileError("there is no such file", where=str(path), remedy="Check the path")
    twins = dict(twins_of(model, folder))
    if DENSE_INT8 not in twins:
        raise FileError(
            f"lacks the twin {DENSE_INT8} of {model.name}",
            where=str(folder),
            remedy="Write the twins with: gpusq-compile ... --twins DIR",
        )
    named = {DENSE_INT8: twins.pop(DENSE_INT8), SPARSE_INT8: twins.pop(SPARSE_INT8), **twins}
    found = [Variant(name=name, model=path) for name, path in named.items()]
    found.append(Variant(name=FLAG_OFF, model=model, sparse=False))
    if inputs_only is not None:
        found.append(Variant(name=INPUTS_ONLY, model=inputs_only))
    return found


def measured(
    found: Sequence[Variant], batch: int, work: Path, settings: Settings
) -> dict[str, Any]:
    """All variants at one batch size."""
    feeds = synthesize(io.load(found[0].model), seed=0).take(np.arange(batch))
    engines, rows = [], []
    for variant in found:
        model = io.load(variant.model)
        engines.append(work / f"{variant.name}.{batch}.engine")
        row = described(variant, built(variant, model, engines[-1], feeds))
        rows.append({**row, "numerics": numerics(model, engines[-1], feeds)})
    timed = bench(engines, dataclasses.replace(settings, batch_sizes=[batch]))
    return {"batch": batch, "engines": rows, "bench": timed.as_json()}


def built(variant: Variant, model: ir.Model, engine: Path, feeds: Feeds) -> EngineInfo:
    """An engine for exactly these shapes: kernels are timed at them, too."""
    free = [spec.name for spec in input_specs(model) if None in spec.shape]
    shapes = Shapes(optimum={name: feeds[name].shape for name in free})
    options = EngineOptions(sparse_weights=variant.sparse, shapes=shapes)
    return build(variant.model, engine, options)


def described(variant: Variant, info: EngineInfo) -> dict[str, Any]:
    """What was built, and which layers became sparse."""
    evidence = info.evidence
    return {
        "variant": variant.name,
        "model": variant.model.name,
        "bytes": info.size,
        "build_seconds": info.seconds,
        "tensorrt": info.tensorrt,
        "device": info.device,
        "capability": info.capability,
        "flags": list(info.flags),
        "layers": len(evidence.layers),
        "eligible": evidence.eligible,
        "chosen": evidence.chosen,
        "chosen_int8": evidence.chosen_int8,
        "not_known": evidence.possible,
        "precisions": dict(evidence.precisions),
        "table": [list(row) for row in evidence.rows()],
    }


def numerics(model: ir.Model, engine: Path, feeds: Feeds) -> dict[str, Any]:
    """How far the engine's outputs are from ONNX Runtime's on the same file."""
    wanted = Session(model)(cast(feeds, input_specs(model)))
    with contextlib.closing(Engine(engine)) as loaded:
        found = loaded(feeds)
    apart = {name: difference(found[name], values) for name, values in wanted.items()}
    return {
        name: {
            "cosine": one.cosine,
            "sqnr_db": one.sqnr if np.isfinite(one.sqnr) else None,
            "max_error": one.max_error,
        }
        for name, one in apart.items()
    }


def report(found: Sequence[Mapping[str, Any]], command: str) -> dict[str, Any]:
    """One object for all batch sizes."""
    return {"format": FORMAT, "command": command, "versions": versions(), "batches": found}


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, measure, print a summary, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="the sparse INT8 file")
    parser.add_argument("--twins", type=Path, required=True)
    parser.add_argument("--inputs-only", type=Path, help="without quantizers on outputs")
    parser.add_argument("--batch-sizes", default="1,32")
    parser.add_argument("--seconds", type=float, default=2.0, help="per engine")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds per engine")
    parser.add_argument("--work", type=Path, help="keep engines and logs here")
    parser.add_argument("-o", "--out", type=Path, default=Path("tensorrt_engines.json"))
    given = sys.argv[1:] if arguments is None else list(arguments)
    asked = parser.parse_args(given)
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = [
                measured(
                    variants(asked.model, asked.twins, asked.inputs_only),
                    int(batch),
                    asked.work or Path(folder),
                    Settings(seconds=asked.seconds, warm_up=asked.warm_up),
                )
                for batch in asked.batch_sizes.split(",")
            ]
    except GpusqError as error:
        print(f"tensorrt_engines: nothing was measured: {error}", file=sys.stderr)
        return error.exit_code
    command = " ".join(["python -m benchmarks.gpu.tensorrt_engines", *given])
    asked.out.write_text(json.dumps(report(found, command), indent=1) + "\n")
    for one in found:
        print(*summary(one), sep="\n")
    return 0


def summary(found: Mapping[str, Any]) -> list[str]:
    """What a person wants to know of a batch size."""
    lines = []
    for row, cell in zip(found["engines"], found["bench"]["cells"], strict=True):
        ratio = cell["faster"]
        told = "" if ratio is None else f", {ratio['median']:.2f}x as fast as {DENSE_INT8}"
        lines.append(
            f"batch {found['batch']}, {row['variant']}: {cell['median_ms']:.3f} ms{told}; "
            f"{row['eligible']} layers eligible, {row['chosen']} chosen "
            f"({row['chosen_int8']} in INT8)"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())

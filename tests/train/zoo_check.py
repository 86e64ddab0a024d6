"""What is measured on one model of the zoo: fidelity of the training copy, and a few steps."""

from __future__ import annotations

import dataclasses
import resource
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.calibration.synthetic import synthesize
from gpusq_compiler.ir import io
from gpusq_compiler.passes.base import Context
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.runtime.session import Session, fixed_batch
from gpusq_compiler.train.copy.trainable import training_copy
from gpusq_compiler.train.loop import OrtTrainer
from gpusq_compiler.train.quantizers import LearnedStep
from tests.train import nets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array, Feeds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One row of the table.

    Attributes:
        float_error: Training copy without quantizers against the float model, relative.
        cosine: Training copy with quantizers against the Q/DQ graph.
        batch: Samples per step.
        seconds: Per step.
        gigabytes: Peak of the process.
        parameters: How many tensors were trained.
        still: Those of them that did not move.
        frozen: What was left out, with the reason.
    """

    float_error: float
    cosine: float
    batch: int
    seconds: float
    gigabytes: float
    parameters: int
    still: tuple[str, ...]
    frozen: Mapping[str, str]


def measure(path: Path, workdir: Path, *, steps: int = 2) -> Measured:
    """Canonicalize, prune and quantize a model, compare its training copies, train."""
    model = io.load(path)
    samples = synthesize(model, seed=0)
    ctx = Context(workdir=workdir, data=samples, held_out=samples, trainer=OrtTrainer())
    teacher = Canonicalize()(model)
    ctx = dataclasses.replace(ctx, teacher=teacher)
    student = teacher.clone()
    Pipeline(passes=(Prune(), Quantize(samples=8, batch_size=8))).run(student, ctx)
    sizes = [fixed_batch(student)] if fixed_batch(student) else [2, 3]
    runs = [samples.take(np.arange(size or 1)) for size in sizes]
    float_error = _float_error(teacher, runs)
    cosine = _cosine(student, runs)
    resolved = Qat(steps=steps).resolve(student, ctx)
    assert isinstance(resolved, Qat)
    job = dataclasses.replace(resolved.job(student, ctx), evaluate_every=steps)
    result = OrtTrainer().fit(job)
    seconds = OrtTrainer(probe=False).seconds_per_step(job, steps=3)
    moved = _moved(student, result.values)
    return Measured(
        float_error=float_error,
        cosine=cosine,
        batch=fixed_batch(student) or job.batch_size,
        seconds=seconds,
        gigabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        parameters=len(result.values),
        still=tuple(name for name, changed in moved.items() if not changed),
        frozen=result.frozen,
    )


def _outputs(copy_of: ir.Model, runs: list[Feeds], *, quantize: bool) -> dict[str, Array]:
    copy = training_copy(copy_of, LearnedStep(), quantize=quantize, batches=runs).model
    return nets.run(copy, runs[0], optimize=False)


def _float_error(dense: ir.Model, runs: list[Feeds]) -> float:
    """Largest difference over the output's scale."""
    expected = Session(dense, optimize=False)(runs[0])
    found = _outputs(dense, runs, quantize=False)
    return max(
        float(np.abs(found[name] - value).max() / np.abs(value).max())
        for name, value in expected.items()
    )


def _cosine(student: ir.Model, runs: list[Feeds]) -> float:
    expected = Session(student, optimize=False)(runs[0])
    found = _outputs(student, runs, quantize=True)
    return min(
        float(np.vdot(found[n], v) / (np.linalg.norm(found[n]) * np.linalg.norm(v)))
        for n, v in expected.items()
    )


def _moved(student: ir.Model, values: Mapping[str, Array]) -> dict[str, bool]:
    moved = {}
    for name, value in values.items():
        start = student.graph.initializers[name].const_value
        assert start is not None
        moved[name] = not np.array_equal(value, start.numpy())
    return moved

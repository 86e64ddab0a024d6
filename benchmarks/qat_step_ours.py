"""The contenders of `qat_step` that run on ONNX Runtime."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.turns import take_turns
from gpusq_compiler.calibration import batches
from gpusq_compiler.calibration.synthetic import synthesize
from gpusq_compiler.ir import io
from gpusq_compiler.passes.base import Context
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.runtime.session import Session, input_specs, session_options
from gpusq_compiler.train.copy.trainable import training_copy
from gpusq_compiler.train.gradients.gradient import gradient_graph, with_inputs
from gpusq_compiler.train.gradients.lossgraph import loss_model
from gpusq_compiler.train.loop import OrtTrainer
from gpusq_compiler.train.losses import HardLabel
from gpusq_compiler.train.machine import Machine
from gpusq_compiler.train.optimizer import names, optimizer_graph
from gpusq_compiler.train.prepared import prepare, starting_points
from gpusq_compiler.train.schedule import STEP, Schedule
from gpusq_compiler.train.targets import dry_runs

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from gpusq_compiler.train.job import TrainJob

DENSE, STUDENT = "dense.onnx", "student.onnx"
STEPS = 1000


def make(source: Path, folder: Path) -> None:
    """The dense model as it is run, and the sparse quantized one as it is trained."""
    dense = Canonicalize()(io.load(source))
    io.save(dense, folder / DENSE)
    samples = synthesize(dense, seed=0)
    student = dense.clone()
    ctx = Context(workdir=folder, data=samples, held_out=samples, teacher=dense)
    Pipeline(passes=(Prune(), Quantize(samples=8, batch_size=8))).run(student, ctx)
    io.save(student, folder / STUDENT)


def job_of(folder: Path, batch: int, threads: int) -> TrainJob:
    """Training against random labels, without a teacher."""
    student = io.load(folder / STUDENT)
    taken = dict(synthesize(student, seed=0).take(np.arange(batch)))
    classes = int(str((student.graph.outputs[0].shape or ())[-1]))
    taken["labels"] = np.random.default_rng(0).integers(classes, size=batch)
    workdir = Path(tempfile.mkdtemp(dir=folder))
    data = batches.from_arrays(taken, input_specs(student), workdir=workdir, classes=classes)
    ctx = Context(
        workdir=workdir, data=data, held_out=data, trainer=OrtTrainer(), threads=threads
    )
    qat = Qat(steps=STEPS, batch_size=batch, losses=(HardLabel(),)).resolve(student, ctx)
    return qat.job(student, ctx)


def floor(folder: Path, batch: int, threads: int) -> Callable[[], object]:
    """One forward pass of the dense float model."""
    session = Session(io.load(folder / DENSE), threads=threads)
    job = job_of(folder, batch, threads)
    feeds = job.data.take(np.arange(batch))
    return lambda: session(feeds)


def ours(folder: Path, batch: int, threads: int) -> Callable[[], object]:
    """A step as `qat` does it."""
    job = job_of(folder, batch, threads)
    prepared = prepare(job, probe=False)
    machine = Machine(job, prepared, Schedule(steps=job.steps, warmup=job.warmup))

    def step() -> None:
        machine.gradient(prepared.batches.training(0))
        machine.update(0)

    return step


def bare(folder: Path, batch: int, threads: int) -> Callable[[], object]:
    """The gradient graph as the builder makes it, all tensors fed and fetched as arrays."""
    job = job_of(folder, batch, threads)
    parameters = starting_points(job)
    copy = training_copy(job.student, job.quantizer, batches=dry_runs(job))
    loss = loss_model(copy, job.terms, (), with_teacher=False, with_labels=True)
    moved = with_inputs(loss.model, parameters)
    built = gradient_graph(moved, parameters, loss.loss, masks=job.masks, kernels=False)
    gradient = _session(built, threads)
    schedule = Schedule(steps=job.steps, warmup=job.warmup)
    optimizer = _session(optimizer_graph(list(parameters.values()), schedule), threads)
    taken = job.data.take(np.arange(batch))
    values = {name: parameter.value for name, parameter in parameters.items()}
    moments = [{name: np.zeros_like(v) for name, v in values.items()} for _ in range(2)]

    def step() -> None:
        found = gradient({**taken, **values})
        fed: dict[str, Any] = {STEP: np.array(0)}
        for index, name in enumerate(values):
            parts = (values[name], found[f"{name}_grad"], *(m[name] for m in moments))
            fed.update(zip(names(index), parts, strict=True))
        moved = optimizer(fed)
        for index, name in enumerate(values):
            value, _, *both = names(index)
            values[name] = moved[f"{value}.new"]
            for kept, part in zip(moments, both, strict=True):
                kept[name] = moved[f"{part}.new"]

    return step


def _session(model: bytes | onnx.ModelProto, threads: int) -> Callable[[Any], dict[str, Any]]:
    import onnxruntime

    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(
        content, session_options(threads=threads), providers=["CPUExecutionProvider"]
    )
    wanted = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def run(feeds: Any) -> dict[str, Any]:
        found = session.run(None, {name: feeds[name] for name in wanted})
        return dict(zip(outputs, found, strict=True))

    return run


CONTENDERS = {"floor": floor, "ours": ours, "bare": bare}


@dataclasses.dataclass(frozen=True)
class _Asked:
    who: str
    folder: str
    batch: str
    threads: str


def main() -> None:
    """Be one of them."""
    asked = _Asked(*sys.argv[1:5])
    step = CONTENDERS[asked.who](Path(asked.folder), int(asked.batch), int(asked.threads))
    take_turns(step)


if __name__ == "__main__":
    main()

"""From a request to the services that passes use: data, teacher, trainer, metric."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.calibration import batches, padding, synthetic
from gpusq_compiler.calibration.evaluate import Evaluator
from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir import io
from gpusq_compiler.passes.base import Context
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.request import CHECKPOINTS, require_choices
from gpusq_compiler.runtime.session import input_specs
from gpusq_compiler.train.checkpoints import FolderCheckpoints
from gpusq_compiler.train.loop import OrtTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.calibration.images import Images
    from gpusq_compiler.passes.base import AnyModel
    from gpusq_compiler.recipe import Plan
    from gpusq_compiler.request import Request
    from gpusq_compiler.runtime.events import Events
    from gpusq_compiler.runtime.samples import Samples

MOST_COMPARED = 256
"""Held-out samples on which outputs are compared with the dense model's, after each pass."""


def context_of(
    plan: Plan, model: ir.Model, request: Request, workdir: Path, *, samples: bool = True
) -> Context:
    """Open everything that the request names; all of it is checked here.

    Args:
        plan: What runs.
        model: As it was read.
        request: Names what is opened.
        workdir: For data that do not fit into memory.
        samples: Whether any are opened or made up.

    Raises:
        DataError: Data do not fit the model.
        ModelError: The teacher does not fit the model.
        FileError: Something cannot be read.
    """
    data, held_out = _samples(plan, model, request, workdir) if samples else (None, None)
    trainings = sum(step.trains for step in plan.pipeline.passes)
    return Context(
        workdir=workdir,
        seed=plan.seed,
        threads=request.threads,
        device=request.device,
        target=request.target,
        teacher=_teacher(model, request.teacher),
        data=data,
        held_out=held_out,
        synthesised=request.data is None,
        trainer=OrtTrainer(),
        events=request.events,
        checkpoints=FolderCheckpoints(workdir / CHECKPOINTS, resume=request.resume),
        budget=None if request.budget is None else 60 * request.budget / max(trainings, 1),
    )


@contextlib.contextmanager
def open_context(
    model: AnyModel,
    data: object,
    *,
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    target: str = "onnxruntime",
) -> Iterator[Context]:
    """Services for passes that run outside of a compile, for as long as the block lasts.

    ``with open_context(model, "train.npz") as ctx: sparse = Prune()(model, ctx)``

    Args:
        model: The dense one: it says what inputs are wanted, and is the teacher.
        data: As for `compile_model`; a tenth of it is held out. None: synthesised.
        seed: Root of all randomness.
        threads: Of the runtime; None lets it choose.
        device: ``cpu``, ``cuda`` or ``auto``.
        target: ``onnxruntime`` or ``tensorrt``.

    Yields:
        What passes are called with.

    Raises:
        DataError: The data do not fit the model.
        OptionError: There is no such device or target.
        FileError: Something cannot be read.
    """
    require_choices(target=target, device=device)
    opened = model if isinstance(model, ir.Model) else ir.from_proto(model)
    with tempfile.TemporaryDirectory(prefix="gpusq-") as folder:
        samples = samples_of(data, opened, Path(folder), seed)
        training, held_out = _parts(samples, opened, seed, threads, device)
        yield Context(
            workdir=Path(folder),
            seed=seed,
            threads=threads,
            device=device,
            target=target,
            teacher=Canonicalize()(opened),
            data=training,
            held_out=held_out,
            synthesised=data is None,
            trainer=OrtTrainer(),
        )


def _samples(
    plan: Plan, model: ir.Model, request: Request, workdir: Path
) -> tuple[Samples | None, Samples | None]:
    """What is trained and calibrated on, and what is held out, without padding."""
    samples = samples_of(
        request.data,
        model,
        workdir,
        plan.seed,
        request.metric,
        images=plan.images,
        events=request.events,
    )
    return _parts(samples, model, plan.seed, request.threads, request.device)


def evaluator_of(
    dense: ir.Model, request: Request, ctx: Context, images: Images | None = None
) -> Evaluator | None:
    """The metric on ``--eval-data``, else on the held-out tenth; None without either.

    Likeness to the dense model, which is kept and every sample tells, is measured on some of
    the tenth.
    """
    if request.eval_data is not None:
        given = open_data(request.eval_data, dense, ctx.workdir, request.metric, images=images)
        samples: Samples | None = padding.unpadded(
            given, dense, threads=ctx.threads, device=ctx.device
        )
    else:
        samples = ctx.held_out
    if samples is None:
        return None
    evaluator = Evaluator.of(
        request.metric, samples, dense, threads=ctx.threads, device=ctx.device
    )
    if request.eval_data is not None or evaluator.measures_accuracy:
        return evaluator
    few = Subset(samples, np.arange(min(samples.count, MOST_COMPARED)))
    return dataclasses.replace(evaluator, samples=few)


def open_data(
    source: object,
    model: ir.Model,
    workdir: Path,
    metric: str | None = None,
    *,
    images: Images | None = None,
    events: Events | None = None,
) -> Samples:
    """Data as the command line or Python names them, checked against the model's inputs.

    Labels of a classifier must be class ids, unless the metric compares values.
    """
    specs = input_specs(model)
    classes = None if metric == "psnr" else _classes(model)
    if isinstance(source, str | Path):
        return batches.load(
            str(source), specs, workdir=workdir, classes=classes, images=images, events=events
        )
    return batches.from_arrays(source, specs, workdir=workdir, classes=classes)


def samples_of(
    source: object,
    model: ir.Model,
    workdir: Path,
    seed: int,
    metric: str | None = None,
    *,
    images: Images | None = None,
    events: Events | None = None,
) -> Samples:
    """Data as the user names them, synthesised where none are named."""
    if source is None:
        return synthetic.synthesize(model, seed=seed)
    return open_data(source, model, workdir, metric, images=images, events=events)


def _parts(
    samples: Samples, model: ir.Model, seed: int, threads: int | None, device: str
) -> tuple[Samples | None, Samples | None]:
    """The training part and the held-out tenth, without padding that nothing notices."""
    parts = (samples, None) if samples.count < 2 else batches.split(samples, seed)
    training, held_out = (
        part and padding.unpadded(part, model, threads=threads, device=device)
        for part in parts
    )
    return training, held_out


def _classes(model: ir.Model) -> int | None:
    """Number of classes of a classifier: the last dimension of a first output [batch, n]."""
    shape = model.graph.outputs[0].shape
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int) or shape[1] < 2:
        return None
    return shape[1]


def _teacher(model: ir.Model, path: Path | None) -> ir.Model | None:
    """The teacher that the user named; None leaves the choice to the pipeline."""
    if path is None:
        return None
    teacher = io.load(path)
    for kind, ours, theirs in (
        ("inputs", model.graph.inputs, teacher.graph.inputs),
        ("outputs", model.graph.outputs, teacher.graph.outputs),
    ):
        if [_form(v) for v in ours] != [_form(v) for v in theirs]:
            raise ModelError(
                f"its {kind} differ from the model's: {', '.join(map(_form, theirs))} "
                f"instead of {', '.join(map(_form, ours))}",
                where=f"teacher {path}",
                remedy="Give a teacher with the same inputs and outputs",
            )
    return teacher


def _form(value: ir.Value) -> str:
    """Name, type and shape, free dimensions as ``?``."""
    dims = [str(d) if isinstance(d, int) else "?" for d in value.shape or ()]
    return f"{value.name} {value.dtype.name if value.dtype else '?'}[{','.join(dims)}]"

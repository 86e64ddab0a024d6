"""A job made ready: its loss graph, its sessions, and what cannot be trained."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.ir import outputs
from gpusq_compiler.runtime.samples import has_class_ids, lengths_of, with_padding
from gpusq_compiler.train.copy.trainable import training_copy
from gpusq_compiler.train.gradients.attempts import Attempts
from gpusq_compiler.train.gradients.gradient import with_inputs
from gpusq_compiler.train.gradients.lossgraph import LossModel, loss_model
from gpusq_compiler.train.gradients.reach import Reach
from gpusq_compiler.train.kernels import fakequant
from gpusq_compiler.train.kernels.forms import with_kernels
from gpusq_compiler.train.kernels.ordering import in_order
from gpusq_compiler.train.optimizer import Parameter
from gpusq_compiler.train.sessions import on_cpu, session_of
from gpusq_compiler.train.targets import Batches, dry_runs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.train.job import TrainJob


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that follows from the job alone.

    Attributes:
        loss: What is minimised and reported; its graph, which held all weights, is empty.
        batches: What is fed.
        parameters: What is trained, in the order of the groups.
        left_out: What was to be trained or imitated and cannot be, with the reason.
        sound: Whether nothing had to be tried out because the backward pass failed.
        backward: Session of the gradient graph, None when nothing is trained.
        forward: Session of the loss alone.
    """

    loss: LossModel
    batches: Batches
    parameters: Mapping[str, Parameter]
    left_out: Mapping[str, str]
    sound: bool
    backward: Any
    forward: Any


def prepare(job: TrainJob, *, probe: bool = True) -> Prepared:
    """Build the graphs and sessions of a job.

    Args:
        job: What is to be trained.
        probe: Whether the first step runs in a process of its own first.

    Raises:
        TrainingError: No loss applies, a group names no float initializer, or building fails.
    """
    if lengths_of(job.data) is not None:
        try:
            found = _prepared(job, probe=probe)
        except TrainingError:
            found = None
        if found is not None and found.sound:
            return found
        job.events.note(f"{job.label}: cannot train on texts of any length; pads them")
    data, held_out = with_padding(job.data), with_padding(job.held_out)
    return _prepared(dataclasses.replace(job, data=data, held_out=held_out), probe=probe)


def _prepared(job: TrainJob, *, probe: bool) -> Prepared:
    parameters = starting_points(job)
    copy = training_copy(job.student, job.quantizer, batches=dry_runs(job))
    loss = loss_model(
        copy,
        job.terms,
        job.features,
        factors=job.factors,
        embeddings=outputs.embeddings(job.student),
        parts=_common_parts(job),
        with_teacher=job.teacher is not None,
        with_labels=has_class_ids(job.data),
        blockwise=job.blockwise,
    )
    batches = Batches(job, loss)
    values = {name: parameter.value for name, parameter in parameters.items()}
    attempts = Attempts(job, loss, Reach(loss.model.graph, copy.kinds), values, batches)
    backward = attempts.backward(probe=probe)
    trained = {name: p for name, p in parameters.items() if name not in attempts.frozen}
    forward = with_inputs(loss.model, trained)
    if on_cpu(job.device):
        fakes = fakequant.find(forward)
        fakequant.collapse(forward.graph, fakes)
        with_kernels(forward, fakes)
        in_order(forward.graph)
    return Prepared(
        loss=dataclasses.replace(loss, model=onnx.ModelProto()),
        batches=batches,
        parameters=trained,
        left_out={**loss.left_out, **attempts.frozen},
        sound=attempts.sound,
        backward=backward,
        forward=session_of(forward.SerializeToString(), job),
    )


def _common_parts(job: TrainJob) -> dict[str, tuple[str, ...]]:
    """What outputs join, where the teacher's outputs join tensors of the same names."""
    if job.teacher is None:
        return {}
    theirs = outputs.joined(job.teacher)
    return {
        output: parts
        for output, parts in outputs.joined(job.student).items()
        if theirs.get(output) == parts
    }


def starting_points(job: TrainJob) -> dict[str, Parameter]:
    """The parameters of all groups at their start, masks applied, as float32.

    Raises:
        TrainingError: A name is no float initializer, or stands in two groups.
    """
    found: dict[str, Parameter] = {}
    for group in job.groups:
        for name in group.names:
            if name in found:
                raise TrainingError("two parameter groups hold it", where=f"tensor '{name}'")
            mask = job.masks.get(name)
            value = stored_value(job, name).astype(np.float32)
            found[name] = Parameter(
                value=value if mask is None else value * mask,
                learning_rate=group.learning_rate,
                weight_decay=group.weight_decay,
                relative=group.relative,
                start=group.start,
            )
    return found


def stored_value(job: TrainJob, name: str) -> Array:
    """The student's own value of an initializer.

    Raises:
        TrainingError: There is none of that name, or it is not floating point.
    """
    value = job.student.graph.initializers.get(name)
    tensor = None if value is None else value.const_value
    if tensor is None or not tensor.dtype.is_floating_point():
        raise TrainingError("it is no float initializer", where=f"tensor '{name}'")
    return tensor.numpy()

"""A job made ready: its loss graph, its gradient session, and what cannot be trained."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.session import providers, session_options
from gpusq_compiler.train.gradient import (
    MissingGradient,
    explained,
    gradient_graph,
    with_inputs,
)
from gpusq_compiler.train.lossgraph import LossModel, loss_model
from gpusq_compiler.train.optimizer import Parameter
from gpusq_compiler.train.reach import Reach
from gpusq_compiler.train.trainable import training_copy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.runtime.samples import Array
    from gpusq_compiler.train.job import TrainJob

UNREACHED = "no-gradient: it is on no path to the loss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that follows from the job alone.

    Attributes:
        loss: The loss graph; its parameters are initializers.
        parameters: What is trained, in the order of the groups.
        frozen: What was to be trained and cannot be, with the reason.
        gradient: The gradient graph, empty when nothing is trained.
        backward: Its session, None when nothing is trained.
        forward: Session of the loss alone.
    """

    loss: LossModel
    parameters: Mapping[str, Parameter]
    frozen: Mapping[str, str]
    gradient: bytes
    backward: Any
    forward: Any


def prepare(job: TrainJob) -> Prepared:
    """Build the graphs and sessions of a job.

    Raises:
        TrainingError: No loss applies, a group names no float initializer, or building fails.
    """
    parameters = starting_points(job)
    copy = training_copy(job.student, job.quantizer)
    loss = loss_model(
        copy,
        job.terms,
        job.features,
        with_teacher=job.teacher is not None,
        with_labels=job.data.has_labels,
    )
    reach = Reach(loss.model.graph, copy.kinds)
    reached = reach.above([loss.loss])
    frozen = {name: UNREACHED for name in parameters if name not in reached}
    gradient, backward = b"", None
    while len(frozen) < len(parameters):
        names = [name for name in parameters if name not in frozen]
        try:
            gradient = gradient_graph(with_inputs(loss.model, names), names, loss.loss)
            backward = _session(gradient, job)
            break
        except MissingGradient as missing:
            blocked = reach.blocked(missing.op_type, loss.loss, names)
            if not blocked:
                raise
            reason = f"no-gradient: {missing.op_type}"
            frozen.update({name: f"{reason} {node}" for name, node in blocked.items()})
    trained = {name: p for name, p in parameters.items() if name not in frozen}
    forward = _session(with_inputs(loss.model, trained).SerializeToString(), job)
    return Prepared(
        loss=loss,
        parameters=trained,
        frozen=frozen,
        gradient=gradient,
        backward=backward,
        forward=forward,
    )


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
                mask=mask,
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


def _session(model: bytes, job: TrainJob) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(
            model, session_options(threads=job.threads), providers=providers(job.device)
        )
    except flavour.refusals() as error:
        raise explained(error) from error

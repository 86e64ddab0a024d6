r"""How much the outputs depend on each weight: mean squared gradients, without labels.

For an output vector f and independent random signs r, the gradient g of ``<r, f>`` has
``E[g^2] = sum_i (df_i/dw)^2``, the diagonal of ``J^T J`` (Hutchinson 1989). So ``w^2 E[g^2]``
is what removing w adds to the squared error of the outputs, to second order: optimal brain
damage (LeCun et al. 1990) with the Gauss-Newton matrix for its Hessian. This estimator is our
choice: a model that is its own teacher has no gradient in any distillation loss.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.runtime.samples import Array, training_rows
from gpusq_compiler.runtime.session import Session, fixed_batch
from gpusq_compiler.train.job import Loss
from gpusq_compiler.train.losses import total
from gpusq_compiler.train.machine import LOSS, Machine
from gpusq_compiler.train.prepared import prepare

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Feeds
    from gpusq_compiler.train.job import LossGraph, TrainJob

SIGNS = "signs."


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomProjection(Loss):
    r"""``sum_o <r_o, f_o> / |f_o|`` over floating-point outputs, with new signs at every step.

    Dividing by the norm of the whole output on the first batch is our choice: outputs of any
    size weigh alike, in the relative squared error that ``output-error`` counts too.

    Attributes:
        outputs: The model's outputs on the first batch.
        seed: Of the signs.
    """

    name: ClassVar[str] = "random-projection"
    needs_teacher: ClassVar[bool] = False
    outputs: Mapping[str, Array]
    seed: int = 0

    def build(self, graph: LossGraph) -> str | None:
        """Add up the products of each output and its signs."""
        products = [
            graph.node("Mul", graph.student(name), SIGNS + name) for name in graph.outputs
        ]
        return total(graph, [graph.node("ReduceSum", p, keepdims=0) for p in products])

    @property
    def host_inputs(self) -> tuple[str, ...]:
        """One tensor of signs for each output."""
        return tuple(SIGNS + name for name in self.outputs)

    def feeds(self, step: int) -> Feeds:
        """Signs over norms: a pure function of seed and step."""
        rng = np.random.default_rng([self.seed, step, 1])  # [seed, step] orders samples
        return {SIGNS + name: _signs(rng, like) for name, like in self.outputs.items()}


def squared_gradients(job: TrainJob, batches: int, *, probe: bool = True) -> dict[str, Array]:
    """Mean of ``g^2`` over batches, float32, in each parameter's shape.

    Args:
        job: Its groups name the parameters; terms, teacher, features and steps do not count.
        batches: Batches of ``job.batch_size`` samples, drawn as training draws them.
        probe: Whether the first step runs in a process of its own first.

    Returns:
        By name; what no gradient reaches is absent.

    Raises:
        TrainingError: The model has no floating-point output, or something is not finite.
    """
    projection = RandomProjection(outputs=_first_outputs(job), seed=job.seed)
    job = dataclasses.replace(job, teacher=None, terms=(projection,), features=(), masks={})
    prepared = prepare(job, probe=probe)
    machine = Machine(job, prepared)
    sums = {name: np.zeros_like(p.value) for name, p in prepared.parameters.items()}
    for step in range(batches if sums else 0):
        scalars = machine.gradient(prepared.batches.training(step))
        if not math.isfinite(scalars[LOSS]):
            raise _not_finite(f"batch {step}")
        for name, gradient in machine.gradients().items():
            sums[name] += np.square(gradient)
    for name, summed in sums.items():
        if not np.all(np.isfinite(summed)):
            raise _not_finite(f"gradient of tensor '{name}'")
    return {name: summed / np.float32(batches) for name, summed in sums.items()}


def _first_outputs(job: TrainJob) -> dict[str, Array]:
    """The floating-point outputs on the samples of the first step."""
    size = fixed_batch(job.student) or job.batch_size
    rows = training_rows(job.data.count, size, job.seed, 0)
    session = Session(job.student, threads=job.threads, device=job.device, workdir=job.workdir)
    found = session(job.data.take(rows))
    return {name: array for name, array in found.items() if array.dtype.kind == "f"}


def _signs(rng: np.random.Generator, like: Array) -> Array:
    norm = float(np.linalg.norm(like.astype(np.float64))) or 1.0
    signs = rng.integers(2, size=like.shape, dtype=np.int8)
    return np.asarray((2 * signs - 1) / norm, dtype=np.float32)


def _not_finite(where: str) -> TrainingError:
    return TrainingError(
        "the random projection of the outputs is not finite",
        where=where,
        remedy="Check the samples for values that are not finite",
    )

"""A trainer without training: what the tests of passes use."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.train.job import TrainJob, TrainResult

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedTrainer:
    """Adds a known number to every trainable value, then applies the masks.

    Attributes:
        delta: What is added.
    """

    delta: float = 1e-3

    def fit(self, job: TrainJob) -> TrainResult:
        """Return the moved values; the last step is the best, layer ``i`` loses ``i + 1``."""
        names = [name for group in job.groups for name in group.names]
        features = {
            f"feature/{name}": (float(index + 1),) * job.steps
            for index, name in enumerate(job.features)
        }
        loss = tuple(1.0 / (step + 1) for step in range(job.steps))
        return TrainResult(
            values={name: self._moved(job, name) for name in names},
            best_step=job.steps,
            series={"loss": loss, **features},
            held_out=((0, 1.0), (job.steps, 0.5)),
            looks={
                f"feature/{name}": (float(index + 2), float(index + 1))
                for index, name in enumerate(job.features)
            },
        )

    def squared_gradients(self, job: TrainJob, batches: int) -> dict[str, Array]:
        """Return 1, 2, 3, ... along each parameter's elements, whatever the batches."""
        del batches
        names = [name for group in job.groups for name in group.names]
        weights = {name: self._moved(job, name) for name in names}
        return {
            name: 1 + np.arange(weight.size, dtype=np.float32).reshape(weight.shape)
            for name, weight in weights.items()
        }

    def _moved(self, job: TrainJob, name: str) -> Array:
        tensor = job.student.graph.initializers[name].const_value
        assert tensor is not None
        start = tensor.numpy()
        moved = start.astype(np.float32) + np.float32(self.delta)
        if name in job.masks:
            moved = np.where(job.masks[name], moved, np.float32(0))
        result: Array = moved.astype(start.dtype)
        return result

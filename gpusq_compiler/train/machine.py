"""The moving parts of training: parameters and moments that stay where they are.

Parameters, gradients and moments live in `OrtValue`s that the sessions read and write in
place, so that a step copies nothing but its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq_compiler.errors import TrainingError, first_line
from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.session import providers
from gpusq_compiler.train.optimizer import average_name, names, optimizer_graph
from gpusq_compiler.train.schedule import STEP
from gpusq_compiler.train.sessions import training_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.runtime.samples import Array, Feeds
    from gpusq_compiler.train.job import TrainJob
    from gpusq_compiler.train.prepared import Prepared
    from gpusq_compiler.train.schedule import Schedule

LOSS = "loss"


class Machine:
    """Runs steps and looks at the loss.

    Args:
        job: Gives threads, device, and how gradients and averages are taken.
        prepared: Graphs and sessions; without parameters only `look` works.
        schedule: Of the learning rate; None leaves `update` out and its memory with it.
    """

    def __init__(
        self, job: TrainJob, prepared: Prepared, schedule: Schedule | None = None
    ) -> None:
        self._place = "cuda" if "CUDA" in providers(job.device)[0] else "cpu"
        self._series = {LOSS: prepared.loss.loss, **prepared.loss.series}
        self._values = self._started(prepared)
        self._averages = {} if job.averaging is None else self._started(prepared)
        self._gradients = {name: self._zeros(name) for name in self._values}
        moved = {} if schedule is None else self._values
        self._moments = [{name: self._zeros(name) for name in moved} for _ in range(2)]
        self._scalars = {
            series: _ort_value(np.zeros((), np.float32), "cpu") for series in self._series
        }
        self._forward = _Bound(prepared.forward)
        self._forward.inputs(self._averages or self._values)
        self._forward.outputs({self._series[s]: value for s, value in self._scalars.items()})
        if self._values:
            self._backward = self._bound_backward(prepared)
        if self._values and schedule is not None:
            self._optimizer = self._bound_optimizer(job, prepared, schedule)

    def gradient(self, feeds: Feeds) -> dict[str, float]:
        """Forward and backward on one batch; the value of every series."""
        self._backward.run(feeds)
        return self._read()

    def gradients(self) -> dict[str, Array]:
        """The gradients of the last batch; the next one overwrites them."""
        return {name: value.numpy() for name, value in self._gradients.items()}

    def update(self, step: int) -> None:
        """Move the parameters along the gradients of the last batch."""
        self._optimizer.run({STEP: np.array(step, dtype=np.int64)})

    def look(self, feeds: Feeds) -> dict[str, float]:
        """Every series on one batch with `values`; nothing moves."""
        self._forward.run(feeds)
        return self._read()

    def _read(self) -> dict[str, float]:
        return {series: float(value.numpy()) for series, value in self._scalars.items()}

    def values(self) -> dict[str, Array]:
        """A copy of the parameters, or of their averages where the job wants these."""
        kept = self._averages or self._values
        return {name: value.numpy().copy() for name, value in kept.items()}

    def state(self) -> dict[str, Array]:
        """Parameters, moments and averages, named for a checkpoint."""
        return {name: value.numpy() for name, value in self._parts().items()}

    def load(self, state: Mapping[str, Array]) -> None:
        """Take back what ``state`` gave."""
        for name, value in self._parts().items():
            value.update_inplace(np.ascontiguousarray(state[name]))

    def _parts(self) -> dict[str, Any]:
        parts = {
            "value": self._values,
            "first": self._moments[0],
            "second": self._moments[1],
            "average": self._averages,
        }
        return {
            f"{part}/{name}": value
            for part, values in parts.items()
            for name, value in values.items()
        }

    def _started(self, prepared: Prepared) -> dict[str, Any]:
        return {name: self._kept(p.value) for name, p in prepared.parameters.items()}

    def _bound_backward(self, prepared: Prepared) -> _Bound:
        bound = _Bound(prepared.backward)
        bound.inputs(self._values)
        bound.outputs({f"{name}_grad": value for name, value in self._gradients.items()})
        bound.outputs({self._series[s]: value for s, value in self._scalars.items()})
        return bound

    def _bound_optimizer(
        self, job: TrainJob, prepared: Prepared, schedule: Schedule
    ) -> _Bound:
        import onnxruntime

        model = optimizer_graph(
            list(prepared.parameters.values()),
            schedule,
            clip_norm=job.clip_norm,
            averaging=job.averaging,
        )
        session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            training_options(threads=job.threads),
            providers=providers(job.device),
        )
        bound = _Bound(session)
        for index, name in enumerate(self._values):
            value, gradient, first, second = names(index)
            moments = [part[name] for part in self._moments]
            kept = dict(
                zip((value, first, second), (self._values[name], *moments), strict=True)
            )
            if self._averages:
                kept[average_name(index)] = self._averages[name]
            bound.inputs({**kept, gradient: self._gradients[name]})
            bound.outputs({f"{key}.new": tensor for key, tensor in kept.items()})
        return bound

    def _zeros(self, name: str) -> Any:
        return self._kept(np.zeros(self._values[name].shape(), dtype=np.float32))

    def _kept(self, array: Array) -> Any:
        return _ort_value(np.array(array, dtype=np.float32, order="C"), self._place)


class _Bound:
    """A session with its lasting inputs and outputs bound once."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._open = {value.name for value in session.get_inputs()}
        self._run_options = None

    def inputs(self, values: Mapping[str, Any]) -> None:
        """Bind inputs that stay."""
        for name, value in values.items():
            if name in self._open:
                self._binding.bind_ortvalue_input(name, value)
        self._open -= set(values)

    def outputs(self, values: Mapping[str, Any]) -> None:
        """Bind outputs that are written in place."""
        for name, value in values.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, feeds: Feeds) -> None:
        """Run with these other inputs; what the graph does not want is ignored.

        Raises:
            TrainingError: The runtime fails.
        """
        for name in self._open & set(feeds):
            self._binding.bind_cpu_input(name, feeds[name])
        try:
            self._session.run_with_iobinding(self._binding)
        except flavour.refusals() as error:
            raise TrainingError(
                f"ONNX Runtime fails in a training step: {first_line(error)}",
                remedy="Check that all samples have the shapes that the model wants",
            ) from error


def _ort_value(array: Array, place: str) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(array, place)

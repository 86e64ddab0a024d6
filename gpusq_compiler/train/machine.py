"""The moving parts of training: parameters and moments that stay where they are.

Parameters, gradients and moments live in `OrtValue`s that the sessions read and write in
place, so that a step copies nothing but its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.session import providers, session_options
from gpusq_compiler.train.optimizer import STEP, names, optimizer_graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.runtime.samples import Array, Feeds
    from gpusq_compiler.train.job import TrainJob
    from gpusq_compiler.train.optimizer import Schedule
    from gpusq_compiler.train.prepared import Prepared

LOSS = "loss"


class Machine:
    """Runs steps and looks at the loss.

    Args:
        job: Gives threads and device.
        prepared: Graphs and sessions; without parameters only `loss` works.
        schedule: Of the learning rate.
        clip_norm: Bound of the gradients' common norm; None does not clip.
    """

    def __init__(
        self, job: TrainJob, prepared: Prepared, schedule: Schedule, clip_norm: float | None
    ) -> None:
        self._place = "cuda" if "CUDA" in providers(job.device)[0] else "cpu"
        self._series = {LOSS: prepared.loss.loss, **prepared.loss.series}
        self._values = {
            name: self._kept(parameter.value)
            for name, parameter in prepared.parameters.items()
        }
        self._gradients = {name: self._zeros(name) for name in self._values}
        self._moments = [{name: self._zeros(name) for name in self._values} for _ in range(2)]
        self._scalars = {
            series: _ort_value(np.zeros((), np.float32), "cpu") for series in self._series
        }
        self._forward = _Bound(prepared.forward)
        self._forward.inputs(self._values)
        self._forward.outputs({self._series[LOSS]: self._scalars[LOSS]})
        if self._values:
            self._backward = self._bound_backward(prepared)
            self._optimizer = self._bound_optimizer(job, prepared, schedule, clip_norm)

    def gradient(self, feeds: Feeds) -> dict[str, float]:
        """Forward and backward on one batch; the value of every series."""
        self._backward.run(feeds)
        return {series: float(value.numpy()) for series, value in self._scalars.items()}

    def update(self, step: int) -> None:
        """Move the parameters along the gradients of the last batch."""
        self._optimizer.run({STEP: np.array(step, dtype=np.int64)})

    def loss(self, feeds: Feeds) -> float:
        """The total loss of one batch, nothing moves."""
        self._forward.run(feeds)
        return float(self._scalars[LOSS].numpy())

    def values(self) -> dict[str, Array]:
        """A copy of the parameters."""
        return {name: value.numpy().copy() for name, value in self._values.items()}

    def state(self) -> dict[str, Array]:
        """Parameters and moments, named for a checkpoint."""
        parts = zip(("value", "first", "second"), self._parts(), strict=True)
        return {
            f"{part}/{name}": value.numpy()
            for part, values in parts
            for name, value in values.items()
        }

    def load(self, state: Mapping[str, Array]) -> None:
        """Take back what ``state`` gave."""
        for part, values in zip(("value", "first", "second"), self._parts(), strict=True):
            for name, value in values.items():
                value.update_inplace(np.ascontiguousarray(state[f"{part}/{name}"]))

    def _parts(self) -> tuple[dict[str, Any], ...]:
        return self._values, self._moments[0], self._moments[1]

    def _bound_backward(self, prepared: Prepared) -> _Bound:
        bound = _Bound(prepared.backward)
        bound.inputs(self._values)
        bound.outputs({f"{name}_grad": value for name, value in self._gradients.items()})
        bound.outputs({self._series[s]: value for s, value in self._scalars.items()})
        return bound

    def _bound_optimizer(
        self, job: TrainJob, prepared: Prepared, schedule: Schedule, clip: float | None
    ) -> _Bound:
        import onnxruntime

        model = optimizer_graph(list(prepared.parameters.values()), schedule, clip_norm=clip)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            session_options(threads=job.threads),
            providers=providers(job.device),
        )
        bound = _Bound(session)
        for index, name in enumerate(self._values):
            value, gradient, first, second = names(index)
            moments = [part[name] for part in self._moments]
            kept = dict(
                zip((value, first, second), (self._values[name], *moments), strict=True)
            )
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
            line = str(error).strip().splitlines()[0][:300]
            raise TrainingError(
                f"ONNX Runtime fails in a training step: {line}",
                remedy="Check that all samples have the shapes that the model wants",
            ) from error


def _ort_value(array: Array, place: str) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(array, place)

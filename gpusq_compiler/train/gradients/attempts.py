"""From a loss graph to a backward pass that works, with as few parameters frozen as it takes.

Where the runtime says which operator has no gradient, the parameters above it are frozen.
Where it only fails, or dies, halving finds how deep in the graph training can begin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.train.gradients import probe
from gpusq_compiler.train.gradients.gradient import (
    MissingGradient,
    gradient_graph,
    with_inputs,
)
from gpusq_compiler.train.gradients.reach import has_body
from gpusq_compiler.train.sessions import on_cpu, session_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from gpusq_compiler.runtime.samples import Array, Feeds
    from gpusq_compiler.train.gradients.lossgraph import LossModel
    from gpusq_compiler.train.gradients.reach import Reach
    from gpusq_compiler.train.job import TrainJob
    from gpusq_compiler.train.targets import Batches

UNREACHED = "no-gradient: it is on no path to the loss"
STOPS = frozenset({"GRU", "LSTM", "RNN"})
"""Operators of which the builder makes a graph that no kernel runs."""


class Attempts:
    """Tries to build and run the backward pass.

    Args:
        job: Gives device and threads.
        loss: What is differentiated.
        reach: Paths of its graph.
        values: Parameters at their start.
        batches: Gives the first batch, and sizes that hold for all.
    """

    def __init__(
        self,
        job: TrainJob,
        loss: LossModel,
        reach: Reach,
        values: Mapping[str, Array],
        batches: Batches,
    ) -> None:
        self._job = job
        self._loss = loss
        self._reach = reach
        self._values = values
        self._batches = batches
        self._feeds: Feeds = {}
        self._sizes = batches.sizes()
        self.sound = True
        reached = reach.above([loss.loss])
        self.frozen = {name: UNREACHED for name in values if name not in reached}
        self._freeze(_cannot_pass)

    def backward(self, *, probe: bool) -> Any:
        """The session of the gradient graph; None when nothing is left to train.

        Args:
            probe: Whether the first step runs in a process of its own first.
        """
        gradient, session = self._built()
        if not probe or session is None:
            return session
        self._feeds = {**self._batches.training(0), **self._values}
        if not self._dies(gradient):
            return session
        self._job.events.note(
            f"{self._job.label}: the first step fails; looking for its layer"
        )
        self._halve(lambda names: self._dies(self._gradient(names)))
        return self._built()[1]

    def _built(self) -> tuple[bytes, Any]:
        """Graph and session, after freezing what the builder refuses."""
        while names := self._names():
            try:
                gradient = self._gradient(names)
                return gradient, self._session(gradient)
            except MissingGradient as missing:
                if not self._freeze(_like(missing)):
                    raise
            except TrainingError:
                self._halve(self._refused)
        return b"", None

    def _names(self) -> list[str]:
        return [name for name in self._values if name not in self.frozen]

    def _gradient(self, names: Sequence[str]) -> bytes:
        model = with_inputs(self._loss.model, names)
        _fix_sizes(model, self._sizes)
        return gradient_graph(
            model,
            names,
            self._loss.loss,
            masks=self._job.masks,
            kernels=on_cpu(self._job.device),
        )

    def _session(self, gradient: bytes) -> Any:
        return session_of(gradient, self._job, as_written=on_cpu(self._job.device))

    def _freeze(self, stops: Callable[[onnx.NodeProto], bool]) -> bool:
        """Freeze the parameters above such nodes; say whether there were any."""
        blocked = self._reach.blocked(stops, self._loss.loss, self._names())
        self.frozen.update({name: f"no-gradient: {node}" for name, node in blocked.items()})
        return bool(blocked)

    def _halve(self, fails: Callable[[Sequence[str]], bool]) -> None:
        """Freeze as many of the first parameters as it takes for the others to work."""
        self.sound = False
        order = self._reach.by_depth(self._names())
        low, high = 0, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            if fails([name for name, _ in order[middle:]]):
                low = middle
            else:
                high = middle
        reason = f"no-gradient: the backward pass fails behind {order[high - 1][1]}"
        self.frozen.update({name: reason for name, _ in order[:high]})

    def _refused(self, names: Sequence[str]) -> bool:
        """Whether building fails in a way that names no operator."""
        try:
            self._session(self._gradient(names))
        except MissingGradient:
            return False
        except TrainingError:
            return True
        return False

    def _dies(self, gradient: bytes) -> bool:
        return probe.fails(gradient, self._feeds, self._job.workdir, self._job.device)


def _cannot_pass(node: onnx.NodeProto) -> bool:
    """Bodies of If, Loop and Scan, and what only looks differentiable."""
    return node.op_type in STOPS or has_body(node)


def _like(missing: MissingGradient) -> Callable[[onnx.NodeProto], bool]:
    return lambda node: node.op_type == missing.op_type


def _fix_sizes(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int | str]]) -> None:
    """What is the same in all batches: shape arithmetic is done once, not per step."""
    for value in model.graph.input:
        if value.name in sizes:
            dims = value.type.tensor_type.shape
            del dims.dim[:]
            for size in sizes[value.name]:
                named = {"dim_param": size} if isinstance(size, str) else {"dim_value": size}
                dims.dim.add(**named)

"""What is to be trained, by whom, and what comes back: the seam between passes and backends.

Passes build a `TrainJob` and apply a `TrainResult`; they never see ONNX Runtime. Backends
implement `Trainer`; they never see a pass or a report.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

from gpusq_compiler.components import Component
from gpusq_compiler.runtime.events import Events, Silent
from gpusq_compiler.train.quantizers import LearnedStep, Quantizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array, Feeds, Samples
    from gpusq_compiler.train.checkpoints import CheckpointStore

WEIGHT = "of this term among all"
"""What the option ``weight`` of every loss means."""


class GraphBuilder(Protocol):
    """Adds nodes to a training graph; tensors are known by name."""

    def node(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """Add a node of the default domain with one output and return the output's name."""
        ...

    def constant(self, value: float | Array) -> str:
        """Add a constant (a Python float becomes a float32 scalar) and return its name."""
        ...


class LossGraph(GraphBuilder, Protocol):
    """The training graph as a loss sees it."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's floating-point outputs."""
        ...

    @property
    def logits(self) -> tuple[str, ...]:
        """Names of the outputs ``[samples, classes]`` that are class scores."""
        ...

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the critical layers' tensors, in graph order."""
        ...

    @property
    def labels(self) -> str | None:
        """Name of the labels' tensor, None when there are none."""
        ...

    def parts(self, output: str) -> tuple[str, ...]:
        """The tensors that an output joins, where teacher and student agree on them.

        Otherwise the output itself.
        """
        ...

    def factor(self, name: str) -> float:
        """The weight w_i of a critical layer among all; 1 unless the job says otherwise."""
        ...

    def student(self, name: str) -> str:
        """The student's tensor of this name, in the training graph."""
        ...

    def teacher(self, name: str) -> str:
        """The teacher's tensor of this name; it is fed, no gradient flows into it."""
        ...

    def rank(self, name: str) -> int | None:
        """Number of dimensions of an output or feature, where it is known."""
        ...

    def positions(self, name: str) -> str | None:
        """Which positions of a tensor ``[batch, positions, width]`` hold something.

        A float tensor ``[batch, positions, 1]`` of ones and zeros; None where all do.
        """
        ...

    def record(self, series: str, scalar: str) -> None:
        """Also report this scalar at every step, under the name ``series``."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss(Component, abc.ABC):
    """One term of the training loss: ``weight * build(graph)`` is added to the total.

    A term that feeds the graph itself names its inputs in ``host_inputs`` and is asked for
    them at every step.

    Attributes:
        weight: Of this term among all.
    """

    kind: ClassVar[str] = "loss"
    needs_labels: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True
    weight: Annotated[float, WEIGHT] = 1.0

    @abc.abstractmethod
    def build(self, graph: LossGraph) -> str | None:
        """Add the term's nodes and return its scalar, or None where it does not apply."""

    @property
    def host_inputs(self) -> tuple[str, ...]:
        """Names of graph inputs that this term feeds itself."""
        return ()

    def feeds(self, step: int) -> Feeds:
        """Arrays for ``host_inputs`` at this step."""
        del step
        return {}

    def observe(self, step: int, outputs: Feeds) -> None:
        """See the recorded scalars after a step."""

    def state(self) -> Mapping[str, Array]:
        """What a checkpoint must hold for this term."""
        return {}

    def load(self, state: Mapping[str, Array]) -> None:
        """Take back what ``state`` gave."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Initializers that are trained alike.

    Attributes:
        names: Initializers of the student's main graph.
        learning_rate: Peak of the schedule. With ``relative`` it is a fraction of each
            element's starting magnitude, as scales need it.
        weight_decay: Decoupled decay of AdamW.
        relative: See ``learning_rate``; such values also stay positive.
        start: First step at which the group moves.
    """

    names: tuple[str, ...]
    learning_rate: float
    weight_decay: float = 0.0
    relative: bool = False
    start: int = 0


MUCH_WORSE = 1.5
"""Above that the rate is too large: runs that end well begin with up to 1.4 times the loss."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Everything a backend needs; nothing in it is modified.

    Attributes:
        student: Float or Q/DQ graph; weights are float.
        teacher: Same inputs; its outputs and features are the targets. None without one.
        terms: Terms of the loss.
        features: Tensors that the teacher and the student both have, compared by name.
        factors: How much a feature counts among all, by name; 1 where it is not named.
        groups: What is trained; all other initializers stay.
        masks: True where a weight may be non-zero, by initializer name.
        quantizer: How Q/DQ pairs are trained.
        steps: Optimisation steps.
        batch_size: Samples per step; a fixed batch dimension of the model wins.
        data: Training samples.
        held_out: Samples that choose the best iterate; never trained on.
        evaluate_every: Steps between two looks at ``held_out``; also the checkpoint interval.
        seed: Order of samples.
        clip_norm: Bound of the gradients' common norm; None does not clip.
        averaging: Decay per step, below 1, of an average of the parameters, which is then what
            is looked at and kept, while the parameters train on. None looks at themselves.
        gives_up: Whether to end at the first look if it `is_worse`.
        blockwise: Whether all that reads a feature which a term compares reads the teacher's,
            so that each block between two features learns alone; see `blocks`.
        label: Name of this job in progress and checkpoints.
    """

    student: ir.Model
    teacher: ir.Model | None
    terms: tuple[Loss, ...]
    groups: tuple[ParameterGroup, ...]
    data: Samples
    held_out: Samples
    steps: int
    batch_size: int
    workdir: Path
    features: tuple[str, ...] = ()
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    masks: Mapping[str, npt.NDArray[np.bool_]] = dataclasses.field(default_factory=dict)
    quantizer: Quantizer = LearnedStep()
    warmup: float = 0.05
    evaluate_every: int = 50
    seed: int = 0
    averaging: float | None = None
    clip_norm: float | None = None
    blockwise: bool = False
    gives_up: bool = False
    threads: int | None = None
    device: str = "cpu"
    label: str = "train"
    events: Events = Silent()
    checkpoints: CheckpointStore | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What training gave: the best iterate on the held-out samples, the start included.

    Attributes:
        values: Trained initializers (weights and scales) by name, in the student's shapes.
        best_step: Steps done when they were best; 0 is the starting point.
        series: Scalars per step: ``loss``, one per term, those that terms recorded.
        held_out: (step, total loss) of every look at the held-out samples.
        looks: The same scalars as ``series``, one per look.
        frozen: Parameters that could not be trained, with the reason.
    """

    values: Mapping[str, Array]
    best_step: int
    series: Mapping[str, Sequence[float]]
    held_out: Sequence[tuple[int, float]]
    looks: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    frozen: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_worse(self) -> bool:
        """Whether the first look found a loss far above that of the start."""
        return is_worse(self.held_out)


def is_worse(held_out: Sequence[tuple[int, float]]) -> bool:
    """Whether the first look found a loss `MUCH_WORSE` times that of the start or more."""
    return len(held_out) > 1 and not held_out[1][1] < MUCH_WORSE * held_out[0][1]


class Trainer(Protocol):
    """A training backend."""

    def fit(self, job: TrainJob) -> TrainResult:
        """Train and return the best iterate.

        Raises:
            TrainingError: A loss is not finite, or the backend failed.
            MissingRuntime: The backend is not installed.
        """
        ...

    def seconds_per_step(self, job: TrainJob, steps: int = 5) -> float:
        """Time a few steps of the job; nothing of them stays."""
        ...

    def squared_gradients(self, job: TrainJob, batches: int) -> dict[str, Array]:
        """How much the student's outputs depend on each parameter of the groups.

        Returns:
            float32 in each parameter's shape: the mean over batches of the squared gradient of
            the outputs' random projection. Parameters without a gradient are absent.

        Raises:
            TrainingError: Something is not finite, or the backend failed.
            MissingRuntime: The backend is not installed.
        """
        ...

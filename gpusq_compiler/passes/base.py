"""The pass contract: what a pass is, what it is given, what it answers.

A pass is a frozen dataclass whose fields are its options. It edits the model in place and says
what it changed and what it considered and left, with the reason.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

import numpy as np

from gpusq_compiler.errors import PreconditionError
from gpusq_compiler.runtime.events import Events, Silent

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    import onnx_ir as ir

    from gpusq_compiler.quant.histograms import Histogram
    from gpusq_compiler.runtime.samples import Samples
    from gpusq_compiler.train.checkpoints import CheckpointStore
    from gpusq_compiler.train.job import Trainer

Cell: TypeAlias = str | int | float | None
Rows: TypeAlias = Sequence[Mapping[str, Cell]]
AnyModel = TypeVar("AnyModel", "ir.Model", "onnx.ModelProto")


class Fact(enum.Enum):
    """Something that is true of a model and can be verified on it.

    Attributes:
        CANONICAL: No functions, no Constant nodes, every node has a name of its own.
        SPARSE: Every tensor with a sparsity claim obeys it, in float and in integer codes.
        QDQ: Our quantizers are symmetric, with constant positive scales.
        FROZEN: Quantized weights are stored as integer codes.
        PACKED: Sparse codes are stored without their zeros, and unpack to what they claim.
        TRT_LEGAL: TensorRT refuses nothing.
    """

    CANONICAL = "canonical"
    SPARSE = "sparse"
    QDQ = "qdq"
    FROZEN = "frozen"
    PACKED = "packed"
    TRT_LEGAL = "trt-legal"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a person should know about one place in the model.

    Attributes:
        rule: Short name of the rule, ``k-not-multiple-of-4``.
        where: Node or tensor.
        reason: One sentence with the number in it.
    """

    rule: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassResult:
    """What a pass did.

    Attributes:
        changed: Names of nodes and tensors, in graph order.
        skipped: What was considered and left, with the reason.
        metrics: Figures of the whole pass.
        tables: Figures per layer.
        series: Figures per step.
        histograms: Of tensors that were looked at, by name.
    """

    changed: tuple[str, ...] = ()
    skipped: tuple[Finding, ...] = ()
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, Rows] = dataclasses.field(default_factory=dict)
    series: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    histograms: Mapping[str, Histogram] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """Services that a pass may use; it never changes them.

    Attributes:
        workdir: The only folder that a pass may write to.
        seed: Root of all randomness, through `rng`.
        threads: Threads of the runtime; None lets it choose.
        device: ``cpu``, ``cuda`` or ``auto``.
        target: ``onnxruntime`` or ``tensorrt``.
        teacher: The model before its first lossy pass; set by the pipeline where absent.
        data: Samples for calibration and training.
        held_out: Samples that choose between iterates; in no way trained on.
        synthesised: Whether ``data`` were made up, because the user gave none.
        trainer: The training backend.
        events: Receives progress.
        checkpoints: Where training keeps its checkpoints.
        budget: Seconds that one training pass may take; None for no limit.
    """

    workdir: Path
    seed: int = 0
    threads: int | None = None
    device: str = "cpu"
    target: str = "onnxruntime"
    teacher: ir.Model | None = None
    data: Samples | None = None
    held_out: Samples | None = None
    synthesised: bool = False
    trainer: Trainer | None = None
    events: Events = Silent()
    checkpoints: CheckpointStore | None = None
    budget: float | None = None

    def rng(self, label: str) -> np.random.Generator:
        """Randomness that depends on the seed and the label alone."""
        return np.random.default_rng([self.seed, *label.encode()])

    def samples(self, needed_by: str) -> Samples:
        """The data, or the error that tells how to give some.

        Raises:
            PreconditionError: There is no data.
        """
        if self.data is None:
            raise PreconditionError(
                "needs samples of the model's inputs",
                where=needed_by,
                remedy="Give them with --data, data= in Python, or a Context of open_context",
            )
        return self.data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass(abc.ABC):
    """Base of every pass: a frozen dataclass whose fields are its options.

    A pass of your own sets ``name``, adds fields and defines ``rewrite``. Called with a model,
    ``Prune()(model)``, it runs alone; in a `Pipeline` it runs with others.

    Class attributes:
        name: As recipes say it.
        needs: Facts that must hold before.
        refuses: Facts that must not hold before.
        gives: Facts that hold after; the pipeline verifies them.
        breaks: Facts that are no longer claimed after.
        idempotent: Whether a second run changes nothing.
        lossy: Whether outputs may change beyond rounding.
        trains: Whether it is a `training.TrainingPass`.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Fact]] = frozenset()
    refuses: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    breaks: ClassVar[frozenset[Fact]] = frozenset()
    idempotent: ClassVar[bool] = True
    lossy: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    def resolve(self, model: ir.Model, ctx: Context) -> Pass:
        """Fill in options that depend on model and data; the report holds the outcome."""
        del model, ctx
        return self

    def asks_model(self, ctx: Context) -> bool:
        """Whether `resolve` looks at the model, so that a plan has to make it canonical."""
        del ctx
        return type(self).resolve is not Pass.resolve

    def wants_samples(self) -> bool:
        """Whether it looks at samples; where none are given, they are made up for those."""
        return True

    def precheck(self, model: ir.Model, ctx: Context) -> None:  # noqa: B027
        """Raise `PreconditionError` where the pass cannot run."""

    @abc.abstractmethod
    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Edit the model in place.

        Args:
            model: Weights are replaced, never written to.
            ctx: Samples, randomness, the teacher and the trainer.

        Returns:
            What was changed, and what was left and why.
        """

    def postcheck(  # noqa: B027
        self, model: ir.Model, ctx: Context, result: PassResult
    ) -> None:
        """Raise `PostconditionError` where the pass did not keep its promise."""

    def __call__(self, model: AnyModel, ctx: Context | None = None) -> AnyModel:
        """Run this pass alone, with all checks, on a copy; return the same kind of object.

        Args:
            model: An ``onnx.ModelProto`` or an ``onnx_ir.Model``; it stays as it is.
            ctx: Samples and all else that the pass may need; by default there are none.

        Returns:
            The new model, of the kind that was given.

        Raises:
            PreconditionError: The model lacks a fact, or the context what the pass needs.
        """
        from gpusq_compiler.passes.pipeline import run_alone

        return run_alone(self, model, ctx)

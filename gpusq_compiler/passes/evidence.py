"""What a pruning score is told about each layer: nothing, its inputs, or its gradients."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.calibration.matrices import weight_matrices
from gpusq_compiler.calibration.moments import second_moments
from gpusq_compiler.calibration.padding import by_length
from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.calibration.walk import Walk
from gpusq_compiler.errors import PreconditionError
from gpusq_compiler.passes.base import Finding
from gpusq_compiler.sparsity.scores import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir

    from gpusq_compiler.calibration.matrices import Matrices
    from gpusq_compiler.ir.query import WeightUse
    from gpusq_compiler.passes.base import Context
    from gpusq_compiler.runtime.samples import Samples
    from gpusq_compiler.train.job import TrainJob

LONGEST = 8192
"""Columns of a layer whose inputs' second moments are still kept: a quarter gigabyte."""
BATCH_SIZE = 16
GRADIENT_BATCHES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gathering:
    """Where evidence comes from.

    Attributes:
        model: Its weights may change between layers; later layers see that.
        ctx: Gives data, trainer, threads and randomness.
        samples: Samples that are looked at, at most.
        author: The pass, for errors and randomness.
    """

    model: ir.Model
    ctx: Context
    samples: int
    author: str

    def evidence(
        self, layers: Sequence[WeightUse], kind: Evidence
    ) -> Iterator[tuple[WeightUse, Matrices | None]]:
        """Every layer with what is known of it as [groups, ...]; None where nothing is."""
        if kind is Evidence.NOTHING:
            yield from ((use, None) for use in layers)
        elif kind is Evidence.INPUTS:
            yield from self._inputs(layers)
        else:
            yield from self._gradients(layers)

    def obstacles(self, layers: Sequence[WeightUse], kind: Evidence) -> Iterator[Finding]:
        """The layers that are pruned by magnitude although their score wants more, and why."""
        for use in layers if kind is not Evidence.NOTHING else ():
            reason = self._obstacle(use)
            if reason is not None:
                where = use.node.name or ""
                yield Finding(
                    rule="by-magnitude", where=where, reason=f"pruned by magnitude: {reason}"
                )

    def _obstacle(self, use: WeightUse) -> str | None:
        if use.node.graph is not self.model.graph:
            return "a body of If or Loop is not looked into"
        if use.reduction_length > LONGEST:
            return f"its {use.reduction_length} inputs are too many"
        value = use.activation
        if value is None or (value.producer() is None and not value.is_graph_input()):
            return "it multiplies two constants"
        return None

    def _inputs(
        self, layers: Sequence[WeightUse]
    ) -> Iterator[tuple[WeightUse, Matrices | None]]:
        sharing: dict[ir.Value, list[WeightUse]] = {}
        for use in layers:
            if self._obstacle(use) is None and use.activation is not None:
                sharing.setdefault(use.activation, []).append(use)
            else:
                yield use, None
        rng = self.ctx.rng(self.author)
        walk = Walk(
            self.model,
            list(sharing),
            by_length(self._samples(rng)),
            batch_size=BATCH_SIZE,
            threads=self.ctx.threads,
            device=self.ctx.device,
        )
        self.ctx.events.begin(self.author, len(layers))
        done = 0
        for value, readers in sharing.items():
            batches = walk.stop(value)
            known: dict[str, Matrices] = {}
            for use in readers:
                form = _form(use)
                if form not in known:
                    known[form] = second_moments(use, batches, rng)
                yield use, known[form]
                done += 1
                self.ctx.events.advance(done)
        self.ctx.events.end()

    def _gradients(
        self, layers: Sequence[WeightUse]
    ) -> Iterator[tuple[WeightUse, Matrices | None]]:
        trainer = self.ctx.trainer
        if trainer is None:
            raise PreconditionError(
                "there is no training backend to take gradients",
                where=self.author,
                remedy="Choose another score",
            )
        names = tuple(
            dict.fromkeys(u.value.name or "" for u in layers if self._obstacle(u) is None)
        )
        squares = trainer.squared_gradients(self._job(names), GRADIENT_BATCHES)
        for use in layers:
            found = squares.get(use.value.name or "")
            yield use, None if found is None else weight_matrices(use, found)

    def _samples(self, rng: np.random.Generator) -> Samples:
        data = self.ctx.samples(self.author)
        return Subset(data, np.sort(rng.permutation(data.count)[: self.samples]))

    def _job(self, names: tuple[str, ...]) -> TrainJob:
        from gpusq_compiler.train.job import ParameterGroup, TrainJob

        data = self._samples(self.ctx.rng(self.author))
        return TrainJob(
            student=self.model,
            teacher=None,
            terms=(),
            groups=(ParameterGroup(names=names, learning_rate=0.0),),
            data=data,
            held_out=self.ctx.held_out or data,
            steps=GRADIENT_BATCHES,
            batch_size=BATCH_SIZE,
            workdir=self.ctx.workdir,
            seed=int(self.ctx.rng(self.author).integers(2**31)),
            threads=self.ctx.threads,
            device=self.ctx.device,
            label=self.author,
            events=self.ctx.events,
        )


def _form(use: WeightUse) -> str:
    """Equal for layers that read one tensor in the same way."""
    if use.node.op_type not in {"Conv", "ConvTranspose"}:
        return f"{use.operand} {use.node.op_type}"
    attributes = sorted(str(attribute) for attribute in use.node.attributes.values())
    return f"{use.node.op_type} {use.shape[2:]} {attributes}"

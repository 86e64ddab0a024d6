"""What all training passes share: from options and claims to a job, and back."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from gpusq_compiler.calibration import collect
from gpusq_compiler.calibration.batches import MIN_TRAINING_SAMPLES
from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.errors import OptionError, PostconditionError, PreconditionError
from gpusq_compiler.ir import claims, edit, outputs, query
from gpusq_compiler.passes import stages, trained
from gpusq_compiler.passes.base import Pass, PassResult
from gpusq_compiler.passes.options import near
from gpusq_compiler.runtime.samples import has_class_ids
from gpusq_compiler.sparsity.nm import NM, mask_from_zeros
from gpusq_compiler.train.budget import (
    LOOKS,
    default_batch_size,
    default_learning_rate,
    default_steps,
    samples_per_look,
    steps_within,
)
from gpusq_compiler.train.job import Loss, ParameterGroup, Trainer, TrainJob
from gpusq_compiler.train.losses import FeatureError, HardLabel, OutputError, SoftLogits
from gpusq_compiler.train.quantizers import LearnedStep

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from gpusq_compiler.passes.base import Context
    from gpusq_compiler.runtime.samples import Samples
    from gpusq_compiler.train.quantizers import Quantizer

MIXED = (HardLabel(), SoftLogits(), OutputError(), FeatureError())
WITH_LOGITS, WITHOUT_LOGITS = 0.25, 0.5
"""Block-wise shares: class scores follow from all blocks together. Measured on a character
model, which lost by the larger share, and a sentence encoder, which lost by the smaller."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPass(Pass, abc.ABC):
    """Fine-tunes a student against the untouched dense model."""

    trains: ClassVar[bool] = True
    rates: ClassVar[tuple[str, ...]] = ("learning_rate", "weight_decay", "warmup")

    steps: Annotated[int | None, "optimisation steps; none: from model and data"] = None
    batch_size: Annotated[int | None, "samples per step; none: from data and model"] = None
    learning_rate: Annotated[float | None, "peak; none: from the weights' size"] = None
    weight_decay: Annotated[float, "decoupled decay of AdamW"] = 0.0
    warmup: Annotated[float, "share of the steps with a rising learning rate"] = 0.05
    losses: Annotated[tuple[Loss, ...], "terms of the training loss"] = MIXED
    temperature: Annotated[float | None, "of every loss that has one; none: its own"] = None
    features: Annotated[tuple[str, ...], "tensors to imitate; empty: found"] = ()
    blockwise: Annotated[float | None, "share of block-wise steps; none: from outputs"] = None
    averaging: Annotated[float | None, "decay of the weights' moving average"] = None
    clip_norm: Annotated[float | None, "bound of the gradients' common norm"] = None
    evaluate_every: Annotated[int | None, "steps between looks at held-out data"] = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        for name in ("steps", "batch_size", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(
                    f"{value} is too small",
                    where=f"{self.name}.{name}",
                    remedy="Give at least 1, or leave the pass out",
                )
        for name in self.rates:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise _not_positive(value, f"{self.name}.{name}")
        for name in ("temperature", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise _not_positive(value, f"{self.name}.{name}")
        for name in ("blockwise", "averaging"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise OptionError(
                    f"{value} is no share",
                    where=f"{self.name}.{name}",
                    remedy="Give a number from 0 to below 1",
                )
        if not self.losses:
            raise OptionError(
                "there is nothing to minimise",
                where=f"{self.name}.losses",
                remedy="Name at least one loss",
            )

    def resolve(self, model: ir.Model, ctx: Context) -> TrainingPass:
        """Choose steps and batch size where the user did not; measured under a budget."""
        chosen = self._sized(model, ctx)
        if self.steps is None and ctx.budget is not None:
            chosen = chosen._within_budget(model, ctx)
        if self.learning_rate is None:
            bold = stages.boldness_of(model, chosen.steps or 0)
            rate = default_learning_rate(query.magnitude(model), bold)
            chosen = dataclasses.replace(chosen, learning_rate=float(f"{rate:.3g}"))
        every = self.evaluate_every or max(1, (chosen.steps or 0) // LOOKS)
        share = self.blockwise
        if share is None:
            share = WITH_LOGITS if _has_logits(model) else WITHOUT_LOGITS
        return dataclasses.replace(chosen, evaluate_every=every, blockwise=share)

    def as_used(self, ctx: Context) -> TrainingPass:
        """With the losses that the samples allow: some need a class id for each.

        Raises:
            OptionError: No loss is left.
        """
        if has_class_ids(self._data(ctx)):
            return self
        allowed = tuple(term for term in self.losses if not term.needs_labels)
        if not allowed:
            raise OptionError(
                f"{', '.join(term.name for term in self.losses)} needs labels, and there are "
                "none that are class ids",
                where=f"{self.name}.losses",
                remedy="Give such labels with --data, or name another loss",
            )
        return dataclasses.replace(self, losses=allowed)

    def _sized(self, model: ir.Model, ctx: Context) -> TrainingPass:
        """Steps and batch size for this model and these samples."""
        if self.steps is not None and self.batch_size is not None:
            return self
        data = self._data(ctx)
        cost = collect.operations(model, data, threads=ctx.threads, device=ctx.device)
        batch = self.batch_size or default_batch_size(data.count, cost)
        sizes = [v.const_value.size for v in query.trainable_values(model) if v.const_value]
        steps = self.steps
        if steps is None:
            steps = default_steps(sum(sizes), cost, data.count, batch)
        return dataclasses.replace(self, steps=steps, batch_size=batch)

    def _within_budget(self, model: ir.Model, ctx: Context) -> TrainingPass:
        """Time five steps once; a resumed run takes the count that was stored."""
        key = f"{self.name}-budget"
        stored = ctx.checkpoints.load(key) if ctx.checkpoints is not None else None
        if stored is not None:
            return dataclasses.replace(self, steps=int(str(stored[1]["steps"])))
        assert ctx.budget is not None
        seconds = self._trainer(ctx).seconds_per_step(self.job(model, ctx))
        steps = steps_within(ctx.budget, seconds)
        ctx.events.note(f"{self.name}: {seconds:.3f} s a step, {steps} steps in the budget")
        if ctx.checkpoints is not None:
            ctx.checkpoints.save(key, {}, {"steps": steps})
        return dataclasses.replace(self, steps=steps)

    def precheck(self, model: ir.Model, ctx: Context) -> None:
        """There must be enough samples, a trainer and something to train."""
        self._trainer(ctx)
        total = self._data(ctx).count + (ctx.held_out.count if ctx.held_out else 0)
        if total < MIN_TRAINING_SAMPLES:
            raise PreconditionError(
                f"{total} samples are too few to train on and hold some out",
                where=self.name,
                remedy=f"Give at least {MIN_TRAINING_SAMPLES} with --data",
            )
        if not query.trainable_values(model):
            raise PreconditionError(
                "no operator of the model has float weights that can be trained",
                where=self.name,
                remedy="Leave the pass out",
            )

    def rewrite(self, model: ir.Model, ctx: Context) -> PassResult:
        """Train and write the best iterate back, masks applied."""
        job = self.job(model, ctx)
        result = stages.fit(job, self._trainer(ctx), self.blockwise or 0.0)
        trained.require(job, result)
        changed = trained.write_back(model, job, result)
        held_out = dict(result.held_out)
        return PassResult(
            changed=changed,
            skipped=tuple(trained.findings(job, result)),
            metrics={
                "steps": job.steps,
                "best_step": result.best_step,
                "loss_at_start": held_out.get(0, math.nan),
                "loss_at_best": held_out.get(result.best_step, math.nan),
            },
            series={**result.series, "held_out": [loss for _, loss in result.held_out]},
            tables={
                "features": trained.feature_rows(job, result),
                "looks": trained.look_rows(result),
            },
        )

    def postcheck(self, model: ir.Model, ctx: Context, result: PassResult) -> None:
        """The loss was finite, and so is every weight."""
        del ctx
        loss = result.metrics["loss_at_best"]
        if not math.isfinite(loss):
            raise PostconditionError(f"the loss is {loss}", where=self.name)
        for value in query.trainable_values(model):
            assert value.const_value is not None
            if not np.all(np.isfinite(value.const_value.numpy())):
                raise PostconditionError("holds NaN or infinity", where=str(value.name))

    def job(self, model: ir.Model, ctx: Context) -> TrainJob:
        """What is to be trained."""
        data = self._data(ctx)
        assert self.steps is not None
        assert self.batch_size is not None
        return TrainJob(
            student=model,
            teacher=ctx.teacher,
            terms=self._terms(),
            groups=self.groups(model),
            masks=masks_of(model),
            features=self._features(model, ctx.teacher),
            factors=self.factors(model),
            data=data,
            held_out=self._held_out(ctx),
            steps=self.steps,
            batch_size=self.batch_size,
            warmup=self.warmup,
            averaging=self.averaging,
            clip_norm=self.clip_norm,
            evaluate_every=self.evaluate_every or 1,
            workdir=ctx.workdir,
            seed=int(ctx.rng(self.name).integers(2**31)),
            threads=ctx.threads,
            device=ctx.device,
            label=self.name,
            events=ctx.events,
            checkpoints=ctx.checkpoints,
            quantizer=self._quantizer(),
        )

    def factors(self, model: ir.Model) -> Mapping[str, float]:
        """How much each critical layer counts, by name; 1 where it is not named."""
        del model
        return {}

    def _quantizer(self) -> Quantizer:
        return LearnedStep()

    def groups(self, model: ir.Model) -> tuple[ParameterGroup, ...]:
        """Weights and biases of the student."""
        names = tuple(value.name or "" for value in query.trainable_values(model))
        return (
            ParameterGroup(
                names=names,
                learning_rate=self.learning_rate or 0.0,
                weight_decay=self.weight_decay,
            ),
        )

    def _terms(self) -> tuple[Loss, ...]:
        if self.temperature is None:
            return self.losses
        fields = {"temperature": self.temperature}
        return tuple(
            dataclasses.replace(term, **fields) if hasattr(term, "temperature") else term
            for term in self.losses
        )

    def _features(self, student: ir.Model, teacher: ir.Model | None) -> tuple[str, ...]:
        if teacher is None:
            return ()
        known = teacher.clone()
        edit.infer_shapes(known)
        ours, theirs = _shapes(student), _shapes(known)
        common = [name for name in ours if theirs.get(name) == ours[name]]
        for name in self.features:
            if name not in common:
                raise OptionError(
                    f"teacher and student have no common tensor '{name}'",
                    where=f"{self.name}.features",
                    remedy=near(name, common),
                )
        if self.features:
            return self.features
        found = [value.name or "" for value in query.critical_values(student)]
        return tuple(name for name in found if name in common)

    def _held_out(self, ctx: Context) -> Samples:
        """So many held-out samples that looks at them cost a fraction of the training."""
        samples = ctx.held_out or self._data(ctx)
        assert self.steps is not None
        assert self.batch_size is not None
        most = samples_per_look(self.steps, self.batch_size, self.evaluate_every or 1)
        return samples if samples.count <= most else Subset(samples, np.arange(most))

    def _data(self, ctx: Context) -> Samples:
        return ctx.samples(self.name)

    def _trainer(self, ctx: Context) -> Trainer:
        if ctx.trainer is None:
            raise PreconditionError(
                "there is no training backend",
                where=self.name,
                remedy="Give Context(trainer=)",
            )
        return ctx.trainer


def _not_positive(value: float, where: str) -> OptionError:
    return OptionError(f"{value} is no positive number", where=where, remedy="Give one")


def masks_of(model: ir.Model) -> dict[str, npt.NDArray[np.bool_]]:
    """The mask of every tensor that claims a pattern, derived from its zeros."""
    masks = {}
    for value, claim in claims.sparse_values(model):
        assert value.const_value is not None
        pattern = NM.parse(claim.pattern)
        weight = value.const_value.numpy()
        masks[value.name or ""] = mask_from_zeros(weight, pattern, axis=claim.axis)
    return masks


def _has_logits(model: ir.Model) -> bool:
    """Whether an output is class scores, as far as the file says."""
    embeddings = outputs.embeddings(model)
    flat = (value for value in model.graph.outputs if len(value.shape or ()) == 2)
    return any(value.name not in embeddings for value in flat)


def _shapes(model: ir.Model) -> dict[str, str]:
    return {
        value.name or "": str(value.shape) for node in model.graph for value in node.outputs
    }

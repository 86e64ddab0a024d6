"""The passes that would run: with the options that would take effect, and for how long."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.calibration import collect
from gpusq_compiler.passes import options
from gpusq_compiler.train.budget import seconds_per_step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from gpusq_compiler.passes.base import Context, Pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One pass as it would run.

    Attributes:
        name: The pass.
        options: Those that would take effect, as a recipe has them.
        steps: Of training; None where the pass does not train, or a budget decides.
        minutes: That training takes on two quiet cores, roughly, or the budget allows.
        bounded: Whether the minutes are a budget.
    """

    name: str
    options: Mapping[str, object]
    steps: int | None = None
    minutes: float | None = None
    bounded: bool = False

    def as_json(self) -> dict[str, object]:
        """Plain values, with the pass called as in a report."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"pass": fields.pop("name"), **fields}

    def __str__(self) -> str:
        given = ((name, value) for name, value in self.options.items() if value != [])
        shown = [f"{name}={_short(value)}" for name, value in given]
        if self.bounded:
            shown.append(f"steps=those of {self.minutes:.1f} min")
        elif self.minutes is not None:
            shown.append(f"about {self.minutes:.1f} min")
        return f"{self.name:14} {', '.join(shown)}".rstrip()


def steps_of(passes: Sequence[Pass], canonical: ir.Model, ctx: Context) -> tuple[Step, ...]:
    """Every pass, in order; what a time budget allows is not known before it is timed.

    Args:
        passes: Of a plan.
        canonical: The model, in canonical form where a pass asks for it.
        ctx: Samples and target.

    Raises:
        OptionError: A pass refuses its options for this model.
        ModelError: A pass trains, and the runtime does not take the model.
    """
    cost = 0
    if ctx.data is not None and any(step.trains for step in passes):
        cost = collect.operations(canonical, ctx.data, threads=ctx.threads, device=ctx.device)
    return tuple(step_of(step, canonical, ctx, cost) for step in passes)


def step_of(asked: Pass, canonical: ir.Model, ctx: Context, cost: int) -> Step:
    """One pass; ``cost`` are the multiply-adds of a sample."""
    step = asked.resolve(canonical, dataclasses.replace(ctx, budget=None))
    if not asked.trains:
        return Step(name=step.name, options=options.dump(step))
    from gpusq_compiler.passes.training import TrainingPass

    assert isinstance(asked, TrainingPass)
    assert isinstance(step, TrainingPass)
    values = options.dump(step.as_used(ctx))
    if ctx.budget is not None and asked.steps is None:
        del values["steps"]
        if asked.evaluate_every is None:
            del values["evaluate_every"]
        minutes = ctx.budget / 60
        return Step(name=step.name, options=values, minutes=minutes, bounded=True)
    assert step.steps is not None
    assert step.batch_size is not None
    minutes = step.steps * seconds_per_step(cost, step.batch_size) / 60
    return Step(name=step.name, options=values, steps=step.steps, minutes=minutes)


def _short(value: object) -> str:
    if isinstance(value, dict):
        return str(value["use"])
    return "+".join(map(_short, value)) if isinstance(value, list) else str(value)

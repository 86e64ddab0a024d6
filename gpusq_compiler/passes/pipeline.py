"""Running passes in order, verifying after each what it promised."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import onnx_ir as ir

from gpusq_compiler.errors import GpusqError, ModelError, OptionError, PassBug
from gpusq_compiler.ir import io, packed
from gpusq_compiler.ir.changes import Changes, Snapshot
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.base import AnyModel, Context, Fact, Pass, PassResult
from gpusq_compiler.runtime import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassReport:
    """One pass as it ran.

    Attributes:
        ran: With the options that took effect.
        result: What it did.
        changes: What is different now.
        seconds: How long it took, checks included.
        peak_memory: The most bytes that the process had held when the pass was over; None
            where the system keeps no count.
    """

    ran: Pass
    result: PassResult
    changes: Changes
    seconds: float
    peak_memory: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Passes in the order in which they run, each checked against what it promises.

    Attributes:
        passes: From the first to the last.
    """

    passes: tuple[Pass, ...]

    def check_order(self, holding: frozenset[Fact] = frozenset()) -> None:
        """Refuse, before anything runs, an order in which a pass misses what it needs.

        Raises:
            OptionError: Names the pass and what has to come before it.
        """
        facts_then = set(holding)
        for position, step in enumerate(self.passes):
            missing = step.needs - facts_then
            if missing:
                givers = [p.name for p in self.passes[position:] if p.gives & missing]
                lacking = ", ".join(sorted(fact.value for fact in missing))
                remedy = (
                    f"Put {givers[0]} before {step.name}"
                    if givers
                    else f"Add a pass that gives it before {step.name}"
                )
                raise OptionError(
                    f"needs a model that is {lacking}, which nothing before it makes",
                    where=f"pass '{step.name}'",
                    remedy=remedy,
                )
            if step.refuses & facts_then:
                present = ", ".join(sorted(f.value for f in step.refuses & facts_then))
                makers = [p.name for p in self.passes[:position] if p.gives & step.refuses]
                raise OptionError(
                    f"cannot run on a model that is already {present}",
                    where=f"pass '{step.name}'",
                    remedy=f"Put {step.name} before {makers[-1]}"
                    if makers
                    else "Give the model as it was before it was compiled",
                )
            facts_then = (facts_then | step.gives) - step.breaks

    def run(
        self,
        model: ir.Model,
        ctx: Context,
        *,
        on_step: Callable[[PassReport, ir.Model], None] | None = None,
    ) -> tuple[PassReport, ...]:
        """Run all passes on the model, in place.

        Args:
            model: Edited.
            ctx: Its teacher, where absent, becomes the model before the first lossy pass.
            on_step: Called after every pass with its report and the model.

        Raises:
            GpusqError: Any error of a pass; its message says which passes had run.
        """
        broken = facts.broken_claims(model)
        if broken:
            raise ModelError(
                f"the model claims what its values do not keep: {broken[0].reason}",
                where=broken[0].where,
                remedy="Compile the dense model again",
            )
        holding = facts.present(model)
        self.check_order(holding)
        reports: list[PassReport] = []
        for number, step in enumerate(self.passes, start=1):
            if ctx.teacher is None and step.lossy:
                ctx = dataclasses.replace(ctx, teacher=model.clone())
            ctx.events.enter(step.name, number, len(self.passes))
            with _naming(reports):
                report = _run_one(step, model, ctx, holding)
            ctx.events.leave(
                step.name,
                changed=len(report.result.changed),
                left_alone=len(report.result.skipped),
                seconds=report.seconds,
            )
            holding = (holding | step.gives) - step.breaks
            reports.append(report)
            if on_step is not None:
                on_step(report, model)
        return tuple(reports)


def each(
    *watchers: Callable[[PassReport, ir.Model], None] | None,
) -> Callable[[PassReport, ir.Model], None]:
    """Several watchers as one; those that are None do not count."""

    def on_step(report: PassReport, model: ir.Model) -> None:
        for watcher in watchers:
            if watcher is not None:
                watcher(report, model)

    return on_step


def _run_one(
    asked: Pass, model: ir.Model, ctx: Context, holding: frozenset[Fact]
) -> PassReport:
    started = time.monotonic()
    step = asked.resolve(model, ctx)
    step.precheck(model, ctx)
    before = Snapshot(model)
    result = step.rewrite(model, ctx)
    step.postcheck(model, ctx, result)
    changes = before.until(Snapshot(model))
    if changes:
        io.check(model, author=step.name)
    for fact in sorted((holding | step.gives) - step.breaks, key=lambda f: f.value):
        broken = facts.verify(model, fact) if changes else ()
        if broken:
            raise PassBug(
                f"{fact.value} no longer holds: {broken[0]}",
                where=f"pass '{step.name}'",
                remedy="This is a bug of the pass: nothing was written",
            )
    seconds = time.monotonic() - started
    logger.info("%s: %d changed, %.1f s", step.name, len(result.changed), seconds)
    return PassReport(
        ran=step, result=result, changes=changes, seconds=seconds, peak_memory=memory.peak()
    )


@contextlib.contextmanager
def _naming(reports: Sequence[PassReport]) -> Iterator[None]:
    """Add to an error which passes had run before it."""
    try:
        yield
    except GpusqError as error:
        if reports:
            names = ", ".join(report.ran.name for report in reports)
            error.what = f"{error.what.rstrip('.')} (after {names})"
        raise


@contextlib.contextmanager
def standing_alone() -> Iterator[Context]:
    """A context without services, whose working folder lasts as long as the block."""
    with tempfile.TemporaryDirectory(prefix="gpusq-") as folder:
        yield Context(workdir=Path(folder))


def run_alone(step: Pass, model: AnyModel, ctx: Context | None) -> AnyModel:
    """Run one pass on a copy, unpacked, of an ``ir.Model`` or a ``ModelProto``."""
    with contextlib.ExitStack() as stack:
        copy = model.clone() if isinstance(model, ir.Model) else ir.from_proto(model)
        packed.unpack(copy)
        services = ctx or stack.enter_context(standing_alone())
        Pipeline(passes=(step,)).run(copy, services)
        answer: Any = copy if isinstance(model, ir.Model) else ir.to_proto(copy)
        return cast("AnyModel", answer)

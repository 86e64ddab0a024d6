"""How training went: losses over steps, held-out samples, the best iterate."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.page import figures
from gpusq_compiler.page.blocks import (
    code,
    definitions,
    figure,
    folded,
    prose,
    section,
    split,
    swatch,
    table,
)
from gpusq_compiler.page.charts import Curve, Mark, curves, thinned
from gpusq_compiler.page.elements import tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.page.charts import Points
    from gpusq_compiler.page.elements import Content, Element
    from gpusq_compiler.page.reading import Part

BLOCKS, LOSS, HELD_OUT = "blocks/", "loss", "held_out"
SETTINGS = (
    ("batch size", "batch_size"),
    ("learning rate", "learning_rate"),
    ("weight decay", "weight_decay"),
    ("block by block", "blockwise"),
)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One training pass of the report."""

    step: Part

    @property
    def series(self) -> Part:
        return self.step.part("series")

    @property
    def alone(self) -> int:
        """Steps that were done block by block."""
        return len(self.series.numbers(BLOCKS + LOSS))

    @property
    def terms(self) -> list[str]:
        """Terms of the loss, as far as they were recorded by step."""
        names = [name for name in self.series.values if "/" not in name]
        return [name for name in names if name not in {LOSS, HELD_OUT}]

    def stages(self, name: str) -> list[Points]:
        """A series over steps: block by block, then together."""
        starts = ((BLOCKS + name, 0), (name, self.alone))
        found = (_points(self.series.numbers(key), start) for key, start in starts)
        return [thinned(points) for points in found if points]

    def looks(self, column: str) -> Points:
        """A series at every look at the held-out samples."""
        rows = self.step.part("tables").parts("looks")
        pairs = ((row.number("step"), row.number(column)) for row in rows)
        return [(x, y) for x, y in pairs if x is not None and y is not None]

    def weight(self, term: str) -> float | None:
        """How much a term counts in the whole loss."""
        losses = self.step.part("options").parts("losses")
        return next((one.number("weight") for one in losses if one.text("use") == term), None)


def training(report: Part) -> Element | None:
    """One part for every pass that trained."""
    runs = [_Run(step) for step in report.parts("passes") if "held_out" in step.part("series")]
    if not runs:
        return None
    return section("training", "Training", [_pass(run) for run in runs])


def _pass(run: _Run) -> Content:
    small = [chart for term in run.terms for chart in _term(run, term)]
    told = (prose(_outcome(run)), definitions(_settings(run)), _legend(run))
    return (
        tag("h3", run.step.text("pass")),
        split(*_total(run), told),
        tag("div", small, class_="multiples") if small else None,
        _features(run),
    )


def _outcome(run: _Run) -> str:
    metrics = run.step.part("metrics")
    steps, best = metrics.number("steps"), metrics.number("best_step")
    start, end = metrics.number("loss_at_start"), metrics.number("loss_at_best")
    kept = f"step {figures.whole(best)}" if best else "the starting point"
    return (
        f"{figures.whole(steps)} steps; {kept} is kept, whose loss on held-out samples is "
        f"{figures.short(end)} ({figures.short(start)} at the start)."
    )


def _settings(run: _Run) -> list[tuple[str, Content]]:
    """What a reader of the curves asks first."""
    options = run.step.part("options")
    return [
        (shown, figures.short(options.number(name)))
        for shown, name in SETTINGS
        if name in options
    ]


def _legend(run: _Run) -> Element | None:
    if not run.stages(LOSS):
        return None
    return tag(
        "p",
        swatch("training", "training samples"),
        swatch("held-out", "held-out samples"),
        swatch("border", "before it each block learns alone") if run.alone else None,
        class_="legend",
    )


def _total(run: _Run) -> Iterator[Element]:
    lines = _lines(run, LOSS, HELD_OUT)
    if not lines:
        return
    metrics = run.step.part("metrics")
    best, loss = metrics.number("best_step"), metrics.number("loss_at_best")
    mark = None
    if best is not None and loss is not None and run.looks(HELD_OUT):
        mark = Mark(x=best, y=loss, text=f"kept: step {best:.0f}, {figures.short(loss)}")
    drawing = curves(
        lines,
        f"{run.step.text('pass')}: loss over steps. {_outcome(run)}",
        height=215.0,
        border=run.alone or None,
        mark=mark,
    )
    yield figure(drawing, "The whole loss, over steps")


def _term(run: _Run, term: str) -> Iterator[Element]:
    lines = _lines(run, term, term)
    if not lines:
        return
    weight = run.weight(term)
    ends = ", ".join(figures.short(line.points[-1][1]) for line in lines)
    drawing = curves(
        lines, f"{term} over steps, at the end {ends}", height=150.0, border=run.alone or None
    )
    yield figure(drawing, code(term), "" if weight is None else f", weight {weight:g}")


def _lines(run: _Run, name: str, column: str) -> list[Curve]:
    lines = [Curve(style="training", points=points) for points in run.stages(name)]
    seen = run.looks(column)
    return [*lines, Curve(style="held-out", points=seen, dots=True)] if seen else lines


def _points(values: list[float | None], start: int) -> Points:
    return [(start + i, value) for i, value in enumerate(values) if value is not None]


def _features(run: _Run) -> Element | None:
    rows: list[list[Content]] = [
        [
            code(row.text("tensor")),
            figures.short(row.number("weight")),
            figures.short(row.number("before")),
            figures.short(row.number("after")),
        ]
        for row in run.step.part("tables").parts("features")
    ]
    if not rows:
        return None
    caption = "What critical tensors differ by from the dense model's, on held-out samples"
    headings = ("tensor", ">weight", ">before", ">after")
    return folded(f"Critical tensors ({len(rows)})", table(caption, headings, rows))

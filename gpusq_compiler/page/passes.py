"""What each pass did: the metric after it, its changes, its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.page import figures
from gpusq_compiler.page.blocks import figure, section, split, table
from gpusq_compiler.page.charts import ladder
from gpusq_compiler.page.details import details
from gpusq_compiler.page.headline import DENSE, scores

if TYPE_CHECKING:
    from gpusq_compiler.page.elements import Element
    from gpusq_compiler.page.reading import Part

HEADINGS = ("pass", ">metric after", ">changed", ">left alone", ">time", ">peak memory")


def passes(report: Part) -> Element:
    """A chart of the metric and a table of the passes."""
    metric = report.part("quality").text("metric")
    after = dict(scores(report))
    rows = [_row(step, metric, after) for step in report.parts("passes")]
    if after:
        rows.insert(0, [DENSE, figures.score(metric, after.get(DENSE)), "", "", "", ""])
    caption = (
        "Passes in the order in which they ran; memory is the most that the process had held "
        "by then"
    )
    return section(
        "passes",
        "Metric after each pass" if after else "Passes",
        split(
            _chart(report, metric) if len(after) > 1 else None, table(caption, HEADINGS, rows)
        ),
        details(report),
    )


def _row(step: Part, metric: str, after: dict[str, float]) -> list[str]:
    name = step.text("pass")
    memory = step.number("peak_memory")
    return [
        name,
        figures.score(metric, after[name]) if name in after else "unchanged" * bool(after),
        figures.whole(len(step.texts("changed"))),
        figures.whole(len(step.parts("left_alone"))),
        figures.seconds(step.number("seconds")),
        "" if memory is None else figures.size(memory),
    ]


def _chart(report: Part, metric: str) -> Element:
    place = report.part("quality").text("measured_on")
    rows = scores(report)
    told = ", ".join(f"{name} {figures.score(metric, value)}" for name, value in rows)
    drawing = ladder(
        rows, f"{metric} by pass: {told}", lambda value: figures.score(metric, value)
    )
    return figure(drawing, f"{metric} on {place}; the dashed line is the dense model")

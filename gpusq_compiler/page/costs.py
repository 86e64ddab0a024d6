"""Size and latency as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.page import figures
from gpusq_compiler.page.blocks import code, figure, section, table
from gpusq_compiler.page.charts import bars
from gpusq_compiler.page.elements import tag

SMALLER, FASTER = "smaller", "as fast"

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpusq_compiler.page.elements import Content, Element
    from gpusq_compiler.page.reading import Part


def costs(report: Part) -> Element:
    """Dense and compressed, side by side."""
    sizes = [report.part(name).number("bytes") for name in ("source", "output")]
    drawn = [_pair("File", sizes, figures.size, SMALLER)]
    for found in report.parts("latencies"):
        taken = [found.number("dense"), found.number("compressed")]
        name = f"Latency, batch {figures.whole(found.number('batch'))}"
        drawn.append(_pair(name, taken, figures.milliseconds, FASTER))
    return section(
        "costs", "Size and latency", tag("div", drawn, class_="multiples"), _twins(report)
    )


def _twins(report: Part) -> Element | None:
    """The models beside the result, each of which differs from it in a single thing."""
    metric = report.part("quality").text("metric")
    rows: list[list[Content]] = [
        [
            twin.text("name"),
            code(twin.part("file").text("path")),
            figures.size(twin.part("file").number("bytes")),
            figures.score(metric, twin.number("score")),
        ]
        for twin in report.parts("twins")
    ]
    headings = ("twin", "file", ">size", f">{metric or 'metric'}")
    return table("Written beside the result, for comparison", headings, rows) if rows else None


def _pair(
    name: str, values: list[float | None], form: Callable[[float | None], str], better: str
) -> Element:
    rows = [
        (which, value or 0.0, form(value))
        for which, value in zip(("dense", "compressed"), values, strict=True)
    ]
    told = ", ".join(f"{which} {text}" for which, _, text in rows)
    return figure(bars(rows, f"{name}: {told}"), f"{name}: {figures.times(*values)} {better}")

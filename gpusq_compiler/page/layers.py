"""Layer by layer: pattern, scales, and how far weight and output are from the dense ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.page import figures
from gpusq_compiler.page.blocks import code, figure, prose, section, split, table
from gpusq_compiler.page.charts import strip
from gpusq_compiler.page.elements import tag

if TYPE_CHECKING:
    from gpusq_compiler.page.elements import Content, Element
    from gpusq_compiler.page.reading import Part

HEADINGS = (
    "layer",
    "operator, weight",
    "pattern",
    ">magnitude kept",
    ">scales of the weight: least, median, largest",
    ">scale of the input",
    ">weight SQNR",
    ">output cosine",
    ">output SQNR",
)
FURTHEST = 3


def layers(report: Part) -> Element | None:
    """A chart of the errors and the table of all layers."""
    found = report.part("layers")
    rows = found.parts("rows")
    if not rows:
        return None
    measured, samples = found.text("measured_on"), figures.whole(found.number("samples"))
    outputs = (
        f"Outputs are compared on {samples} samples ({measured})."
        if measured
        else "Outputs were not compared: the model cannot run here, or there are no data."
    )
    explained = prose(
        "Each layer of the compressed model is held against the same layer of the dense one. "
        f"{outputs} SQNR is the energy of the dense values over that of the difference: at "
        "20 dB they differ by a tenth. A pruned weight differs by much, for the kept values "
        "may make up for the others; the output tells whether they do."
    )
    return section(
        "layers",
        "Layers",
        _chart(rows, explained),
        table("Layers in graph order", HEADINGS, [_row(row) for row in rows]),
    )


def _row(row: Part) -> list[Content]:
    scales = [row.number(f"scale_{which}") for which in ("min", "median", "max")]
    pattern, axis = row.text("pattern"), row.number("axis")
    return [
        code(row.text("layer")),
        (row.text("operator"), " ", tag("span", row.text("shape"), class_="whole")),
        f"{pattern}, axis {axis or 0:.0f}" if pattern else "dense",
        figures.share(row.number("kept_magnitude")),
        "float" if None in scales else " / ".join(map(figures.short, scales)),
        figures.short(row.number("input_scale")) if "input_scale" in row else "float",
        _sqnr(row, "weight_sqnr", "weight_error"),
        figures.cosine(row.number("output_cosine")),
        _sqnr(row, "output_sqnr", "output_cosine"),
    ]


def _sqnr(row: Part, key: str, known: str) -> str:
    """In dB; null beside a known error means that there is none."""
    value = row.number(key)
    return "exact" if value is None and known in row else figures.decibel(value)


def _chart(rows: list[Part], explained: Element) -> Element:
    values = [row.number("output_sqnr") for row in rows]
    pairs = zip(values, rows, strict=True)
    known = sorted((v, row.text("layer")) for v, row in pairs if v is not None)
    if len(known) < 2:
        return explained
    (least, _), (most, _) = known[0], known[-1]
    drawing = strip(
        values,
        ["sparse" if row.text("pattern") else "kept" for row in rows],
        [f"{row.text('layer')}: {figures.decibel(row.number('output_sqnr'))}" for row in rows],
        f"Output SQNR of {len(known)} layers in graph order, {least:.1f} to {most:.1f} dB",
    )
    worst = [tag("li", code(name), f" {value:.1f} dB") for value, name in known[:FURTHEST]]
    return split(
        figure(drawing, "Output SQNR in dB by layer, in graph order; filled dots are sparse"),
        (
            prose("Higher is closer to the dense model. Furthest from it:"),
            tag("ol", worst),
            explained,
        ),
    )

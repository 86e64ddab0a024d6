"""Activations as calibration saw them, each with the range that was chosen."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.page import figures
from gpusq_compiler.page.blocks import code, figure, folded, prose, section, table
from gpusq_compiler.page.elements import tag
from gpusq_compiler.page.histogram import histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.page.elements import Content, Element
    from gpusq_compiler.page.reading import Part

HEADINGS = (
    "tensor",
    "kind",
    "asked for by",
    "scheme",
    ">scales: least, median, largest",
    ">largest code stands for",
    ">values clipped",
    ">rounding error",
)
MOVED = 0.005
"""By which part a range must have moved for its second line to be told from the first."""


@dataclasses.dataclass(frozen=True)
class _Range:
    """A quantizer of an activation."""

    row: Part
    histogram: Part
    scale: float | None

    @property
    def after(self) -> float | None:
        """The range after training, where it moved."""
        clip, before = self.row.number("clip"), self.row.number("scale")
        if self.scale is None or not clip or not before:
            return None
        return clip * self.scale / before if abs(self.scale / before - 1) > MOVED else None


def ranges(report: Part) -> Element | None:
    """Histograms, folded, and the table of all quantizers."""
    found = [step for step in report.parts("passes") if quantizers(step)]
    if not found:
        return None
    return section(
        "ranges", "Quantizers and their ranges", [_pass(step, report) for step in found]
    )


def quantizers(step: Part) -> list[Part]:
    """The rows of a pass that are about quantizers; others have tables of that name, too."""
    return [row for row in step.part("tables").parts("tensors") if "kind" in row]


def _pass(step: Part, report: Part) -> Content:
    rows = quantizers(step)
    histograms = dict(step.part("histograms").members())
    scales = {
        row.text("input"): row.number("input_scale")
        for row in report.part("layers").parts("rows")
    }
    activations = [
        _Range(row, histograms[name], scales.get(name))
        for row in rows
        if row.text("kind") == "activation" and (name := row.text("tensor")) in histograms
    ]
    drawn = [drawing for one in activations for drawing in _drawn(one)]
    weights = sum(row.text("kind") == "weight" for row in rows)
    return (
        prose(
            f"{weights} weights and {len(rows) - weights} activations have quantizers. What "
            "lies beyond a range is clipped to its end; a wider range rounds more coarsely."
        ),
        folded(
            f"Histograms of activations ({len(drawn)})",
            prose(
                "Magnitudes on the calibration samples, zeros left out, in equal bins. "
                "Heights are logarithms, so that the few large values can be seen: from "
                "one in a million at the foot to all at the top. Right of a line is what "
                "is clipped."
            ),
            tag("div", drawn, class_="multiples"),
        )
        if drawn
        else prose("This observer counts nothing but the largest value: no histograms."),
        folded(
            f"All quantizers ({len(rows)})",
            table(
                "Quantizers as calibration left them", HEADINGS, [_row(row) for row in rows]
            ),
        ),
    )


def _drawn(one: _Range) -> Iterator[Element]:
    shares = [share or 0.0 for share in one.histogram.numbers("shares")]
    largest = one.histogram.number("largest") or 0.0
    if not shares or not largest:
        return
    name, clip = one.row.text("tensor"), one.row.number("clip")
    zeros, clipped = one.histogram.number("zeros"), one.row.number("clipped")
    told = (
        f"clip {figures.short(clip)} of {figures.short(largest)}, "
        f"{figures.rare(clipped)} beyond, {figures.rare(zeros)} zeros"
    )
    if one.after is not None:
        told += f"; {figures.short(one.after)} after training"
    drawing = histogram(shares, largest, clip, one.after, f"Magnitudes of {name}: {told}")
    yield figure(drawing, code(name), tag("br"), told)


def _row(row: Part) -> list[Content]:
    scales = [row.number(key) for key in ("scale_min", "scale_median", "scale")]
    known = [figures.short(scale) for scale in scales if scale is not None]
    return [
        code(row.text("tensor")),
        row.text("kind"),
        row.text("rule"),
        row.text("scheme"),
        " / ".join(dict.fromkeys(known)),
        figures.short(row.number("clip")),
        figures.rare(row.number("clipped")),
        figures.rare(row.number("relative_error")),
    ]

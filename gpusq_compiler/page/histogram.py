"""A histogram of magnitudes with the range that was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.page.axes import Scale, label, rounds
from gpusq_compiler.page.charts import LETTER, WIDTH, place, svg, tick
from gpusq_compiler.page.elements import tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.page.elements import Element

HEIGHT, FOOT = 132.0, 110.0
RAREST = 1e-6
"""Share of the values at which a bar has no height: bars are logarithms, for the few large
values that a range clips would not be seen otherwise."""


def histogram(
    shares: Sequence[float],
    largest: float,
    clip: float | None,
    after: float | None,
    described: str,
) -> Element:
    """Bars from 0 to the largest magnitude.

    Args:
        shares: Of the values, by bin.
        largest: Upper end of the last bin.
        clip: The range that calibration chose.
        after: The range at the end, where training moved it.
        described: For those who do not see it.
    """
    end = max(largest, clip or 0.0, after or 0.0) * 1.02
    x = Scale(low=0.0, high=end, start=4, end=WIDTH - 4)
    y = Scale(low=RAREST, high=1.0, start=FOOT, end=14, log=True)
    ticks = rounds(0.0, end)
    limits = [(clip, "clip", "clip"), (after, "clip after", "trained")]
    known = sorted((at, style, name) for at, style, name in limits if at is not None)
    return svg(
        HEIGHT,
        described,
        tag("path", d=_outline(shares, largest, x, y), class_="bins"),
        tag("line", x1=4, x2=WIDTH - 4, y1=FOOT, y2=FOOT, class_="axis"),
        [_limit(x(at), style, name, last=at == known[-1][0]) for at, style, name in known],
        [tick(x(v), FOOT + 17, label(v, ticks), anchor=_anchor(x(v))) for v in ticks],
    )


def _outline(shares: Sequence[float], largest: float, x: Scale, y: Scale) -> str:
    """One path for all bars: a page may hold a thousand histograms."""
    width = largest / len(shares)
    path = f"M{place(x(0))} {place(FOOT)}"
    for index, share in enumerate(shares):
        top = y(share) if share > RAREST else FOOT
        path += f"V{place(top)}H{place(x((index + 1) * width))}"
    return f"{path}V{place(FOOT)}Z"


def _limit(at: float, style: str, name: str, *, last: bool) -> list[Element]:
    """A line with its name: to the right of the last line where there is room, else left."""
    right = last and at + LETTER * (len(name) + 1) < WIDTH
    row = 12 if style == "clip" else 25
    return [
        tag("line", x1=place(at), x2=place(at), y1=4, y2=FOOT, class_=style),
        tag(
            "text",
            name,
            x=place(at + 4 if right else at - 4),
            y=row,
            text_anchor="start" if right else "end",
        ),
    ]


def _anchor(at: float) -> str:
    if at < 12:
        return "start"
    return "end" if at > WIDTH - 16 else "middle"

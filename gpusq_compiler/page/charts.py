"""Charts as SVG: drawn in the page's own colours, light or dark, sharp in print.

A chart is 320 units wide, so that its letters are as large as the text on a telephone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from gpusq_compiler.page.axes import Scale, label, spanning
from gpusq_compiler.page.elements import tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpusq_compiler.page.elements import Content, Element

Points: TypeAlias = Sequence[tuple[float, float]]

WIDTH = 320.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 10.0, 10.0, 26.0
ROW = 25.0
LETTER = 6.8
"""Width of a letter, about."""
MOST_POINTS = 150


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """What one line of a chart shows.

    Attributes:
        style: Class of the style sheet: its colour and stroke.
        points: In rising order of x.
        dots: Whether every point is marked.
    """

    style: str
    points: Points
    dots: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """One point of a chart that is pointed out."""

    x: float
    y: float
    text: str


def svg(height: float, described: str, *content: Content, style: str = "chart") -> Element:
    """A drawing with the sentence that says what is to be seen on it."""
    return tag(
        "svg",
        tag("title", described),
        content,
        class_=style,
        role="img",
        aria_label=described,
        view_box=f"0 0 {WIDTH:g} {height:g}",
    )


def curves(
    lines: Sequence[Curve],
    described: str,
    *,
    height: float = 180.0,
    border: float | None = None,
    mark: Mark | None = None,
) -> Element:
    """Lines over steps.

    Args:
        lines: At least one with a point.
        described: For those who do not see it.
        height: Of the drawing.
        border: Where something changes: a vertical line.
        mark: A point with its name, which stands above the lines.
    """
    points = [point for line in lines for point in line.points]
    x = Scale(
        low=min(0.0, *(px for px, _ in points)),
        high=max(1.0, *(px for px, _ in points)),
        start=LEFT,
        end=WIDTH - RIGHT,
    )
    top = TOP if mark is None else TOP + 16
    y = spanning([py for _, py in points], height - BOTTOM, top, log=True)
    return svg(
        height,
        described,
        _rulers(x, y),
        [] if border is None else _upright(x(border), y, "border"),
        [_curve(line, x, y) for line in lines],
        [] if mark is None else _marked(mark, x, y),
    )


def strip(
    values: Sequence[float | None], styles: Sequence[str], names: Sequence[str], described: str
) -> Element:
    """One dot per layer, in graph order.

    Args:
        values: Height of each dot; None has none.
        styles: Class of each dot.
        names: What a pointer that rests on a dot shows.
        described: For those who do not see it.
    """
    known = [value for value in values if value is not None]
    height = 170.0
    x = Scale(low=-0.5, high=len(values) - 0.5, start=LEFT, end=WIDTH - RIGHT)
    y = spanning(known, height - BOTTOM, TOP)
    radius = 3.5 if len(values) <= 60 else 2.0
    dots = [
        tag("circle", tag("title", name), cx=place(x(i)), cy=place(y(v)), r=radius, class_=s)
        for i, (v, s, name) in enumerate(zip(values, styles, names, strict=True))
        if v is not None
    ]
    return svg(height, described, _rulers(x, y, whole=True), dots)


def ladder(
    rows: Sequence[tuple[str, float]], described: str, form: Callable[[float], str]
) -> Element:
    """One value per row, from the top down, joined by a line; the first is the reference.

    Args:
        rows: Name and value.
        described: For those who do not see it.
        form: Writes a value.
    """
    names, values = [name for name, _ in rows], [value for _, value in rows]
    texts = [form(value) for value in values]
    left = min(130.0, _room(names))
    middle, air = sum(values) / len(values), 0.005 * max(map(abs, values))
    x = spanning([*values, middle - air, middle + air], left, WIDTH - _room(texts))
    places = [(x(value), ROW * (i + 0.5)) for i, value in enumerate(values)]
    height, first = ROW * len(rows), place(places[0][0])
    styles = ["dense", *["compressed"] * (len(rows) - 1)]
    return svg(
        height,
        described,
        tag("line", x1=first, x2=first, y1=2, y2=height - 2, class_="reference"),
        tag("path", d=_path(places), class_="line compressed"),
        [
            (
                tag("text", clipped(name, left), x=0, y=place(py + 4)),
                tag("circle", cx=place(px), cy=place(py), r=4.5, class_=style),
                tag("text", text, x=WIDTH, y=place(py + 4), text_anchor="end"),
            )
            for name, style, text, (px, py) in zip(names, styles, texts, places, strict=True)
        ],
    )


def bars(rows: Sequence[tuple[str, float, str]], described: str) -> Element:
    """Bars that begin at zero.

    Args:
        rows: Name, which is also the class, value, and how the value is written.
        described: For those who do not see it.
    """
    left, right = _room([name for name, _, _ in rows]), _room([text for *_, text in rows])
    most = max(value for _, value, _ in rows) or 1.0
    x = Scale(low=0.0, high=most, start=left, end=WIDTH - right)
    return svg(
        ROW * len(rows),
        described,
        [_bar(*row, ROW * index, x) for index, row in enumerate(rows)],
    )


def _bar(name: str, value: float, text: str, top: float, x: Scale) -> Content:
    end, foot = x(value), place(top + 17)
    return (
        tag("text", name, x=0, y=foot),
        tag(
            "rect",
            x=place(x.start),
            y=place(top + 4),
            width=place(max(end - x.start, 1.0)),
            height=17,
            rx=2,
            class_=name,
        ),
        tag("text", text, x=place(end + 6), y=foot),
    )


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most so many points: means of neighbours."""
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def clipped(text: str, room: float) -> str:
    """A text that is cut in its middle where the room is too small."""
    most = max(4, int(room / LETTER) - 1)
    if len(text) <= most:
        return text
    end = most // 2
    return f"{text[: most - end - 1]}…{text[len(text) - end :]}"


def place(value: float) -> str:
    """A coordinate: a tenth of a unit is finer than any screen."""
    return f"{value:.1f}".removesuffix(".0")


def _room(texts: Sequence[str]) -> float:
    """Width of the longest text, with some air."""
    return 12 + LETTER * max(map(len, texts))


def _rulers(x: Scale, y: Scale, *, whole: bool = False) -> Content:
    """Horizontal lines with their values, and values below."""
    levels, steps = y.ticks(), x.ticks(6)
    if whole:
        steps = [value for value in steps if value == round(value)]
    return [_level(value, levels, y) for value in levels], [
        tick(x(value), y.start + 17, label(value, steps)) for value in steps
    ]


def _level(value: float, levels: list[float], y: Scale) -> Content:
    at = place(y(value))
    return (
        tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"),
        tick(LEFT - 6, y(value) + 4, label(value, levels), anchor="end"),
    )


def tick(x: float, y: float, text: str, anchor: str = "middle") -> Element:
    """A number beside an axis."""
    return tag("text", text, x=place(x), y=place(y), text_anchor=anchor, class_="tick")


def _curve(line: Curve, x: Scale, y: Scale) -> Content:
    places = [(x(px), y(py)) for px, py in line.points]
    path = tag("path", d=_path(places), class_=f"line {line.style}")
    if not line.dots:
        return path
    return path, [
        tag("circle", cx=place(px), cy=place(py), r=2.6, class_=line.style)
        for px, py in places
    ]


def _path(places: Points) -> str:
    return "M" + "L".join(f"{place(px)} {place(py)}" for px, py in places)


def _upright(at: float, y: Scale, style: str) -> Element:
    return tag("line", x1=place(at), x2=place(at), y1=y.start, y2=y.end, class_=style)


def _marked(mark: Mark, x: Scale, y: Scale) -> Content:
    px, py = x(mark.x), y(mark.y)
    half = LETTER * len(mark.text) / 2
    middle = min(max(px, half), WIDTH - half)
    return (
        tag("line", x1=place(px), x2=place(px), y1=TOP + 8, y2=place(py - 6), class_="mark"),
        tag("circle", cx=place(px), cy=place(py), r=6, class_="mark"),
        tag("text", mark.text, x=place(middle), y=TOP + 3, text_anchor="middle"),
    )

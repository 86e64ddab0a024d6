"""What sections are made of: headings, tables that a screen reader reads, things to unfold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.page.elements import tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpusq_compiler.page.elements import Content, Element

MANY_ROWS = 24
"""A table that is longer is folded where it is not the main thing."""


def section(name: str, title: str, *content: Content) -> Element:
    """A part of the page with its heading; ``name`` is what links lead to."""
    return tag(
        "section",
        tag("h2", title, id=f"{name}-title"),
        content,
        id=name,
        aria_labelledby=f"{name}-title",
    )


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[Content]]) -> Element:
    """A table; the first cell of a row is its name. A heading that begins with > is right.

    On a narrow screen it scrolls in a frame of its own, which the keyboard reaches.
    """
    right = [heading.startswith(">") for heading in headings]
    head = [
        tag("th", heading.removeprefix(">"), scope="col", class_="n" if is_right else None)
        for heading, is_right in zip(headings, right, strict=True)
    ]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row", class_="n" if right[0] else None),
            [
                tag("td", cell, class_="n" if is_right else None)
                for cell, is_right in zip(row[1:], right[1:], strict=True)
            ],
        )
        for row in rows
    ]
    whole = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", tag("tr", head)),
        tag("tbody", body),
    )
    return tag("div", whole, class_="scroll", role="region", aria_label=caption, tabindex=0)


def folded(summary: str, *content: Content, unfolded: bool = False) -> Element:
    """Something that is shown on request."""
    attributes = {"open": ""} if unfolded else {}
    return tag("details", tag("summary", summary), content, **attributes)


def figure(drawing: Element, *caption: Content) -> Element:
    """A chart with its caption above it."""
    return tag("figure", tag("figcaption", caption), drawing)


def code(text: str) -> Element:
    """A name out of a model, a path, a command."""
    return tag("code", text)


def prose(*content: Content, style: str | None = None) -> Element:
    """A paragraph."""
    return tag("p", content, class_=style)


def swatch(style: str, name: str) -> Element:
    """An entry of a legend."""
    line = tag("line", x1=0, x2=22, y1=6, y2=6, class_=f"line {style}")
    drawing = tag("svg", line, class_="swatch", view_box="0 0 22 12", aria_hidden="true")
    return tag("span", drawing, name, class_="key")


def split(*halves: Content) -> Element:
    """Things side by side where there is room."""
    return tag(
        "div", [tag("div", half) for half in halves if half is not None], class_="split"
    )


def definitions(rows: Sequence[tuple[str, Content]]) -> Element:
    """Names and what they mean."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", what)) for name, what in rows])

"""HTML and SVG as elements of the standard library's XML: escaped because they are no text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Element: TypeAlias = ET.Element
Content: TypeAlias = "Element | str | Iterable[Content] | None"

ATTRIBUTES = {"class_": "class", "for_": "for", "view_box": "viewBox"}
UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def tag(name: str, *content: Content, **attributes: str | float | None) -> Element:
    """An element.

    Args:
        name: Of the element.
        content: Elements and text, also nested in lists; None is nothing.
        attributes: With ``_`` for ``-``; None leaves one out.
    """
    element = ET.Element(name)
    for key, value in attributes.items():
        if value is not None:
            element.set(ATTRIBUTES.get(key, key.replace("_", "-")), _plain(value))
    _extend(element, content)
    return element


def html_of(element: Element) -> str:
    """The element as HTML."""
    return ET.tostring(element, encoding="unicode", method="html")


def _extend(element: Element, content: Iterable[Content]) -> None:
    for item in content:
        if isinstance(item, str):
            _append(element, _plain(item))
        elif isinstance(item, ET.Element):
            element.append(item)
        elif item is not None:
            _extend(element, item)


def _append(element: Element, text: str) -> None:
    if len(element):
        last = element[-1]
        last.tail = (last.tail or "") + text
    else:
        element.text = (element.text or "") + text


def _plain(value: str | float) -> str:
    """Text without what no file may hold; numbers with as many digits as a screen shows."""
    return UNREADABLE.sub("\ufffd", value) if isinstance(value, str) else f"{value:.6g}"

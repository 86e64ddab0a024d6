"""What else passes said: options in effect, figures, and tables that no section knows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gpusq_compiler.page import figures
from gpusq_compiler.page.blocks import code, definitions, folded, table
from gpusq_compiler.page.elements import tag
from gpusq_compiler.page.ranges import quantizers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.page.elements import Content, Element
    from gpusq_compiler.page.reading import Part

SHOWN = frozenset({"features", "looks"})
"""Tables that have a section of their own."""


def details(report: Part) -> Element | None:
    """Folded, one part per pass."""
    parts = [part for step in report.parts("passes") if (part := _pass(step))]
    if not parts:
        return None
    return folded("Options in effect, and figures of every pass", parts)


def _pass(step: Part) -> list[Content]:
    facts = [*_options(step.part("options")), *_metrics(step.part("metrics"))]
    tables = [
        _table(name, rows)
        for name in step.part("tables").values
        if name not in _shown(step) and (rows := step.part("tables").parts(name))
    ]
    said = [definitions(facts) if facts else None, *tables]
    return [tag("h3", step.text("pass")), *said] if facts or tables else []


def _shown(step: Part) -> frozenset[str]:
    return SHOWN | {"tensors"} if quantizers(step) else SHOWN


def _options(options: Part) -> Iterator[tuple[str, Content]]:
    for name, value in options.values.items():
        if value not in (None, [], ""):
            told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield name, code(told)


def _metrics(metrics: Part) -> Iterator[tuple[str, Content]]:
    for name in metrics.values:
        yield name, _number(metrics.number(name))


def _table(name: str, rows: list[Part]) -> Element:
    columns = list(dict.fromkeys(key for row in rows for key in row.values))
    right = [
        all(isinstance(row.values.get(key), int | float | None) for row in rows)
        for key in columns
    ]
    headings = [
        f">{key}" if numeric else key for key, numeric in zip(columns, right, strict=True)
    ]
    return table(name, headings, [[_cell(row, key) for key in columns] for row in rows])


def _cell(row: Part, key: str) -> Content:
    if isinstance(row.values.get(key), str):
        return code(row.text(key))
    return _number(row.number(key))


def _number(value: float | None) -> str:
    whole = value is not None and value == round(value) and abs(value) < 1e15
    return figures.whole(value) if whole else figures.short(value)

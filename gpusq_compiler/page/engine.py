"""The engine that was built: where, by what, and which of its layers are sparse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.page import figures
from gpusq_compiler.page.blocks import code, definitions, prose, section, table

if TYPE_CHECKING:
    from gpusq_compiler.page.elements import Content, Element
    from gpusq_compiler.page.reading import Part

HEADINGS = (
    "layer",
    "operator, weight",
    "types",
    "eligible",
    "chosen",
    "kernel, or what says no",
)


def engine(report: Part) -> Element | None:
    """What built it and the evidence, layer by layer."""
    if "engine" not in report:
        return None
    built = report.part("engine")
    rows: list[list[Content]] = [
        [
            code(row.text("name")),
            f"{row.text('operator')} {'x'.join(map(figures.whole, row.numbers('shape')))}",
            f"{row.text('reads')} → {row.text('writes')}",
            _answer(row, "eligible"),
            _answer(row, "chosen"),
            "; ".join(filter(None, (row.text("tactic"), row.text("reason")))),
        ]
        for row in products(report)
    ]
    return section(
        "engine",
        "Engine",
        prose(summary(report)),
        definitions(_facts(built)),
        table("Layers with a constant weight in the engine", HEADINGS, rows) if rows else None,
    )


def products(report: Part) -> list[Part]:
    """The evidence, one part per layer."""
    return report.part("engine").part("evidence").parts("layers")


def summary(report: Part) -> str:
    """How many layers run on sparse kernels, claiming no more than is known."""
    rows = products(report)
    chosen = sum(row.flag("chosen") for row in rows)
    unknown = sum("chosen" not in row for row in rows)
    basis = report.part("engine").part("evidence").text("basis")
    rest = f", of {unknown} it is not known" if unknown else ""
    return (
        f"TensorRT chose sparse kernels for {chosen} of {len(rows)} layers{rest} ({basis}, "
        "from its log and engine). How fast they are is for gpusq bench to say."
    )


def _answer(row: Part, key: str) -> str:
    if key not in row:
        return "?"
    return "yes" if row.flag(key) else "no"


def _facts(built: Part) -> list[tuple[str, Content]]:
    size, time = built.number("size"), built.number("seconds")
    return [
        ("file", (code(built.text("path")), f", {figures.size(size)}")),
        ("built by", f"{built.text('tensorrt')} in {figures.seconds(time)}"),
        ("GPU", f"{built.text('device')}, compute capability {built.text('capability')}"),
    ]

"""What was left as it was and why, and what TensorRT makes of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.page.blocks import MANY_ROWS, code, folded, prose, section, table

if TYPE_CHECKING:
    from gpusq_compiler.page.elements import Content, Element
    from gpusq_compiler.page.reading import Part

MEANING = {
    "refused": "parser or builder ends with an error",
    "differs": "the engine computes something else than ONNX says",
    "slow": "the engine computes there in float",
    "sparse": "no sparse INT8 kernel can be chosen there",
}


def left_alone(report: Part) -> Element:
    """Every finding of every pass."""
    rows: list[list[Content]] = [
        [
            code(found.text("where")),
            found.text("reason"),
            found.text("rule"),
            step.text("pass"),
        ]
        for step in report.parts("passes")
        for found in step.parts("left_alone")
    ]
    return section(
        "left-alone",
        "Left alone",
        prose(f"Considered and left, each for a reason: {len(rows)}.")
        if rows
        else prose("Nothing: every layer that the passes know was changed."),
        _listed("What passes considered and left", ("where", "reason", "rule", "pass"), rows),
    )


def tensorrt(report: Part) -> Element | None:
    """Findings of lint."""
    if "lint" not in report:
        return None
    lint = report.part("lint")
    version = f"TensorRT {lint.text('tensorrt')}"
    found = sorted(lint.parts("findings"), key=_rank)
    told = [
        f"{sum(one.text('severity') == name for one in found)} {name} ({meaning})"
        for name, meaning in MEANING.items()
    ]
    rows: list[list[Content]] = [
        [
            code(one.text("where")),
            one.text("severity"),
            f"{one.text('what')}. {one.text('remedy')}",
            one.text("rule"),
        ]
        for one in found
    ]
    headings = ("where", "severity", "what, and what to do", "rule")
    return section(
        "tensorrt",
        "TensorRT",
        prose(f"By its rules, not by a build, {version} finds {', '.join(told)}."),
        _listed(f"Findings for {version}", headings, rows),
    )


def _listed(
    caption: str, headings: tuple[str, ...], rows: list[list[Content]]
) -> Element | None:
    """The table, folded where it is long."""
    if not rows:
        return None
    whole = table(caption, headings, rows)
    return folded("Show all", whole) if len(rows) > MANY_ROWS else whole


def _rank(found: Part) -> int:
    known = list(MEANING)
    severity = found.text("severity")
    return known.index(severity) if severity in known else len(known)

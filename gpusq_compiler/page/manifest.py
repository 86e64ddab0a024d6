"""What repeats the run: command, recipe, files and their hashes, versions, machine."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from gpusq_compiler.page import figures
from gpusq_compiler.page.blocks import code, definitions, folded, section
from gpusq_compiler.page.elements import tag

if TYPE_CHECKING:
    from gpusq_compiler.page.elements import Content, Element
    from gpusq_compiler.page.reading import Part


def manifest(report: Part) -> Element:
    """Everything that the result depends on."""
    recipe = tag("pre", tag("code", report.text("recipe")), tabindex=0)
    return section(
        "manifest",
        "Manifest",
        definitions(_run(report)),
        tag("h3", "Files"),
        definitions(_files(report)),
        tag("h3", "Recipe"),
        tag("div", folded("The recipe that repeats the run", recipe), class_="recipe"),
    )


def _run(report: Part) -> list[tuple[str, Content]]:
    data, versions = report.part("data"), report.part("versions")
    counts = [figures.whole(data.number(name)) for name in ("training", "held_out")]
    labels = "with" if data.flag("labels") else "without"
    told = (
        f"{data.text('origin')}, {labels} labels: {counts[0]} samples for calibration and "
        f"training, {counts[1]} held out"
    )
    return [
        *(_circumstances(report.part("manifest")) if "manifest" in report else []),
        ("target", report.text("target")),
        ("data", told),
        ("versions", ", ".join(f"{name} {versions.text(name)}" for name in versions.values)),
    ]


def _circumstances(made: Part) -> list[tuple[str, Content]]:
    machine, threads = made.part("machine"), made.number("threads")
    named = [machine.text("system"), machine.text("processor")]
    cores = f"{figures.whole(machine.number('cores'))} cores"
    chosen = "as many threads as it chose" if threads is None else f"threads: {threads:.0f}"
    return [
        ("command", code(shlex.join(made.texts("command")) or "called from Python")),
        ("seed", figures.whole(made.number("seed"))),
        ("machine", ", ".join([*named, cores])),
        ("runtime", f"on {made.text('device')}, {chosen}"),
        ("time", figures.seconds(made.number("seconds"))),
    ]


def _files(report: Part) -> list[tuple[str, Content]]:
    named = [
        ("model", report.part("source")),
        ("output", report.part("output")),
        *report.part("manifest").part("inputs").members(),
    ]
    return [
        (
            name,
            (
                code(part.text("path")),
                f", {figures.size(part.number('bytes'))}",
                tag("br"),
                tag("span", "SHA-256 ", part.text("sha256"), class_="hash"),
            ),
        )
        for name, part in named
    ]

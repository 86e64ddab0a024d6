"""A report as one page: a pure function of its JSON, with nothing to fetch.

Everything in it is drawn here: no script, no font, no picture comes from elsewhere, and a
policy in the page's head says so to the browser.
"""

from __future__ import annotations

import string
from importlib import resources
from pathlib import PurePath
from typing import TYPE_CHECKING

from gpusq_compiler.errors import ReportError
from gpusq_compiler.page import costs, engine, findings, headline, layers, manifest, passes
from gpusq_compiler.page import ranges as quantizers
from gpusq_compiler.page import training as trainings
from gpusq_compiler.page.elements import html_of, tag
from gpusq_compiler.page.reading import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpusq_compiler.page.elements import Element

    Section = Callable[[Part], Element | None]

FORMAT = 1
"""The newest format of the JSON; older ones lack parts."""
SECTIONS: Sequence[Section] = (
    headline.headline,
    passes.passes,
    trainings.training,
    layers.layers,
    quantizers.ranges,
    costs.costs,
    findings.left_alone,
    findings.tensorrt,
    engine.engine,
    manifest.manifest,
)


def draw(report: object) -> str:
    """The page of a report.

    Args:
        report: What ``json.loads`` makes of the report's JSON.

    Raises:
        ReportError: It is no report, or one of a newer program.
    """
    whole = Part.of(report, "")
    _require_known(whole)
    drawn = [made for section in SECTIONS if (made := section(whole)) is not None]
    title = f"{_name(whole, 'source')}, compressed"
    body = [_header(whole, title), _contents(drawn), *drawn, _footer(whole)]
    return string.Template(_file("page.html")).substitute(
        title=html_of(tag("title", title)),
        style=_file("page.css"),
        body="\n".join(map(html_of, body)),
    )


def _require_known(report: Part) -> None:
    number = report.number("format")
    if number is None or "passes" not in report:
        raise ReportError(
            "holds no report",
            where="report",
            remedy="Give the JSON that gpusq-compile wrote beside the model",
        )
    if number > FORMAT:
        raise ReportError(
            f"has format {number:g}, newer than {FORMAT}",
            where="report",
            remedy="Use the version of gpusq-compiler that wrote it, or a newer one",
        )


def _header(report: Part, title: str) -> Element:
    return tag(
        "header",
        tag("h1", title),
        tag(
            "p",
            tag("code", report.part("source").text("path")),
            " → ",
            tag("code", report.part("output").text("path")),
            class_="path",
        ),
    )


def _footer(report: Part) -> Element:
    version = report.part("versions").text("gpusq-compiler", "?")
    said = f"Drawn from the JSON beside this page, which gpusq-compiler {version} wrote."
    return tag("footer", tag("p", said))


def _contents(sections: Sequence[Element]) -> Element:
    links = [
        tag("li", tag("a", "".join(one[0].itertext()), href=f"#{one.get('id')}"))
        for one in sections
    ]
    return tag("nav", tag("ul", links), aria_label="Sections")


def _name(report: Part, key: str) -> str:
    return PurePath(report.part(key).text("path", "model")).name


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")

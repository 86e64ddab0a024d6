"""The first screen: what came out, and what of it is proven."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.page import engine, figures
from gpusq_compiler.page.blocks import code, section
from gpusq_compiler.page.elements import tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpusq_compiler.page.elements import Content, Element
    from gpusq_compiler.page.reading import Part

    Claim = tuple[tuple[str, str], Content]

YES, DOUBT, OPEN = ("yes", "✓"), ("doubt", "!"), ("open", figures.NOTHING)
DENSE = "dense"
SPEED = "Speed on Sparse Tensor Cores: not measured. "
HERE = (
    "Latencies here are ONNX Runtime's on this machine, whose kernels do not use the pattern"
)
THERE = "gpusq bench times engines on their GPU"


def headline(report: Part) -> Element:
    """Tiles with the figures, and a list of what is verified."""
    tiles = [_size(report), *_metric(report), *_latency(report), *_sparse(report)]
    claims = [
        tag("li", tag("span", sign, class_="sign", aria_hidden="true"), said, class_=style)
        for (style, sign), said in _claims(report)
    ]
    return section(
        "figures",
        "At a glance",
        tag("div", tiles, class_="tiles"),
        tag("h3", "What is verified"),
        tag("ul", claims, class_="claims"),
    )


def scores(report: Part) -> list[tuple[str, float]]:
    """The metric of the dense model and after every pass, where it was taken."""
    after = report.part("quality").part("after")
    found = [(name, after.number(name)) for name in after.values]
    return [(name, value) for name, value in found if value is not None]


def _tile(name: str, value: str, *beside: Content, style: str = "") -> Element:
    return tag(
        "div",
        tag("p", name, class_="name"),
        tag("p", value, class_="value"),
        tag("p", beside, class_="beside"),
        class_=f"tile {style}".strip(),
    )


def _size(report: Part) -> Element:
    before, after = (report.part(name).number("bytes") for name in ("source", "output"))
    sizes = f"{figures.size(before)} → {figures.size(after)}"
    return _tile("Size", f"{figures.times(before, after)} smaller", sizes)


def _metric(report: Part) -> Iterator[Element]:
    quality, found = report.part("quality"), scores(report)
    if not found:
        return
    metric, verified = quality.text("metric"), quality.flag("verified")
    dense, last = found[0][1], found[-1][1]
    yield _tile(
        metric if verified else f"{metric}, unverified",
        figures.score(metric, last),
        f"dense {figures.score(metric, dense)}, {figures.gain(metric, dense, last)}",
        tag("br"),
        f"on {quality.text('measured_on')}",
        style="" if verified else "doubtful",
    )


def _latency(report: Part) -> Iterator[Element]:
    for found in report.parts("latencies")[:1]:
        dense, compressed = found.number("dense"), found.number("compressed")
        yield _tile(
            f"Latency, batch {figures.whole(found.number('batch'))}",
            figures.milliseconds(compressed),
            f"dense {figures.milliseconds(dense)}, {figures.times(dense, compressed)} as fast",
            tag("br"),
            "ONNX Runtime on this machine",
        )


def _sparse(report: Part) -> Iterator[Element]:
    rows = report.part("layers").parts("rows")
    sizes = {row.text("weight"): row.number("parameters") or 0 for row in rows}
    sparse = {row.text("weight") for row in rows if row.text("pattern")}
    total = sum(sizes.values())
    if not total:
        return
    inside = sum(size for name, size in sizes.items() if name in sparse)
    count = sum(bool(row.text("pattern")) for row in rows)
    beside = f"of the weights, in {count} of {len(rows)} layers"
    yield _tile("In the sparse pattern", figures.share(inside / total), beside)


def _claims(report: Part) -> Iterator[Claim]:
    yield from _facts(report)
    yield from _accuracy(report)
    if "lint" in report:
        lint = report.part("lint")
        refused = sum(f.text("severity") == "refused" for f in lint.parts("findings"))
        said = f"{refused} places" if refused else "nothing"
        version = lint.text("tensorrt")
        yield (DOUBT if refused else YES), f"TensorRT {version} refuses {said}, by its rules"
    if "engine" in report:
        yield OPEN, engine.summary(report)
    else:
        yield OPEN, SPEED + (HERE if report.parts("latencies") else THERE)


def _facts(report: Part) -> Iterator[Claim]:
    facts = report.texts("facts")
    where = "the integer codes" if "frozen" in facts else "the values"
    if "sparse" in facts:
        rows = report.part("layers").parts("rows")
        patterns = {row.text("pattern") for row in rows if row.text("pattern")}
        found = ", ".join(sorted(patterns))
        yield YES, f"The pattern {found} holds on {where} of every sparse weight"
    if "qdq" in facts:
        yield YES, "Every quantizer of ours is symmetric, its scale a positive constant"
    if not facts:
        yield OPEN, "Nothing is said of patterns and quantizers: the report is an old one"


def _accuracy(report: Part) -> Iterator[Claim]:
    quality = report.part("quality")
    if not scores(report):
        yield DOUBT, "No metric was taken: the model cannot run here, or there are no data"
        return
    metric, place = code(quality.text("metric")), quality.text("measured_on")
    if not quality.flag("verified"):
        yield DOUBT, (metric, " is unverified: the inputs were synthesised. Give --data")
    elif place == "held-out":
        trained = any("held_out" in step.part("series") for step in report.parts("passes"))
        chose = "; they chose the best iterate" if trained else ""
        yield YES, (metric, f" is that of held-out samples: nothing was fitted to them{chose}")
    else:
        yield YES, (metric, f" is that of {place}, which nothing was fitted to or chosen by")

"""Where things stand on a chart, and what its axes say."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from gpusq_compiler.page import figures
from gpusq_compiler.page.axes import Scale, label, rounds, spanning
from gpusq_compiler.page.charts import (
    LEFT,
    RIGHT,
    WIDTH,
    Curve,
    Mark,
    bars,
    clipped,
    curves,
    ladder,
    strip,
    thinned,
)
from gpusq_compiler.page.elements import Element, html_of, tag
from gpusq_compiler.page.histogram import FOOT, histogram


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?", text)]


def path(element: Element, style: str) -> list[tuple[float, float]]:
    """The corners of the path of this class."""
    (found,) = (e for e in element.iter("path") if e.get("class") == style)
    values = numbers(found.get("d") or "")
    return list(zip(values[::2], values[1::2], strict=True))


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.0, 60.0, [0, 20, 40, 60]),
        (0.013, 0.062, [0.02, 0.03, 0.04, 0.05, 0.06]),
        (-7.0, 31.0, [0, 10, 20, 30]),
        (0.98, 1.0, [0.98, 0.985, 0.99, 0.995, 1.0]),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert rounds(low, high) == pytest.approx(wanted)


@pytest.mark.parametrize("low", [1e-9, 0.3, 1.0, 7.7, 1e6])
@pytest.mark.parametrize("span", [1.0001, 1.5, 9.0, 1e4])
def test_ticks_lie_inside_and_have_labels_of_their_own(low: float, span: float) -> None:
    high = low * span
    found = rounds(low, high)
    assert 1 <= len(found) <= 6
    # A tick may stand on the border, which rounding of the step moves by a billionth of it.
    slack = 1e-8 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in found)
    if span > 1.1:
        assert len({label(tick, found) for tick in found}) == len(found)


def test_a_scale_maps_its_ends_and_keeps_what_lies_outside_at_the_border() -> None:
    scale = Scale(low=2.0, high=6.0, start=100.0, end=20.0)
    assert [scale(v) for v in (2.0, 4.0, 6.0, 0.0, 9.0)] == [100, 60, 20, 100, 20]
    logs = Scale(low=1.0, high=100.0, start=0.0, end=10.0, log=True)
    assert [logs(v) for v in (1.0, 10.0, 100.0, 0.0)] == pytest.approx([0, 5, 10, 0])


def test_logarithms_are_for_positive_values_of_different_size() -> None:
    assert spanning([0.1, 1.0], 0, 1, log=True).log
    assert not spanning([0.2, 1.0], 0, 1, log=True).log
    assert not spanning([0.0, 1.0], 0, 1, log=True).log
    assert not spanning([0.1, 1.0], 0, 1).log


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_equal_values_have_a_scale(value: float) -> None:
    scale = spanning([value, value], 0, 10)
    assert scale(value) == pytest.approx(5)
    assert scale.ticks()


@pytest.mark.parametrize(("low", "high"), [(0.03, 0.4), (1e-5, 2.0), (1.0, 10.0)])
def test_logarithmic_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = Scale(low=low, high=high, start=0, end=1, log=True).ticks()
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)
    assert all(a < b for a, b in itertools.pairwise(ticks))


def test_lines_go_through_their_points() -> None:
    points = [(0.0, 1.0), (5.0, 3.0), (10.0, 2.0)]
    drawing = curves([Curve(style="held-out", points=points)], "said")
    corners = path(drawing, "line held-out")
    assert [x for x, _ in corners] == pytest.approx(
        [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    )
    ys = [y for _, y in corners]
    assert ys[1] < ys[2] < ys[0], "larger is higher"
    assert ys[0] - ys[2] == pytest.approx((ys[0] - ys[1]) / 2, abs=0.1)


def test_the_mark_stands_on_its_point_and_its_text_inside() -> None:
    points = [(0.0, 1.0), (10.0, 2.0)]
    drawing = curves(
        [Curve(style="training", points=points)],
        "said",
        mark=Mark(x=10.0, y=2.0, text="kept: step 10, 2"),
    )
    (ring,) = drawing.iter("circle")
    assert [float(ring.get(key) or 0) for key in ("cx", "cy")] == list(
        path(drawing, "line training")[-1]
    )
    (text,) = (e for e in drawing.iter("text") if e.text == "kept: step 10, 2")
    # As wide as its letters, and half of it on each side.
    assert float(text.get("x") or 0) + 6.8 * len(text.text or "") / 2 <= WIDTH + 0.1


def test_one_point_is_a_chart() -> None:
    html_of(curves([Curve(style="training", points=[(0.0, 0.5)])], "said"))
    html_of(ladder([("dense", 1.0)], "said", str))


def test_a_ladder_has_a_row_for_every_value() -> None:
    drawing = ladder(
        [("dense", 0.99), ("prune", 0.90), ("qat", 0.98)], "said", "{:.2f}".format
    )
    dots = list(drawing.iter("circle"))
    assert [dot.get("class") for dot in dots] == ["dense", "compressed", "compressed"]
    xs = [float(dot.get("cx") or 0) for dot in dots]
    assert xs[1] < xs[2] < xs[0]
    # Eight hundredths of nine.
    assert (xs[2] - xs[1]) / (xs[0] - xs[1]) == pytest.approx(8 / 9, abs=0.01)
    said = [text.text for text in drawing.iter("text")]
    assert said == ["dense", "0.99", "prune", "0.90", "qat", "0.98"]


def test_bars_begin_at_zero() -> None:
    drawing = bars([("dense", 4.0, "4 ms"), ("compressed", 1.0, "1 ms")], "said")
    first, second = (float(rect.get("width") or 0) for rect in drawing.iter("rect"))
    assert second == pytest.approx(first / 4, abs=0.1)
    html_of(bars([("dense", 0.0, "–"), ("compressed", 0.0, "–")], "said"))  # noqa: RUF001


def test_a_strip_leaves_out_what_is_not_known() -> None:
    drawing = strip([3.0, None, 9.0], ["sparse", "kept", "kept"], ["a", "b", "c"], "said")
    dots = list(drawing.iter("circle"))
    assert [dot.get("class") for dot in dots] == ["sparse", "kept"]
    assert [dot[0].text for dot in dots] == ["a", "c"]
    assert float(dots[0].get("cy") or 0) > float(dots[1].get("cy") or 0)


def test_the_bars_of_a_histogram_are_logarithms() -> None:
    drawing = histogram([0.999, 1e-3, 0.0, 1e-6], 4.0, 3.0, None, "said")
    text = next(e.get("d") for e in drawing.iter("path") if e.get("class") == "bins")
    tops = [float(y) for y in re.findall(r"V([\d.]+)H", text or "")]
    full = FOOT - tops[0]
    assert FOOT - tops[1] == pytest.approx(full * 0.5, abs=0.2), "three of six powers of ten"
    assert tops[2:] == [FOOT, FOOT]
    (limit,) = (e for e in drawing.iter("line") if e.get("class") == "clip")
    # 3 of a range that ends 2 % behind 4, drawn from 4 to WIDTH - 4.
    wanted = 4 + (WIDTH - 8) * 3 / 4.08
    assert float(limit.get("x1") or 0) == pytest.approx(wanted, abs=0.1)


def test_a_range_that_moved_has_two_lines_whose_names_part() -> None:
    drawing = histogram([1.0], 4.0, 2.0, 2.1, "said")
    names = {e.text: e.get("text-anchor") for e in drawing.iter("text")}
    assert (names["clip"], names["trained"]) == ("end", "start")
    at_the_end = histogram([1.0], 4.0, 4.0, None, "said")
    names = {e.text: e.get("text-anchor") for e in at_the_end.iter("text")}
    assert names["clip"] == "end"


def test_thinned_series_keep_their_mean_and_their_order() -> None:
    points = [(float(step), math.sin(step)) for step in range(1000)]
    found = thinned(points, 100)
    assert len(found) == 100
    assert [x for x, _ in found] == sorted(x for x, _ in found)
    mean = sum(y for _, y in points) / 1000
    assert sum(y for _, y in found) / 100 == pytest.approx(mean)
    assert thinned(points[:7], 100) == points[:7]
    assert len(thinned(points[:101], 100)) <= 100


def test_a_long_name_is_cut_in_its_middle() -> None:
    assert clipped("canonicalize", 130) == "canonicalize"
    cut = clipped("a-pass-of-a-third-party-with-a-name", 100)
    assert cut.startswith("a-pass")
    assert cut.endswith("a-name")
    assert "…" in cut
    assert len(cut) <= 100 / 6.8


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (568_799, "568.8 kB"),
        (2_181_000, "2.18 MB"),
        (1_800_000_000, "1.80 GB"),
        (7e12, "7000.0 GB"),
        (None, "–"),  # noqa: RUF001
    ],
)
def test_sizes(value: float | None, wanted: str) -> None:
    assert figures.size(value) == wanted


def test_other_figures() -> None:
    assert figures.rare(0.0) == "0 %"
    assert figures.rare(1e-7) == "below 0.001 %"
    assert figures.rare(0.00012) == "0.012 %"
    assert figures.whole(12345) == "12\u202f345"
    assert figures.times(3.0, 2.0) == "1.50×"  # noqa: RUF001
    assert figures.times(3.0, 0.0) == figures.times(None, 1.0) == figures.NOTHING
    assert figures.seconds(119.96) == "120.0 s"
    assert figures.seconds(180.0) == "3.0 min"
    assert figures.score("cosine", -0.5) == "-0.5000"
    assert figures.gain("accuracy", 0.5, 0.75) == "+25.00 points"
    assert figures.gain("psnr", 30.0, 29.5) == "-0.5000"


def test_text_is_escaped_wherever_it_stands() -> None:
    found = tag("p", "a<b", tag("b", "&"), "c\x07", [None, "d"], title='"<&', aria_label=None)
    assert html_of(found) == '<p title="&quot;<&amp;">a&lt;b<b>&amp;</b>c�d</p>'

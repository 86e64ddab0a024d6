"""The page: valid, complete, harmless, and readable by everybody."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from gpusq_compiler import page
from gpusq_compiler.errors import ReportError
from gpusq_compiler.trt.engines.build import EngineInfo
from gpusq_compiler.trt.engines.evidence import MEASURED, Evidence
from gpusq_compiler.trt.engines.prediction import Layer
from tests.page import reports
from tests.page.html import Page

ALL = [
    *("figures", "passes", "training", "layers", "ranges", "costs"),
    *("left-alone", "tensorrt", "manifest"),
]
HOSTILE = "<script>alert('1')</script>&amp;\"><img src=x onerror=y>\x00\ud800"
CSS = (Path(page.__file__).parent / "page.css").read_text()


def drawn(report: object | None = None) -> Page:
    return Page(page.draw(reports.whole() if report is None else report))


def test_the_sections_stand_in_the_order_of_their_weight() -> None:
    found = drawn()
    assert found.declarations == ["doctype html"]
    assert found.sections == ALL
    links = [tag.attributes["href"] for tag in found.all("a")]
    assert links == [f"#{name}" for name in ALL]


@pytest.mark.parametrize(
    ("section", "texts"),
    [
        ("figures", ["2.50× smaller", "2.00 MB → 800.0 kB", "98.75 %", "dense 99.00 %"]),  # noqa: RUF001
        ("figures", ["-0.25 points", "on eval-data", "0.146 ms", "dense 0.153 ms, 1.05×"]),  # noqa: RUF001
        (
            "figures",
            ["66.7 %of the weights, in 2 of 3 layers", "TensorRT 11 refuses nothing"],
        ),
        ("figures", ["2:4 holds on the integer codes", "accuracy is that of eval-data"]),
        ("passes", ["95.00 %", "94.80 %", "98.75 %", "1.5 s", "123.4 MB", "unchanged"]),
        ("passes", ["pattern2:4", '{"use": "sparsegpt"}', "share_of_weights0.988", "layers2"]),
        ("passes", ["minelayerbitserrornotefc140.0625–"]),  # noqa: RUF001
        ("training", ["6 steps; step 4 is kept", "0.25 (0.75 at the start)", "0.000705"]),
        ("training", ["kept: step 4, 0.25", "soft-logits, weight 10", "block learns alone"]),
        ("training", ["Critical tensors (1)", "0.125"]),
        ("layers", ["MatMul 64x192", "2:4, axis 0", "67.2 %", "0.0321", "17.6 dB", "0.9123"]),
        ("layers", ["0.00123 / 0.00234 / 0.00345", "3.1 dB", "16 samples (held-out)"]),
        ("layers", ["fc2 7.8 dB", "dense"]),
        ("ranges", ["Histograms of activations (2)", "clip 3.81 of 5, 0.012 % beyond, 25 %"]),
        ("ranges", ["4.08 after training", "All quantizers (2)", "int8 per-tensor"]),
        ("costs", ["2.00 MB", "800.0 kB", "7.452 ms", "6.768 ms", "1.10× as fast"]),  # noqa: RUF001
        ("costs", ["dense-int8model.onnx2.00 MB98.00 %"]),
        ("left-alone", ["stem", "it sees the input", "prune"]),
        ("tensorrt", ["1 slow", "MatMul 'scores'", "the head has 17 channels. Pad it"]),
        ("manifest", ["gpusq compile 'my model.onnx'", "python 3.11.7", "ab" * 32, "ef" * 32]),
        (
            "manifest",
            ["Linux, x86_64, 2 cores", "on cpu, threads: 1", "12.3 s", "129 held out"],
        ),
        ("manifest", ["with labels", 'use = "prune"']),
    ],
)
def test_what_the_json_says_is_on_the_page(section: str, texts: list[str]) -> None:
    found = drawn().section(section)
    for text in texts:
        assert text in found, f"{text!r} is not in {found!r}"


def test_a_page_is_a_function_of_its_json() -> None:
    report = reports.whole()
    before = json.dumps(report)
    assert page.draw(report) == page.draw(json.loads(before))
    assert json.dumps(report) == before


def spoil(value: Any) -> None:
    """Replace every text in a report; keys stay as they are."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        if isinstance(item, str):
            value[key] = HOSTILE
        elif isinstance(item, dict | list):
            spoil(item)


def test_no_text_of_a_report_becomes_markup() -> None:
    report = reports.whole()
    spoil(report)
    report["passes"][2]["tables"]["tensors"][0]["kind"] = "activation"
    report["passes"][2]["histograms"] = {HOSTILE: reports.HISTOGRAM}
    report["passes"][3]["series"][HOSTILE] = [1.0, 2.0]
    report["quality"]["after"][HOSTILE] = 0.5
    text = page.draw(report)
    assert "\x00" not in text
    text.encode()
    found = Page(text)
    assert not {"script", "img"} & {tag.name for tag in found.tags}
    assert not any(name.startswith("on") for tag in found.tags for name in tag.attributes)
    seen = HOSTILE.replace("\x00", "�").replace("\ud800", "�")
    for section in ("figures", "passes", "layers", "ranges", "left-alone", "manifest"):
        assert " ".join(seen.split()) in found.section(section)


def test_nothing_is_fetched() -> None:
    text = page.draw(reports.whole())
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag.name for tag in found.tags}
    for tag in found.tags:
        assert not {"src", "srcset", "data", "xlink:href", "action"} & tag.attributes.keys()
        assert (tag.attributes.get("href") or "#").startswith("#")
    assert not re.search(r"https?:|//\w|url\(|@import", text)
    policy = [tag.attributes for tag in found.all("meta") if "http-equiv" in tag.attributes]
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_charts_and_tables_speak_to_a_screen_reader() -> None:
    found = drawn()
    charts = [tag for tag in found.all("svg") if tag.attributes.get("aria-hidden") != "true"]
    # metric, loss, one term, layers, two histograms, size, two latencies
    assert len(charts) == 9
    for chart in charts:
        assert chart.attributes["role"] == "img"
        assert re.search(r"\d", chart.attributes["aria-label"] or "")
        assert chart.text.startswith(chart.attributes["aria-label"] or "?")
    assert len(found.all("caption")) == len(found.all("table")) >= 6
    assert {tag.attributes.get("scope") for tag in found.all("th")} == {"row", "col"}
    frames = [t for t in found.all("div") if t.attributes.get("class") == "scroll"]
    assert len(frames) == len(found.all("table"))
    assert all(frame.attributes["tabindex"] == "0" for frame in frames)
    names = [tag.attributes["id"] for tag in found.tags if "id" in tag.attributes]
    assert len(names) == len(set(names))
    for tag in found.tags:
        assert tag.attributes.get("aria-labelledby", names[0]) in names
    assert [tag.attributes["lang"] for tag in found.all("html")] == ["en"]
    assert len(found.all("h1")) == 1


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def palettes() -> list[dict[str, str]]:
    """Colours in light, in dark and on paper."""
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    found = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in blocks]
    assert len(found) == 3
    return [
        {k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:]) for k, v in p.items()}
        for p in found
    ]


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark", "paper"])
@pytest.mark.parametrize("ground", ["card", "paper"])
def test_contrast(palette: dict[str, str], ground: str) -> None:
    """WCAG AA: 4.5 for text, 3 for what charts are made of."""
    wanted = {"ink": 4.5, "soft": 4.5, "main": 4.5, "good": 4.5, "bad": 4.5}
    wanted |= {"dense": 3.0, "second": 3.0}
    below = luminance(palette[ground])
    for name, least in wanted.items():
        above = luminance(palette[name])
        ratio = (max(above, below) + 0.05) / (min(above, below) + 0.05)
        assert ratio >= least, f"{name} on {ground}: {ratio:.2f}"


def test_dark_narrow_and_paper_have_their_own_rules() -> None:
    for query in ("(prefers-color-scheme: dark)", "(max-width: 40rem)", "print"):
        assert f"@media {query}" in CSS
    named = set(re.findall(r"var\(--(\w+)\)", CSS))
    assert named == palettes()[0].keys() == palettes()[1].keys()


@pytest.mark.parametrize(
    ("changes", "gone", "says"),
    [
        ({"quality": None}, set(), ("figures", "No metric was taken")),
        ({"latencies": []}, set(), ("costs", "800.0 kB")),
        ({"layers": None}, {"layers"}, ("figures", "2.50×")),  # noqa: RUF001
        ({"lint": None}, {"tensorrt"}, ("figures", "not measured")),
        ({"passes": []}, {"training", "ranges"}, ("left-alone", "Nothing")),
        ({"manifest": None, "facts": None}, set(), ("figures", "an old one")),
    ],
)
def test_parts_may_be_missing(
    changes: dict[str, Any], gone: set[str], says: tuple[str, str]
) -> None:
    found = drawn(reports.whole(**changes))
    assert found.sections == [name for name in ALL if name not in gone]
    assert says[1] in found.section(says[0])


def test_a_report_of_the_first_version_is_drawn() -> None:
    """Its keys, and what its passes had."""
    old = reports.whole()
    for key in ("facts", "layers", "lint", "manifest", "engine"):
        del old[key]
    for step in old["passes"]:
        del step["histograms"], step["peak_memory"]
        step["tables"].pop("looks", None)
        for row in step["tables"].get("tensors", []):
            for key in ("scale_min", "scale_median", "clip", "clipped"):
                del row[key]
    found = drawn(old)
    assert found.sections == [n for n in ALL if n not in {"layers", "tensorrt"}]
    assert "95.00 %" in found.section("passes")
    assert "0.03" in found.section("ranges")


def test_unverified_is_said_twice() -> None:
    quality = {**reports.WHOLE["quality"], "verified": False, "metric": "cosine"}
    quality["measured_on"] = "synthesised inputs"
    text = drawn(reports.whole(quality=quality)).section("figures")
    assert "cosine, unverified" in text
    assert "cosine is unverified: the inputs were synthesised. Give --data" in text


def test_held_out_samples_are_no_eval_data() -> None:
    quality = {**reports.WHOLE["quality"], "measured_on": "held-out"}
    found = drawn(reports.whole(quality=quality)).section("figures")
    assert "nothing was fitted to them; they chose the best iterate" in found
    passes = reports.WHOLE["passes"][:3]
    found = drawn(reports.whole(quality=quality, passes=passes)).section("figures")
    assert "nothing was fitted to them" in found
    assert "best iterate" not in found


def test_a_layer_without_error_is_exact_and_one_not_measured_is_not() -> None:
    same = {"weight_error": 0.0, "weight_sqnr": None}
    missing = ("weight_error", "weight_sqnr", "output_cosine", "output_sqnr")
    rows = [
        reports.layer("same", **same, output_cosine=1.0, output_sqnr=None),
        reports.layer("unknown", **dict.fromkeys(missing)),
    ]
    table = {"measured_on": None, "samples": 0, "rows": rows}
    found = drawn(reports.whole(layers=table))
    cells = [tag.text for tag in found.all("tr") if tag.text.startswith(("same", "unknown"))]
    assert [cell.count("exact") for cell in cells] == [2, 0]
    assert "Outputs were not compared" in found.section("layers")


def test_an_engine_is_shown_with_its_evidence() -> None:
    product = Layer(
        name="fc1", operator="MatMul", shape=(64, 192), reads="int8", writes="int8",
        eligible=True, chosen=True, tactic="sparse_imma",
    )  # fmt: skip
    unknown = dataclasses.replace(product, name="fc2", chosen=None, tactic="", reason="silent")
    info = EngineInfo(
        path=Path("m.engine"), model=Path("m.onnx"), size=1_500_000, seconds=3.5,
        tensorrt="TensorRT 10.9", device="A GPU", capability="8.9", typed=True, flags=(),
        profiles=(), layers=(),
        evidence=Evidence(basis=MEASURED, layers=(product, unknown)),
    )  # fmt: skip
    engine = json.loads(json.dumps(info.as_json()))
    found = drawn(reports.whole(engine=engine))
    text = found.section("engine")
    for said in ("1 of 2 layers, of 1 it is not known", "1.50 MB", "TensorRT 10.9", "A GPU"):
        assert said in text
    assert "MatMul 64x192" in text
    assert "sparse_imma" in text
    assert "sparse kernels for 1 of 2" in found.section("figures")
    assert "not measured" not in found.section("figures")


def test_five_hundred_layers_make_a_page_of_a_few_megabytes() -> None:
    names = [f"/encoder/layer.{i}/attention/self/query/MatMul_output_0" for i in range(1000)]
    report = reports.whole()
    report["layers"]["rows"] = [reports.layer(name) for name in names[:500]]
    histogram = {**reports.HISTOGRAM, "shares": [1 / 40] * 40}
    report["passes"][2]["tables"]["tensors"] = [reports.activation(name) for name in names]
    report["passes"][2]["histograms"] = dict.fromkeys(names, histogram)
    finding = {"rule": "stem", "where": names[0], "reason": "it sees the input"}
    report["passes"][1]["left_alone"] = [finding] * 500
    series = report["passes"][3]["series"]
    for name in ("loss", "soft-logits"):
        series[name] = [1 / (step + 1) for step in range(20_000)]
    text = page.draw(report)
    assert len(text) < 3e6
    found = Page(text)
    assert len(found.all("svg")) > 1000
    assert "Show all" in found.section("left-alone")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ([], "report: is list, not an object"),
        ("text", "report: is str, not an object"),
        ({}, "report: holds no report"),
        ({"format": 1}, "report: holds no report"),
        ({"format": "1", "passes": []}, "format: is str, not a number"),
        ({"format": 2, "passes": []}, "report: has format 2, newer than 1"),
        ({"format": 1, "passes": [3]}, "passes[0]: is int, not an object"),
        ({"format": 1, "passes": {}}, "passes: is dict, not a list"),
        ({"format": 1, "passes": [], "source": 1}, "source: is int, not an object"),
        ({"format": 1, "passes": [], "recipe": 1}, "recipe: is int, not text"),
        ({"format": 1, "passes": [], "facts": [1]}, "facts[0]: is int, not text"),
        (
            {"format": 1, "passes": [], "quality": {"after": {"dense": True}}},
            "quality.after.dense: is bool, not a number",
        ),
        (
            {"format": 1, "passes": [], "data": {"labels": "yes"}},
            "data.labels: is str, not true or false",
        ),
    ],
)
def test_what_is_no_report_is_one_line(broken: object, says: str) -> None:
    with pytest.raises(ReportError) as caught:
        page.draw(broken)
    assert str(caught.value).startswith(says)
    assert caught.value.remedy


def test_numbers_that_are_none_are_a_dash() -> None:
    report = reports.whole()
    report["layers"]["rows"][1]["output_sqnr"] = float("nan")
    report["layers"]["rows"][1]["output_cosine"] = None
    report["source"]["bytes"] = None
    found = drawn(report)
    assert "– smaller" in found.section("figures")  # noqa: RUF001
    assert "nan" not in found.section("layers")


def test_what_the_page_needs_is_package_data() -> None:
    root = Path(page.__file__).parents[1]
    settings = tomlkit.parse((root.parent / "pyproject.toml").read_text()).unwrap()
    patterns = settings["tool"]["setuptools"]["package-data"]["gpusq_compiler"]
    listed = {path for pattern in patterns for path in root.glob(pattern)}
    files = (path for path in root.rglob("*") if path.is_file())
    assert {p for p in files if p.suffix not in {".py", ".pyc"}} == listed

"""Pages that are made from the code are current, and nothing that it says lacks a place."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import re
from typing import TYPE_CHECKING, Any, cast

import pytest

from docs import make
from docs.make import api, commands, messages, passes, prose
from docs.make.components import PLACES
from gpusq_compiler import errors
from gpusq_compiler.cli import gpusq
from gpusq_compiler.passes import options, registry
from gpusq_compiler.trt.legality.legal import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = make.files()
PAGES = {path.relative_to(make.DOCS).as_posix(): text for path, text in FILES.items()}
RULED = ("passes", "quant/placement", "trt/half/wide.py")
"""Where findings are made that say what a pass left alone."""


@pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(make.DOCS).as_posix()
)
def test_what_is_made_is_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path], "type: python -m docs.make"


@pytest.mark.parametrize("folder", ["commands", "passes", "pictures"])
def test_nothing_is_left_of_what_is_gone(folder: str) -> None:
    there = {path for path in (make.DOCS / folder).iterdir() if path.is_file()}
    assert there == {path for path in FILES if path.parent.name == folder}


def test_every_pass_and_command_has_its_page() -> None:
    assert {f"passes/{name}.md" for name in registry.PASSES} < set(PAGES)
    assert set(gpusq.commands) == set(commands.MORE)
    assert set(registry.PASSES) == set(passes.HELPERS)
    for module in {one for modules in passes.HELPERS.values() for one in modules}:
        assert importlib.util.find_spec(f"gpusq_compiler.{module}") is not None
    assert set(registry.COMPONENTS) == set(PLACES)
    for name in registry.PASSES:
        for part in ("facts", "options", "errors"):
            assert f"<!-- made: {name}-{part} -->" in PAGES[f"passes/{name}.md"]


def test_every_option_is_explained() -> None:
    things = [registry.find(name) for name in registry.PASSES]
    kinds = ((kind, name) for kind, names in registry.COMPONENTS.items() for name in names)
    for thing in (*things, *(registry.find_component(*one) for one in kinds)):
        for one in options.options_of(thing):
            assert one.help, f"{thing.__name__}.{one.name} has no meaning"
    for command in gpusq.commands.values():
        for row in passes_rows(commands.pages()[f"commands/{command.name}.md"]):
            assert row[1].strip(), f"{command.name} {row[0]} has no help"


def passes_rows(page: str) -> list[list[str]]:
    """The rows of options of a page."""
    return [line.strip("|").split(" | ") for line in page.splitlines() if line[:4] == "| `-"]


def rules(tree: ast.AST) -> Iterator[str]:
    """Names of rules as code writes them: rule="...", or what a helper named _left gets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "rule":
            yield from strings(node.value)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"_left", "_named"}:
            yield from strings(node.args[1])
        if isinstance(node, ast.Tuple) and len(node.elts) == 3:
            asked = ast.Call | ast.Compare | ast.Attribute | ast.BoolOp
            yield from strings(node.elts[0]) if isinstance(node.elts[1], asked) else ()


def strings(node: ast.AST) -> list[str]:
    return (
        [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
    )


def test_every_rule_has_a_line_on_the_page_of_its_pass() -> None:
    found = set()
    for place in RULED:
        root = messages.PACKAGE / place
        for path in [root] if root.is_file() else root.glob("*.py"):
            if path.name != "facts.py":  # they tell what breaks a claim, never what is left
                found |= set(rules(ast.parse(path.read_text(encoding="utf-8"))))
    assert {"depthwise", "no-gradient", "small", "float-attention", "large"} < found
    told = "".join(text for name, text in PAGES.items() if name.startswith("passes/"))
    placing = (make.DOCS / "placement.md").read_text(encoding="utf-8")
    missing = {one for one in found if f"`{one}`" not in told + placing}
    assert missing == {"native"}  # what the author of a half precision model chose: not listed


def test_the_rules_of_tensorrt_are_told() -> None:
    for rule in RULES:
        assert f"| `{rule.name}` | " in PAGES["lint.md"]


def test_every_error_is_told() -> None:
    page = PAGES["messages.md"]
    for name, kind in messages.CLASSES.items():
        if kind is not errors.GpusqError:
            assert f"### {name}\n" in page
            assert kind.exit_code in messages.CODES
    assert len(messages.raised()) > 200
    assert "| is not TOML: … | Correct that line |" in page


def test_errors_are_read_as_they_are_raised(tmp_path: Path) -> None:
    folder = tmp_path / "gpusq_compiler"
    folder.mkdir()
    file = folder / "x.py"
    file.write_text(
        'HINT = "Type more"\n'
        "def f(n, text):\n"
        '    raise ModelError(f"has {n} of {text!r}", where=text, remedy=HINT)\n'
        'e = DataError("is a" if e else "is b", remedy=f"{HINT}, or less")\n'
        "raise OptionError(error.what) from error\n"
        'raise ValueError("not ours")\n'
    )
    found = messages.messages(file, root=folder)
    assert sorted((one.kind, one.what, one.remedy, one.module) for one in found) == [
        ("DataError", "is a; or: is b", "Type more, or less", "x"),
        ("ModelError", "has … of …", "Type more", "x"),
    ]


def entries() -> list[str]:
    """The first cells of the tables of errors in troubleshooting."""
    text = (make.DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    tables = re.findall(r"\| error \| why .*\n\|.*\n((?:\|.*\n)+)", text)
    return [
        line.split(" | ")[0].removeprefix("| ")
        for part in tables
        for line in part.splitlines()
    ]


def pattern(words: str) -> str:
    """A text with gaps as an expression."""
    return ".*".join(re.escape(part) for part in words.split(messages.GAP))


@pytest.mark.parametrize("entry", entries())
def test_what_troubleshooting_tells_is_what_the_code_says(entry: str) -> None:
    foreign = {"not a valid ONNX model: …"}  # soundness.complaint gives it away as a text
    told = [one.what for one in messages.raised()]
    assert entry in foreign or any(re.match(pattern(entry), one) for one in told)


def test_troubleshooting_has_every_kind_of_error_and_every_exit_code() -> None:
    seen = {
        one.kind
        for entry in entries()
        for one in messages.raised()
        if re.match(pattern(entry), one.what)
    }
    bugs = {"PassBug", "PostconditionError", "GpusqError"}  # nothing that a user can do about
    assert set(messages.CLASSES) - seen <= bugs
    assert len(entries()) >= 40
    text = (make.DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert all(f"\n| {code} | " in text for code in (0, *messages.CODES, 130))


def test_docstrings_become_markdown() -> None:
    doc = "Do ``it``.\n\n    a = b\n\nArgs:\n    x: First\n        and more.\n    y: Second.\n"
    assert prose.markdown(doc) == (
        "Do `it`.\n\n```text\na = b\n```\n\n**Args**\n\n- `x`: First and more.\n- `y`: Second."
    )


def test_cells_are_safe() -> None:
    row = make.table(("a",), [("./<stem> `a<b|c`",)]).splitlines()[2]
    assert row == "| ./&lt;stem> `a<b\\|c` |"


def test_the_python_page_has_every_public_name() -> None:
    for _, path, _ in api.names():
        assert (
            f"from {path.rpartition('.')[0]} import {path.rpartition('.')[2]}\n"
            in PAGES["api.md"]
        )


@pytest.mark.parametrize(("path", "thing"), [one[1:] for one in api.names()])
def test_help_explains_every_parameter(path: str, thing: object) -> None:
    doc = inspect.getdoc(thing) or ""
    first = doc.splitlines()[0]
    assert first[0].isupper()
    assert first[-1] in ".:"
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        wanted = list(signature.parameters)
        answers = any(f"{word}:" in doc for word in ("Returns", "Yields"))
        assert answers == (signature.return_annotation != "None")
    else:
        known = dataclasses.is_dataclass(thing)
        fields = dataclasses.fields(cast("Any", thing)) if known else ()
        wanted = [one.name for one in fields]
    lacking = [name for name in wanted if not re.search(rf"^ +{name}: ", doc, re.MULTILINE)]
    assert not lacking


def test_help_of_every_pass_tells_more_than_its_name() -> None:
    for name in registry.PASSES:
        step = registry.find(name)
        doc = " ".join((inspect.getdoc(step) or "").split())
        if options.options_of(step):
            assert f"``gpusq passes show {name}`` explains the options." in doc

"""docs/look.md: its commands run, and it names every key of the JSON."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpusq_compiler.passes.prune import Prune, ineligible
from tests import shell

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[1] / "docs" / "look.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^gpusq.*$", PAGE, re.MULTILINE)
JSON = PAGE.partition("## JSON")[2]
FREE = {
    "options",
    "opsets",
    "operators",
    "functions",
    "metadata",
    "runs_in",
    "facts",
    "counts",
}
"""Keys whose own keys are names of the model or of passes."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models").symlink_to(shell.ROOT / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keys(found: Any) -> Iterator[str]:
    """All keys of a document, at any depth."""
    if isinstance(found, list):
        for one in found:
            yield from keys(one)
    if isinstance(found, dict):
        for key, value in found.items():
            yield key
            if key not in FREE:
                yield from keys(value)


def documented(verb: str) -> set[str]:
    """The keys that the page names for a verb; findings are those of lint."""
    verbs = (verb, "lint") if verb == "inspect" else (verb,)
    sections = (JSON.partition(f"`{one}`:")[2].partition("\n\n`")[0] for one in verbs)
    words = {word for section in sections for word in re.findall(r"`(\w+)`", section)}
    return words | {"format", "model", "first", "second"}


@pytest.mark.training
def test_the_commands_run_and_their_json_is_documented(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert len(COMMANDS) == 9
    for line in COMMANDS:
        program, *words = shlex.split(line)
        verb = "compile" if program == "gpusq-compile" else words.pop(0)
        out = shell.good(*words, verb=verb, capture=capfd)
        assert out
        if "--json" in words:
            assert set(keys(json.loads(out))) <= documented(verb), verb
    for verb in ("check", "lint"):
        out = shell.good("vit_digits.gpusq.onnx", "--json", verb=verb, capture=capfd)
        assert set(keys(json.loads(out))) <= documented(verb), verb


def test_the_rules_of_the_page_are_those_of_prune() -> None:
    (line,) = [one for one in PAGE.splitlines() if one.startswith("The rules that say no")]
    named = set(re.findall(r"`([a-z0-9-]+)`", line)) - {"prune", "include", "exclude"}
    code = Path(ineligible.__code__.co_filename).read_text(encoding="utf-8")
    body = code.partition("def ineligible")[2].partition("\n\n\n")[0]
    rules = set(re.findall(r'"([a-z-]+)",\s', body)) | set(
        re.findall(r'rule="([a-z-]+)"', body)
    )
    assert rules | {"k-not-multiple-of-4", "unknown-layer"} == named
    assert Prune().pattern == "2:4"

"""The code blocks of README, docs and the other pages, and a folder in which they run.

Every block of ``sh`` or ``python`` runs as it stands there, one page in one folder, from top
to bottom. HTML comments right before a block, which readers do not see, say what differs:

    <!-- slow -->                     takes half a minute or so: runs with ``pytest -m slow``
    <!-- needs: tensorrt-rtx -->      runs where that is installed; or: needs: gpu
    <!-- in tests: --steps 4 -->      is added to every line that compiles and trains
    <!-- in tests: 3 for 300 -->      stands in its place; semicolons part several of either
    <!-- exit: 5 -->                  the exit code of its last line
    <!-- not run: installs packages -->   and why
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
import shutil
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from PIL import Image

from gpusq_compiler.ir import io
from tests import shell

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

ROOT = shell.ROOT
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "models/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(
    r"^(?P<tags>(?:<!-- [^\n]* -->\n)*)```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
TAG = re.compile(r"^<!-- (slow|needs|in tests|exit|not run)(?:: (.*))? -->$", re.MULTILINE)
NEEDS = {"tensorrt-rtx": "tensorrt_rtx", "gpu": "tensorrt"}
TRAINS = ("qat", "distill", "sparse-int8", "gpusq-vit")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block.

    Attributes:
        language: As its fence says.
        text: Without the fence.
        line: Of the page, where the text starts.
        tags: What the comments before it say, by their first word.
    """

    language: str
    text: str
    line: int
    tags: dict[str, str]

    @property
    def runs(self) -> bool:
        """Whether it is code that a test may run."""
        return self.language in {"sh", "python"} and "not run" not in self.tags

    @property
    def group(self) -> str:
        """``fast``, ``slow``, or what it needs."""
        return self.tags.get("needs") or ("slow" if "slow" in self.tags else "fast")

    def belongs(self, group: str) -> bool:
        """Whether it runs with a group: with its own, or with all where it is quick."""
        here = self.group in NEEDS and not missing(self.group)
        return self.runs and (here or self.group in {"fast", group})

    @property
    def trains(self) -> bool:
        """Whether it needs a runtime that trains."""
        return any(word in self.text for word in TRAINS)


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            language=found["language"],
            text=found["text"],
            line=text.count("\n", 0, found.start("text")) + 1,
            tags={word: rest or "" for word, rest in TAG.findall(found["tags"])},
        )
        for found in BLOCK.finditer(text)
    ]


def groups(page: Path) -> list[str]:
    """What is run or skipped as one test: ``fast``, ``slow`` and what is missing here.

    What is needed and there runs among the fast blocks, which every group runs.
    """
    found = {block.group for block in blocks(page) if block.runs}
    return sorted(group for group in found if group not in NEEDS or missing(group))


def missing(group: str) -> str:
    """What keeps a group from running here; empty if nothing does."""
    if group == "gpu" and shutil.which("nvidia-smi") is None:
        return "needs an NVIDIA GPU"
    module = NEEDS.get(group)
    if module is not None and importlib.util.find_spec(module) is None:
        return f"needs {module}"
    return ""


def furnish(folder: Path) -> None:
    """What pages take for granted: a model, samples, photos, and the repository's models."""
    (folder / "models").symlink_to(ROOT / "models")
    _model(folder / "model.onnx")
    rng = np.random.default_rng(1)
    count = 48
    images = rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "samples.npz", x=images, labels=np.arange(count) % 4)
    for index in range(count):
        place = folder / "photos" / "abcd"[index % 4]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.png")


def _model(path: Path) -> None:
    """A small network of images in four classes with the names that the pages use."""
    rng = np.random.default_rng(0)
    weights = {
        "stem": rng.normal(0, 0.2, (16, 3, 3, 3)),
        "conv": rng.normal(0, 0.1, (32, 16, 3, 3)),
        "fc": rng.normal(0, 0.2, (32, 4)),
    }
    net = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        "net (float[batch, 3, 8, 8] x) => (float[batch, 4] y) {\n"
        "  s = Conv<pads = [1, 1, 1, 1]>(x, stem)  a = Relu(s)\n"
        "  c = Conv<pads = [1, 1, 1, 1]>(a, conv)  b = Relu(c)\n"
        "  p = GlobalAveragePool(b)  f = Flatten(p)  y = MatMul(f, fc)\n}",
        initializers=[ir.tensor(w.astype(np.float32), name=n) for n, w in weights.items()],
    )
    for node in net.graph:
        node.name = "head" if node.op_type == "MatMul" else f"{node.outputs[0].name}_node"
    io.save(net, path)


def run(block: Block, capture: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run a block in the working folder; Python gives back its names."""
    if block.language == "python":
        return execute(block.text)
    last = int(block.tags.get("exit", 0))
    lines = list(commands(_shortened(block)))
    for number, words in enumerate(lines):
        outcome = _call(words, capture)
        wanted = last if number == len(lines) - 1 else 0
        assert outcome.code == wanted, f"line {block.line}: {shlex.join(words)}\n{outcome.err}"
    return {}


def execute(text: str) -> dict[str, Any]:
    """The names that a Python block leaves."""
    page = types.ModuleType("page")
    sys.modules["page"] = page  # dataclasses look their module up
    exec(compile(text, "page", "exec", dont_inherit=True), vars(page))
    return vars(page)


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a block, word by word; quotes may span lines."""
    pending = ""
    for line in text.splitlines(keepends=True):
        pending += line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quote is still open
            continue
        pending = ""
        if words:
            yield words
    assert not pending, f"a quote is not closed: {pending}"


def _shortened(block: Block) -> str:
    """The text with what tests have in place of long runs."""
    text = block.text
    for change in filter(None, block.tags.get("in tests", "").split("; ")):
        theirs, between, ours = change.partition(" for ")
        if between:
            assert ours in text, f"line {block.line}: '{ours}' does not stand in the block"
            text = text.replace(ours, theirs)
        else:
            lines = (_with(line, change) for line in text.splitlines(keepends=True))
            text = "".join(lines)
    return text


def _with(line: str, options: str) -> str:
    """A line that compiles and trains, with options; steps and a budget exclude each other."""
    trains = line.startswith("gpusq-compile") and any(word in line for word in TRAINS)
    if not trains or "--budget" in line:
        return line
    return line.replace("gpusq-compile", f"gpusq-compile {options}", 1)


def _call(words: list[str], capture: pytest.CaptureFixture[str]) -> shell.Outcome:
    program, *rest = words
    if program == "gpusq-compile":
        return shell.call(rest, capture)
    if program == "gpusq":
        return shell.call(rest[1:], capture, rest[0])
    assert program == "python", f"'{program}' is no program of ours: say why it is not run"
    return shell.spawn([sys.executable, *rest], Path.cwd())

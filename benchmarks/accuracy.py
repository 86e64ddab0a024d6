"""Accuracy of every way to a sparse INT8 file, on the models that this repository trains.

usage: python -m benchmarks.accuracy [--only MODEL] [--seeds 1 2 3] [--way WAY] [--threads N]
                                     [--again] [--write]

One cell is one compile; it leaves one JSON file in benchmarks/results/accuracy, and a cell
that is there is not run again. Every call writes docs/accuracy.md anew from all cells that are
there; what was not run stays empty.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import pages
from gpusq_compiler import compile_model
from gpusq_compiler.manifest import versions
from gpusq_compiler.recipe import Overrides
from models.tasks import disturbed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

ROOT = Path(__file__).parent.parent
CELLS = ROOT / "benchmarks" / "results" / "accuracy"
PAGE = ROOT / "docs" / "accuracy.md"
COMMAND = "python -m benchmarks.accuracy"
TRAINED = ("magnitude", "wanda", "sparsegpt")
SCORES = (*TRAINED, "taylor")
FEW_SAMPLES, FEW_MINUTES = 128, 2.0
PARTS = ("train", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A model with its data.

    Attributes:
        model: File name without ending.
        data: Folder of its train.npz and test.npz.
        labels: Whether training sees the labels; the figure always uses those of the test.
        steps: Of training in all, so that a run takes about a minute on two cores.
        metric: In which the figure is given.
        copies: Of every sample, disturbed as in the dense model's training, beside itself.
    """

    model: str
    data: str
    steps: int
    labels: bool = False
    metric: str = "accuracy"
    copies: int = 0

    @property
    def title(self) -> str:
        """As the table calls it."""
        return f"{self.model}, labels" if self.labels else self.model

    def shown(self, figure: float) -> str:
        """A figure in per cent or decibel."""
        return f"{figure:.2f}" if self.metric == "psnr" else f"{100 * figure:.1f}"


COLUMNS = (
    Column(model="vit_digits", data="digits", steps=500, copies=10, labels=True),
    Column(model="vit_digits", data="digits", steps=500, copies=10),
    Column(model="resnet_digits", data="digits", steps=500, copies=10),
    Column(model="sr_photos", data="sr_photos", steps=200, metric="psnr"),
    Column(model="text_python", data="text_python", steps=50),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """One way from the dense file to the sparse INT8 one.

    Attributes:
        passes: As on the command line.
        options: As with ``--set``.
        stages: Which passes train, and share the steps.
        target: As on the command line.
        few: The user with few samples and little time.
    """

    passes: str = "prune,qat"
    options: tuple[str, ...] = ()
    stages: tuple[str, ...] = ("qat",)
    target: str = "onnxruntime"
    few: bool = False


WAYS: Mapping[str, Way] = {
    **{score: Way(options=(f"prune.score={score}",)) for score in TRAINED},
    "taylor": Way(passes="prune,quantize", options=("prune.score=taylor",), stages=()),
    "tensorrt": Way(options=("prune.score=sparsegpt",), target="tensorrt"),
    "full": Way(
        passes="prune,distill,qat",
        options=("prune.score=sparsegpt",),
        stages=("distill", "qat"),
    ),
    "full, w_i off": Way(
        passes="prune,distill,qat",
        options=("prune.score=sparsegpt", "qat.weight_factor=off"),
        stages=("distill", "qat"),
    ),
    "few": Way(few=True),
}
CRAFT: Mapping[str, Way] = {
    "end to end only": Way(options=("qat.blockwise=0",)),
    "averaged weights": Way(options=("qat.averaging=0.99",)),
    "clipped gradients": Way(options=("qat.clip_norm=1.0",)),
    "features by direction": Way(
        options=("qat.losses=hard-label,soft-logits,output-error,feature-cosine",)
    ),
    "features by attention": Way(
        options=("qat.losses=hard-label,soft-logits,output-error,attention-transfer",)
    ),
}
"""What training could do otherwise, on the default way; seed 1, without labels."""


def arrays(
    column: Column, part: str, *, labels: bool, most: int | None = None
) -> dict[str, Any]:
    """The samples of a column; integers as the model wants them."""
    with np.load(ROOT / "models" / column.data / f"{part}.npz") as stored:
        samples = dict(stored)
    if column.copies:
        rng = np.random.default_rng(PARTS.index(part))
        more = disturbed(samples, column.copies, rng)
        order = rng.permutation(len(more["labels"]) + len(samples["labels"]))
        samples = {k: np.concatenate([v, more[k]])[order] for k, v in samples.items()}
    return {k: v[:most] for k, v in samples.items() if labels or k != "labels"}


def cell(column: Column, way: Way, seed: int, threads: int | None) -> dict[str, Any]:
    """One compile: the figure after every pass, and the seconds it took."""
    share = column.steps // max(1, len(way.stages))
    steps = () if way.few else tuple(f"{stage}.steps={share}" for stage in way.stages)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = compile_model(
            ROOT / "models" / f"{column.model}.onnx",
            passes=way.passes,
            overrides=Overrides(settings=(*way.options, *steps)),
            data=arrays(
                column, "train", labels=column.labels, most=FEW_SAMPLES if way.few else None
            ),
            eval_data=arrays(column, "test", labels=True),
            metric=column.metric,
            target=way.target,
            budget=FEW_MINUTES if way.few else None,
            seed=seed,
            threads=threads,
            out=Path(folder) / "out.onnx",
            workdir=Path(folder) / "work",
        )
    assert report.quality is not None
    return {
        "after": dict(report.quality.after),
        "seconds": round(time.perf_counter() - started, 1),
        "bytes": [report.source.bytes, report.output.bytes],
        "versions": versions(),
        "machine": f"{platform.machine()}, {threads or os.cpu_count()} threads",
    }


def file_of(column: Column, way: str, seed: int) -> Path:
    """Where a cell is kept."""
    name = f"{column.title} {way} {seed}".replace(", ", "-").replace(" ", "-")
    return CELLS / f"{name}.json"


def main() -> None:
    """Run what is asked and not there yet; write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=sorted({c.model for c in COLUMNS}))
    parser.add_argument("--way", action="append", choices=WAYS | CRAFT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--threads", type=int, help="of a run; 1 lets two runs go side by side"
    )
    parser.add_argument("--again", action="store_true", help="run cells that are there, too")
    parser.add_argument("--write", action="store_true", help="only write the page")
    asked = parser.parse_args()
    CELLS.mkdir(parents=True, exist_ok=True)
    for column, way, seed in [] if asked.write else wanted(asked):
        file = file_of(column, way, seed)
        if asked.again or not file.exists():
            found = cell(column, (WAYS | CRAFT)[way], seed, asked.threads)
            file.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{file.stem}: {found['seconds']} s, {found['after']}", flush=True)
    write()


def wanted(asked: argparse.Namespace) -> Iterator[tuple[Column, str, int]]:
    """The cells that were asked for, seed by seed."""
    for seed in asked.seeds:
        for way in asked.way or WAYS | CRAFT:
            for column in COLUMNS:
                once = way in CRAFT or WAYS[way].few
                if once and (column.labels or seed > 1):
                    continue
                if not asked.only or column.model in asked.only:
                    yield column, way, seed


def figures(column: Column, way: str, stage: str, seeds: str) -> list[float]:
    """What was measured after a pass, one per seed that was run."""
    pattern = file_of(column, way, 0).name.replace("-0.json", f"-{seeds}.json")
    files = sorted(CELLS.glob(pattern))
    found = [json.loads(file.read_text())["after"] for file in files]
    return [float(after[stage]) for after in found if stage in after]


def rows() -> Iterator[tuple[str, str, str]]:
    """Title, way and pass after which the figure is taken."""
    yield "dense", "sparsegpt", "dense"
    for score in SCORES:
        yield score, score, "prune"
        yield f"{score} + quantize", score, "quantize"
        if "qat" in WAYS[score].passes:
            yield f"{score} + qat", score, "freeze"
    yield "sparsegpt + qat, `--target tensorrt`", "tensorrt", "freeze"
    yield "sparsegpt + distill", "full", "distill"
    yield "full recipe", "full", "freeze"
    yield "full recipe, w_i off", "full, w_i off", "freeze"
    yield f"{FEW_SAMPLES} samples, one-shot", "few", "quantize"
    yield f"{FEW_SAMPLES} samples, {FEW_MINUTES:.0f} minutes", "few", "freeze"


def craft_rows() -> Iterator[tuple[str, str, str]]:
    """The same for the table of what training could do otherwise."""
    yield "default", "sparsegpt", "freeze"
    for way in CRAFT:
        yield way, way, "freeze"


def text_of(column: Column, found: list[float]) -> str:
    """Mean over the seeds with their spread; empty where nothing was run."""
    if not found:
        return ""
    mean = column.shown(statistics.mean(found))
    if len(set(found)) == 1:
        return mean
    return f"{mean} ({column.shown(min(found))}-{column.shown(max(found))})"


def write() -> None:
    """The page of all cells that are there."""
    unlabelled = [column for column in COLUMNS if not column.labels]
    pages.fill(PAGE, "table", table(COLUMNS, rows()))
    pages.fill(PAGE, "craft", table(unlabelled, craft_rows(), seeds="1"))


def table(
    columns: Sequence[Column], lines_of: Iterable[tuple[str, str, str]], seeds: str = "[0-9]*"
) -> str:
    """Markdown: a row per way, a column per model."""
    head = " | ".join(column.title for column in columns)
    lines = [f"| | {head} |", "| --- " * (len(columns) + 1) + "|"]
    for title, way, stage in lines_of:
        cells = [text_of(column, figures(column, way, stage, seeds)) for column in columns]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()

"""The report of a compile: one object, as JSON for machines and as tables for people."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from gpusq_compiler.ir import io
from gpusq_compiler.passes import options
from gpusq_compiler.plain import plain
from gpusq_compiler.request import is_page, report_files
from gpusq_compiler.watch import DENSE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from rich.console import Console

    from gpusq_compiler.analysis.layers import Layer
    from gpusq_compiler.manifest import FileSummary, Manifest
    from gpusq_compiler.passes.pipeline import PassReport
    from gpusq_compiler.runtime.samples import Samples
    from gpusq_compiler.trt.legality.rules import Version
    from gpusq_compiler.watch import Latency

FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwinSummary:
    """A model that the result is compared with: its file, and the metric if there is one."""

    name: str
    file: FileSummary
    score: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSummary:
    """What the model was calibrated and trained on."""

    origin: str
    training: int
    held_out: int
    labels: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """One metric of the dense model, and after the passes that may have moved it.

    Attributes:
        metric: Its name.
        measured_on: ``eval-data``, ``held-out`` or ``synthesised inputs``.
        verified: False where the inputs are synthesised: then the figures prove nothing.
        after: Values by pass, ``dense`` first, in the order of the run: from the first lossy
            pass on, of each that changed something.
    """

    metric: str
    measured_on: str
    verified: bool
    after: Mapping[str, float]

    @property
    def dense(self) -> float:
        """Of the model as it was read."""
        return self.after[DENSE]

    @property
    def compressed(self) -> float:
        """Of the model as it was written."""
        return list(self.after.values())[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerTable:
    """Every layer beside the dense one.

    Attributes:
        measured_on: What outputs were compared on; None where they were not.
        samples: How many of them.
        rows: In graph order.
    """

    measured_on: str | None
    samples: int
    rows: Sequence[Layer]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LintFinding:
    """A place at which TensorRT refuses the model, or runs it in another way than wished."""

    rule: str
    severity: str
    where: str
    what: str
    remedy: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lint:
    """What a version of TensorRT makes of the model, as far as rules tell."""

    tensorrt: str
    findings: Sequence[LintFinding]

    @classmethod
    def of(cls, model: ir.Model, version: Version) -> Lint:
        """Hold a model against the rules of a version."""
        from gpusq_compiler.trt.legality.legal import lint

        return cls(
            tensorrt=str(version),
            findings=[
                LintFinding(
                    rule=found.rule.name,
                    severity=found.severity.value,
                    where=found.place.where,
                    what=found.place.what,
                    remedy=found.place.remedy or found.rule.remedy,
                )
                for found in lint(model, version)
            ],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileReport:
    """Everything about one compile.

    Attributes:
        source: The dense model.
        output: The compressed one.
        recipe: Canonical TOML that repeats the run.
        target: ``onnxruntime`` or ``tensorrt``.
        data: How many samples there were, and whether they were made up.
        quality: None where no metric could be taken.
        latencies: Measured on this machine, by batch size.
        steps: One report per pass: ``ran`` with its options, ``result``, ``seconds``.
        versions: Of the packages that took part.
        engine: What is known of the engine that was built of it; None where none was.
        twins: Dense and float models written beside the result.
        facts: What was verified on the values of the written model.
        layers: What became of each.
        lint: What TensorRT makes of it, where that is the target.
        manifest: What repeats the run.
    """

    source: FileSummary
    output: FileSummary
    recipe: str
    target: str
    data: DataSummary
    quality: Quality | None
    latencies: Sequence[Latency]
    steps: Sequence[PassReport]
    versions: Mapping[str, str]
    engine: Mapping[str, object] | None = None
    twins: Sequence[TwinSummary] = ()
    facts: Sequence[str] = ()
    layers: LayerTable | None = None
    lint: Lint | None = None
    manifest: Manifest | None = None

    def as_json(self) -> dict[str, object]:
        """Plain values; NaN becomes null."""
        found: dict[str, object] = {"format": FORMAT}
        for field in dataclasses.fields(self):
            if field.name != "steps":
                found[field.name] = plain(getattr(self, field.name))
        found["passes"] = [_pass_as_json(step) for step in self.steps]
        return found

    def write(self, path: Path) -> None:
        """Write the JSON form, and to a ``.html`` path the page with its JSON beside it.

        Each file is written whole or not at all; one that is there is replaced.

        Raises:
            FileError: One cannot be written.
        """
        data = json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n"
        for file in report_files(path):
            text = _page(data) if is_page(file) else data
            io.write_whole(file, text.encode(), option="--report")

    def show(self, console: Console | None = None, *, verbose: bool = False) -> None:
        """Print what a person wants to know, by default on stdout."""
        from rich.console import Console
        from rich.table import Table

        console = console or Console()
        table = Table(title=f"{self.source.path} → {self.output.path}", title_justify="left")
        for heading in ("", "dense", "compressed", ""):
            table.add_column(heading, justify="left" if not heading else "right")
        for row in self._rows():
            table.add_row(*row)
        console.print(table)
        self._show_passes(console, verbose=verbose)
        for twin in self.twins:
            score = "" if twin.score is None else f"{self.metric} {twin.score:.4f}, "
            size = f"{twin.file.bytes / 1e6:.3f} MB"
            line = f"  twin {twin.name}: {score}{size}, {twin.file.path}"
            console.print(line, highlight=False, markup=False)

    @property
    def metric(self) -> str:
        """Name of the metric, if there is one."""
        return "" if self.quality is None else self.quality.metric

    def _rows(self) -> list[tuple[str, str, str, str]]:
        before, after = self.source.bytes, self.output.bytes
        rows = [
            (
                "file",
                f"{before / 1e6:.3f} MB",
                f"{after / 1e6:.3f} MB",
                f"{before / after:.2f}x",
            )
        ]
        rows += [
            (
                f"latency, batch {found.batch}",
                f"{found.dense:.3f} ms",
                f"{found.compressed:.3f} ms",
                f"{found.dense / found.compressed:.2f}x",
            )
            for found in self.latencies
        ]
        if self.quality is not None:
            percent = self.quality.metric in {"accuracy", "topk"}
            form = "{:.2%}" if percent else "{:.4f}"
            rows.append(
                (
                    f"{self.quality.metric} ({self.quality.measured_on})",
                    form.format(self.quality.dense),
                    form.format(self.quality.compressed),
                    "" if self.quality.verified else "UNVERIFIED",
                )
            )
        return rows

    def _show_passes(self, console: Console, *, verbose: bool) -> None:
        from rich.table import Table

        table = Table(title="passes", title_justify="left")
        for heading in ("pass", "changed", "left alone", "seconds", "metric after"):
            table.add_column(heading, justify="left" if heading == "pass" else "right")
        after = self.quality.after if self.quality is not None else {}
        for step in self.steps:
            score = after.get(step.ran.name)
            table.add_row(
                step.ran.name,
                str(len(step.result.changed)),
                str(len(step.result.skipped)),
                f"{step.seconds:.1f}",
                "" if score is None else f"{score:.4f}",
            )
        console.print(table)
        findings = [
            (step.ran.name, found) for step in self.steps for found in step.result.skipped
        ]
        shown = findings if verbose else findings[:8]
        for name, finding in shown:
            console.print(f"  {name}: {finding}", highlight=False, markup=False)
        if len(findings) > len(shown):
            console.print(f"  and {len(findings) - len(shown)} more: see the report or use -v")


def _page(data: str) -> str:
    """The page of a report in its JSON form."""
    from gpusq_compiler import page

    return page.draw(json.loads(data))


def data_summary(
    data: Samples | None, held_out: Samples | None, *, made_up: bool
) -> DataSummary:
    """Describe what a compile worked on."""
    return DataSummary(
        origin="none" if data is None else "synthesised" if made_up else "given",
        training=data.count if data is not None else 0,
        held_out=held_out.count if held_out is not None else 0,
        labels=data is not None and data.has_labels,
    )


def _pass_as_json(step: PassReport) -> dict[str, object]:
    result = step.result
    return {
        "pass": step.ran.name,
        "options": options.dump(step.ran),
        "seconds": round(step.seconds, 3),
        "peak_memory": step.peak_memory,
        "changed": list(result.changed),
        "left_alone": plain(result.skipped),
        "metrics": plain(result.metrics),
        "tables": plain(result.tables),
        "series": plain(result.series),
        "histograms": plain(result.histograms),
    }

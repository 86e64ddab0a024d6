"""One cell of the table of compatibility: a model, compiled for a target, and judged."""

from __future__ import annotations

import dataclasses
import resource
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from gpusq_compiler.calibration.synthetic import synthesize
from gpusq_compiler.compile import run
from gpusq_compiler.ir import io
from gpusq_compiler.passes.pipeline import PassReport, Pipeline
from gpusq_compiler.passes.training import TrainingPass
from gpusq_compiler.recipe import Overrides, plan_of
from gpusq_compiler.request import Request
from gpusq_compiler.runtime.metrics import cosine
from gpusq_compiler.runtime.session import Session, fixed_batch
from gpusq_compiler.train.copy.trainable import training_copy
from gpusq_compiler.train.quantizers import LearnedStep
from tests import judge
from tests.train import nets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import onnx_ir as ir

    from gpusq_compiler.passes.base import Context
    from gpusq_compiler.report import CompileReport
    from gpusq_compiler.runtime.samples import Array, Feeds

STEPS = 2
NOT_LEARNED = {
    *(("BatchNormalization", 3), ("BatchNormalization", 4)),
    *(("Resize", 1), ("Resize", 2)),
}
"""Where statistics and sizes are read: (operator, input)."""
SHARE, COVERAGE = 0.99, 0.95
COSINE = 0.999
"""A code that rounding puts one higher at a tie, in one graph and not in the other, moves the
outputs of a deep network by more than all rounding: Next-ViT's by 2e-4."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded(Pipeline):
    """The pipeline as it is, which also keeps the model before and after training."""

    kept: dict[str, ir.Model] = dataclasses.field(default_factory=dict)

    def run(
        self,
        model: ir.Model,
        ctx: Context,
        *,
        on_step: Callable[[PassReport, ir.Model], None] | None = None,
    ) -> tuple[PassReport, ...]:
        """Run all passes; keep the model after quantize and after qat."""

        def keep(report: PassReport, now: ir.Model) -> None:
            if report.ran.name in {"quantize", "qat"}:
                self.kept[report.ran.name] = now.clone()
            if on_step is not None:
                on_step(report, now)

        return super().run(model, ctx, on_step=keep)


def measure(source: Path, target: str, folder: Path) -> dict[str, Any]:
    """Compile with ``prune,qat`` and two steps, without data; judge the outcome."""
    few = Overrides(settings=(f"qat.steps={STEPS}",))
    plan = plan_of("prune,qat", overrides=few, target=target)
    recorded = Recorded(passes=plan.pipeline.passes)
    request = Request(
        source=source,
        target=target,
        out=folder / "out.onnx",
        report=folder / "out.json",
        workdir=folder / "work",
    )
    started = time.perf_counter()
    report = run(dataclasses.replace(plan, pipeline=recorded), request)
    seconds = time.perf_counter() - started
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    trained = recorded.kept["qat"]
    feeds = _feeds(trained)
    return {
        **_judged(folder / "out.onnx"),
        **_movement(report, recorded.kept["quantize"], trained),
        **_outputs(io.load(source), folder / "out.onnx", feeds[0]),
        "copy_cosine": _copy_cosine(trained, feeds),
        "dense_cosine": None if report.quality is None else report.quality.compressed,
        "metric": None if report.quality is None else report.quality.metric,
        "bytes": [report.source.bytes, report.output.bytes],
        "seconds": round(seconds, 1),
        "seconds_by_pass": {step.ran.name: round(step.seconds, 1) for step in report.steps},
        "peak_gb": round(peak / 2**20, 2),
        "batch_size": _training(report.steps).ran.batch_size,  # type: ignore[attr-defined]
    }


def failings(cell: dict[str, Any]) -> list[str]:
    """What of a cell does not reach the bar, with the number."""
    if "error" in cell:
        return [str(cell["error"])]
    short = {
        "2:4": cell["pattern_share"] < SHARE,
        "Q/DQ": cell["coverage"] < COVERAGE,
        f"{len(cell['still'])} did not move": bool(cell["still"]),
        f"{len(cell['unlisted'])} neither trained nor frozen": bool(cell["unlisted"]),
        "outputs not finite": not cell["finite"],
        "copy differs": cell["copy_cosine"] < COSINE,
        "unread initializers": bool(cell["orphans"]),
        "other outputs": not cell["same_interface"],
    }
    return [what for what, failed in short.items() if failed]


def _training(steps: Sequence[PassReport]) -> PassReport:
    return next(step for step in steps if isinstance(step.ran, TrainingPass))


def _judged(path: Path) -> dict[str, Any]:
    graph = judge.Graph(path)
    layers = graph.layers()
    return {
        "layers": len(layers),
        "eligible": sum(layer.eligible for layer in layers),
        "pattern_share": judge.pattern_share(layers),
        "not_in_pattern": [
            layer.name for layer in layers if layer.eligible and not layer.in_pattern
        ],
        "coverage": judge.coverage(layers),
        "coverage_direct": judge.coverage(layers, direct=True),
        "not_covered": [
            layer.name for layer in layers if not (layer.weight_pair and layer.activation_pair)
        ],
        "orphans": graph.orphans(),
    }


def _movement(report: CompileReport, before: ir.Model, after: ir.Model) -> dict[str, Any]:
    """Parameters of the job, compared bit by bit in the graphs before and after training."""
    step = _training(report.steps)
    assert isinstance(step.ran, TrainingPass)
    names = [name for group in step.ran.groups(before) for name in group.names]
    reasons = {f.where: f.reason for f in step.result.skipped if f.rule == "no-gradient"}
    moved = {name for name in names if not np.array_equal(_of(before, name), _of(after, name))}
    assert moved == set(step.result.changed)
    return {
        "parameters": len(names),
        "moved": len(moved),
        "still": [name for name in names if name not in moved and name not in reasons],
        "frozen": {name: reasons[name] for name in names if name in reasons},
        "unlisted": sorted(_learned(before) - {*names, *reasons}),
        "best_step": int(step.result.metrics["best_step"]),
    }


def _learned(model: ir.Model) -> set[str]:
    """Float tensors that an exporter took from the trained network, statistics aside."""
    return {
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype.is_floating_point()
        and value.const_value.size > 1
        and not {(node.op_type, index) for node, index in value.uses()} <= NOT_LEARNED
    }


def _of(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def _feeds(model: ir.Model) -> list[Feeds]:
    """Small batches, of two lengths where the batch is free."""
    samples = synthesize(model, seed=1)
    fixed = fixed_batch(model)
    return [samples.take(np.arange(size)) for size in ((2, 3) if fixed is None else (fixed,))]


def _outputs(dense: ir.Model, path: Path, feeds: Feeds) -> dict[str, Any]:
    """What a user gets who opens the file with ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = {value.name: feeds[value.name] for value in session.get_inputs()}
    found = session.run(None, wanted)
    finite = all(bool(np.isfinite(value).all()) for value in found)
    names = [value.name for value in dense.graph.outputs]
    return {
        "finite": finite,
        "same_interface": names == [value.name for value in session.get_outputs()],
    }


def _copy_cosine(student: ir.Model, feeds: list[Feeds]) -> float:
    """The least cosine over the outputs of Q/DQ graph and training copy, nothing fused."""
    copy = training_copy(student, LearnedStep(), batches=feeds).model
    shown = nets.run(copy, feeds[0], optimize=False)
    graph = Session(student, optimize=False)(feeds[0])
    return min(cosine(shown[name], value) for name, value in graph.items())

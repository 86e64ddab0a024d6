"""From a file to a file: the whole program as one straight line."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gpusq_compiler import context
from gpusq_compiler import recipe as recipes
from gpusq_compiler.analysis import layers
from gpusq_compiler.analysis.steps import steps_of
from gpusq_compiler.errors import OptionError, PreconditionError
from gpusq_compiler.ir import claims, io
from gpusq_compiler.manifest import file_summary, manifest, versions
from gpusq_compiler.passes import facts
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.pack import unpack
from gpusq_compiler.passes.pipeline import each
from gpusq_compiler.passes.selection import require_layers
from gpusq_compiler.report import (
    CompileReport,
    LayerTable,
    Lint,
    Quality,
    TwinSummary,
    data_summary,
)
from gpusq_compiler.request import Request, file_of, workdir_of
from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.events import Silent
from gpusq_compiler.runtime.session import providers
from gpusq_compiler.trt.engines.options import EngineOptions
from gpusq_compiler.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir

    from gpusq_compiler.analysis.plan import ModelPlan
    from gpusq_compiler.calibration.evaluate import Evaluator
    from gpusq_compiler.passes.base import Context
    from gpusq_compiler.passes.lower import Lower
    from gpusq_compiler.passes.pipeline import PassReport
    from gpusq_compiler.passes.twins import Twins
    from gpusq_compiler.recipe import Overrides, Plan
    from gpusq_compiler.runtime.events import Events

SYNTHESISED = "synthesised inputs"


def compile_model(
    source: str | Path,
    *,
    passes: str | Sequence[str] | None = None,
    recipe: str | Path | None = None,
    data: object = None,
    eval_data: object = None,
    metric: str | None = None,
    teacher: str | Path | None = None,
    target: str = "onnxruntime",
    out: str | Path | None = None,
    report: str | Path | None = None,
    engine: str | Path | None = None,
    engine_options: EngineOptions | None = None,
    twins: str | Path | None = None,
    workdir: str | Path = ".gpusq",
    seed: int | None = None,
    overrides: Overrides | None = None,
    budget: float | None = None,
    threads: int | None = None,
    device: str = "cpu",
    resume: bool = False,
    measure: bool | None = None,
    events: Events | None = None,
) -> CompileReport:
    """Compile an ONNX file into a sparse INT8 one and say what was done.

    Args:
        source: The model; never changed.
        passes: Names, ``"prune,qat"``; what they need is put before them.
        recipe: A TOML file or the name of a preset, in place of ``passes``.
        data: Samples, with or without ``labels``: an ``.npz`` file, a folder of them,
            ``module.py:function``, or arrays by input name. None: synthesised, said openly.
        eval_data: The same; only ever reported.
        metric: ``accuracy``, ``topk``, ``psnr``, ``cosine`` or ``module.py:function``; default
            accuracy where labels are class ids, else cosine to the dense model.
        teacher: Another model to distil from; default the source itself.
        target: ``onnxruntime`` or ``tensorrt``: where quantizers are placed.
        out: Default ``./<stem>.gpusq.onnx``.
        report: Where the report goes: ``.html`` for a page with its data beside it, else
            JSON; default JSON beside ``out``. A report that is there is replaced.
        engine: Also build a TensorRT engine of the result, here; needs target ``tensorrt``.
        engine_options: How it is built.
        twins: Folder for the dense FP16, dense INT8 and sparse FP16 twins of the result; needs
            target ``tensorrt``.
        workdir: Folder for checkpoints, removed on success.
        seed: Overrides the recipe's, which is 0 by default.
        overrides: Options for passes, as the command line has them.
        budget: Minutes for all training passes together.
        threads: Of the runtime; None lets it choose.
        device: ``cpu``, ``cuda`` or ``auto``.
        resume: Continue from the last checkpoint of the same request.
        measure: Whether dense and compressed model are run to compare outputs, scores and
            latencies; the model that is written is the same. None: where there are data, or
            a pass looks at samples anyway.
        events: Receives progress.

    Returns:
        What was done by every pass, what was left alone and why, sizes, latencies and the
        metric after each pass; ``report.output.path`` is the file.

    Raises:
        MissingRuntime: An engine is asked for and cannot be built here; the model is written.
        GpusqError: One line: what is wrong, where, what to do. Nothing was written then.
    """
    plan = recipes.plan_of(passes, recipe, seed=seed, overrides=overrides, target=target)
    request = Request(
        source=file_of(source, "source"),
        recipe=None if recipe is None else Path(recipe),
        data=data,
        eval_data=eval_data,
        metric=metric,
        teacher=None if teacher is None else file_of(teacher, "teacher"),
        target=target,
        out=None if out is None else Path(out),
        report=None if report is None else Path(report),
        engine=None if engine is None else Path(engine),
        engine_options=engine_options or EngineOptions(),
        twins=None if twins is None else Path(twins),
        workdir=Path(workdir),
        budget=budget,
        threads=threads,
        device=device,
        resume=resume,
        measure=measure,
        events=events or Silent(),
    )
    return run(plan, request)


def run(plan: Plan, request: Request) -> CompileReport:
    """Load, run the passes, save, report."""
    started = time.monotonic()
    io.hash_ahead(request.source)
    plan, model = _checked(plan, request)
    twins = _twins(plan, request, model)
    request.require_outputs(model, () if twins is None else twins.names)
    with workdir_of(plan, request) as workdir:
        passes = plan.pipeline.passes
        samples, measured = request.has_samples(passes), request.measures(passes)
        ctx = context.context_of(plan, model, request, workdir, samples=samples)
        dense = model.clone()
        evaluator = (
            context.evaluator_of(dense, request, ctx, plan.images) if measured else None
        )
        for line in _described(plan, request, model, ctx):
            request.events.note(line)
        watch = Watch(dense, ctx, evaluator, measure=measured)
        steps = plan.pipeline.run(model, ctx, on_step=each(watch, twins))
        latencies = watch.latencies(model)
        recipe = recipes.recipe_text([step.ran for step in steps], plan.seed, plan.images)
        _stamp(model, recipe, request, ctx)
        with _beside(twins, watch, ctx, request) as summaries:
            written = io.save(model, request.output)
            io.hash_ahead(written.path)
            opened = unpack(model) if facts.is_packed(model) else model
            compared = _layers(watch, opened, ctx)
            report = CompileReport(
                source=file_summary(request.source, io.source_size(model)),
                output=file_summary(written.path, written.size),
                recipe=recipe,
                target=request.target,
                data=data_summary(ctx.data, ctx.held_out, made_up=ctx.synthesised),
                quality=_quality(watch.scores, evaluator, request),
                latencies=latencies,
                steps=steps,
                versions=versions(),
                twins=summaries,
                facts=_facts(model, opened),
                layers=compared,
                lint=_lint(model, steps, request),
                manifest=manifest(request, seed=plan.seed, seconds=time.monotonic() - started),
            )
            report.write(request.report_file)
    return _with_engine(report, request)


def _twins(plan: Plan, request: Request, model: ir.Model) -> Twins | None:
    """Collects what twins are made of, where some are asked for."""
    if request.twins is None:
        return None
    from gpusq_compiler.passes.twins import Twins

    return Twins(plan.pipeline.passes, model)


def _with_engine(report: CompileReport, request: Request) -> CompileReport:
    """Build the engine that was asked for; model and report are complete without it."""
    if request.engine is None:
        return report
    from gpusq_compiler.trt.engines import deploy

    lowered = _lowered(report.steps)
    built = deploy.deploy(
        request.output,
        request.engine,
        lowered.builder_options(request.engine_options),
        version=lowered.version,
        events=request.events,
    )
    request.events.note(built.evidence.summary())
    complete = dataclasses.replace(report, engine=built.as_json())
    complete.write(request.report_file)
    return complete


def _lowered(steps: Sequence[PassReport]) -> Lower:
    """The pass that made the model one for TensorRT, or what it would be by default."""
    from gpusq_compiler.passes.lower import Lower

    return next((step.ran for step in steps if isinstance(step.ran, Lower)), Lower())


@contextlib.contextmanager
def _beside(
    twins: Twins | None, watch: Watch, ctx: Context, request: Request
) -> Iterator[tuple[TwinSummary, ...]]:
    """Twins, written; they go again where the model beside them cannot be written."""
    if twins is None:
        yield ()
        return
    from gpusq_compiler.passes.twins import written_whole

    models = dict(twins.models(ctx))
    files = {request.twin_file(name): model for name, model in models.items()}
    with written_whole(files) as done:
        yield tuple(
            TwinSummary(
                name=name,
                file=file_summary(one.path, one.size),
                score=watch.score(models[name]),
            )
            for name, one in zip(models, done, strict=True)
        )


def preview(plan: Plan, request: Request) -> ModelPlan:
    """What would run, and what would become of every layer; nothing is written."""
    from gpusq_compiler.analysis import plan as analysis

    plan, model = _checked(plan, request)
    passes = plan.pipeline.passes
    with tempfile.TemporaryDirectory(prefix="gpusq-") as folder:
        ctx = context.context_of(plan, model, request, Path(folder))
        notes = _notes(plan, request, model)
        return analysis.plan_of(model, Canonicalize()(model), passes, ctx, notes)


def _described(plan: Plan, request: Request, model: ir.Model, ctx: Context) -> list[str]:
    """Notes and passes, one line each; an error comes before the first of them."""
    passes = plan.pipeline.passes
    asked = any(step.asks_model(ctx) for step in passes)
    steps = steps_of(passes, Canonicalize()(model) if asked else model, ctx)
    return [*_notes(plan, request, model), *map(str, steps)]


def _notes(plan: Plan, request: Request, model: ir.Model) -> list[str]:
    """What a person should know before anything runs."""
    lines = []
    if request.data is None and request.has_samples(plan.pipeline.passes):
        doubt = "" if request.verified else ", accuracy is unverified"
        lines.append(f"no --data: inputs are synthesised{doubt}")
    elif request.data is None:
        lines.append(
            "no --data: the models are not run, accuracy and latency are not measured"
        )
    if request.engine is not None:
        from gpusq_compiler.trt.engines import deploy

        missing = deploy.absent()
        if missing:
            lines.append(f"{missing}: model and scripts will be written, the engine not")
    opset, version = model.opset_imports.get("", 0), model.ir_version or 0
    newest = flavour.ceilings() if flavour.may_refuse(opset, version) else None
    if newest is not None and ((opset, version) > newest or version > newest[1]):
        lines.append(
            f"the file keeps opset {opset} and IR version {version}; the ONNX Runtime here "
            f"loads up to {newest[0]} and {newest[1]}, so it needs a newer one to run"
        )
    return lines


def _checked(plan: Plan, request: Request) -> tuple[Plan, ir.Model]:
    """The model, and what of the plan it needs.

    Says now, not after an hour, that machine or model cannot take what is asked.
    """
    flavour.require_one()
    providers(request.device)
    if any(step.trains for step in plan.pipeline.passes):
        flavour.require_training()
    if request.budget is not None:
        _require_trainings(plan)
    model = io.load(request.source)
    try:
        plan = plan.for_model(facts.present(model))
    except OptionError as error:
        raise PreconditionError(
            error.what, where=f"{request.source}, {error.where}", remedy=error.remedy
        ) from error
    if request.twins is not None:
        from gpusq_compiler.passes.twins import require_plan

        require_plan(plan.pipeline.passes)
    require_layers(plan.pipeline.passes, model)
    return plan, model


def _require_trainings(plan: Plan) -> None:
    """A budget is for passes that train and have no number of steps."""
    from gpusq_compiler.passes.training import TrainingPass

    trainings = [step for step in plan.pipeline.passes if isinstance(step, TrainingPass)]
    if not trainings:
        raise OptionError(
            "no pass of the plan trains",
            where="--budget",
            remedy="Add one that does (distill, qat), or leave the option out",
        )
    if all(step.steps for step in trainings):
        raise OptionError(
            "every training pass has its steps already",
            where="--budget",
            remedy="Give minutes or steps, not both",
        )


def _stamp(model: ir.Model, recipe: str, request: Request, ctx: Context) -> None:
    """Say on the file what made it: no time, no path, so that same input gives same bytes."""
    model.metadata_props[claims.PREFIX + "recipe"] = recipe
    if not request.verified:
        reason = "no data" if ctx.data is None else SYNTHESISED
        model.metadata_props[claims.PREFIX + "accuracy"] = f"unverified: {reason}"


def _facts(model: ir.Model, opened: ir.Model) -> list[str]:
    """What holds of the model as it is stored, and as it is once it is loaded."""
    models = (model,) if opened is model else (model, opened)
    return sorted({fact.value for one in models for fact in facts.present(one)})


def _lint(model: ir.Model, steps: Sequence[PassReport], request: Request) -> Lint | None:
    """What the TensorRT that the model was made for makes of it."""
    return Lint.of(model, _lowered(steps).version) if request.target == "tensorrt" else None


def _layers(watch: Watch, model: ir.Model, ctx: Context) -> LayerTable:
    """Every layer beside the dense one, outputs compared where the models run."""
    samples = (ctx.held_out or ctx.data) if watch.runs else None
    real = "training data" if ctx.held_out is None else "held-out"
    rows = layers.layers(
        watch.reference,
        model,
        samples,
        threads=ctx.threads,
        device=ctx.device,
        events=ctx.events,
    )
    compared = samples is not None and any(row.output_cosine is not None for row in rows)
    return LayerTable(
        measured_on=(SYNTHESISED if ctx.synthesised else real) if compared else None,
        samples=min(samples.count, layers.MOST_SAMPLES) if samples and compared else 0,
        rows=rows,
    )


def _quality(
    scores: dict[str, float], evaluator: Evaluator | None, request: Request
) -> Quality | None:
    if evaluator is None or not scores:
        return None
    place = "held-out" if request.data is not None else SYNTHESISED
    return Quality(
        metric=evaluator.name,
        measured_on="eval-data" if request.eval_data is not None else place,
        verified=request.verified,
        after=scores,
    )

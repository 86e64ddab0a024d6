"""``gpusq compile`` and ``gpusq-compile``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpusq_compiler.cli.shapes import shape_options, shapes_of
from gpusq_compiler.cli.terminal import EPILOG, HELP, LOG_FORMAT, console, set_up_logs, typed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.recipe import Plan
    from gpusq_compiler.request import Request
    from gpusq_compiler.runtime.events import Events


@click.command("compile", epilog=EPILOG, context_settings=HELP)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--passes", metavar="LIST", help="Passes by name: prune,qat")
@click.option("--recipe", metavar="FILE|PRESET", help="TOML recipe in place of --passes")
@click.option("--data", metavar="D", help=".npz, folder of .npz or images, module.py:function")
@click.option("--eval-data", metavar="D", help="The same; only ever reported")
@click.option("--metric", metavar="M", help="accuracy, topk, psnr, cosine, module.py:function")
@click.option("--teacher", metavar="ONNX", help="Distil from this model, not from MODEL")
@click.option("-o", "--out", metavar="OUT.onnx", help="Default ./<stem>.gpusq.onnx")
@click.option("--report", metavar="FILE", help="FILE.html: a page and its data, FILE.json")
@click.option("--engine", metavar="FILE", help="Also build a TensorRT engine, here")
@shape_options
@click.option("--twins", metavar="DIR", help="Write dense and FP16 twins for comparison")
@click.option("--workdir", metavar="DIR", default=".gpusq", help="Checkpoints; default .gpusq")
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Default 0")
@click.option(
    "--set", "settings", multiple=True, metavar="PASS.OPTION=VALUE", help="An option"
)
@click.option("--steps", type=int, metavar="N", help="Of every training pass")
@click.option("--batch-size", type=int, metavar="N", help="Of every training pass")
@click.option("--lr", type=float, metavar="F", help="Learning rate of every training pass")
@click.option("--budget", type=float, metavar="MINUTES", help="Time for all training passes")
@click.option("--target", default="onnxruntime", metavar="T", help="onnxruntime or tensorrt")
@click.option("--device", default="cpu", metavar="D", help="cpu, cuda or auto")
@click.option("--threads", type=int, metavar="N", help="Default: the runtime chooses")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop")
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Run the models to compare them; default: where there are samples",
)
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint")
@click.option(
    LOG_FORMAT, type=click.Choice(["text", "json"]), default="text", help="On stderr"
)
@click.option("-q", "quiet", is_flag=True, help="Only errors and the output's path")
@click.option("-v", "verbose", is_flag=True, help="Everything that was left alone, and logs")
def compile_command(**given: Any) -> None:
    """Compress MODEL with the passes of a list or recipe."""
    from gpusq_compiler import compile as compiler
    from gpusq_compiler.cli.plan import show
    from gpusq_compiler.errors import OptionError
    from gpusq_compiler.progress import watching

    if given["quiet"] and given["verbose"]:
        raise OptionError(
            "they ask for opposite things", where="-q and -v", remedy="Give one of them"
        )
    set_up_logs(verbose=given["verbose"], log_format=given["log_format"])
    with watching(quiet=given["quiet"], log_format=given["log_format"]) as events:
        plan, request = asked(given, events)
        if given["dry_run"]:
            show(compiler.preview(plan, request))
            return
        report = compiler.run(plan, request)
    if not given["quiet"]:
        report.show(console(), verbose=given["verbose"])
    click.echo(report.output.path)


def asked(given: Mapping[str, Any], events: Events) -> tuple[Plan, Request]:
    """What the options mean: the passes, and everything around them."""
    from gpusq_compiler.recipe import Overrides, plan_of
    from gpusq_compiler.request import Request
    from gpusq_compiler.trt.engines.options import EngineOptions

    overrides = Overrides(
        steps=given["steps"],
        batch_size=given["batch_size"],
        learning_rate=given["lr"],
        settings=given["settings"],
    )
    plan = plan_of(
        given["passes"],
        given["recipe"],
        seed=given["seed"],
        overrides=overrides,
        target=given["target"],
    )
    request = Request(
        source=given["model"],
        recipe=_path(given["recipe"]),
        data=given["data"],
        eval_data=given["eval_data"],
        metric=given["metric"],
        teacher=_path(given["teacher"]),
        target=given["target"],
        out=_path(given["out"]),
        report=_path(given["report"]),
        engine=_path(given["engine"]),
        engine_options=EngineOptions(shapes=shapes_of(given)),
        twins=_path(given["twins"]),
        workdir=Path(given["workdir"]),
        budget=given["budget"],
        threads=given["threads"],
        device=given["device"],
        resume=given["resume"],
        measure=given["measure"],
        events=events,
        command=typed(),
    )
    return plan, request


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)

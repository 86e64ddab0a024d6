"""The command line: one verb, one function. The only place that catches errors for people."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpusq_compiler.errors import GpusqError, OptionError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpusq_compiler.passes.base import Finding
    from gpusq_compiler.runtime.events import Events

INTERRUPTED, BUG, CANNOT_WRITE = 130, 3, 6
EPILOG = (
    "Exit codes: 0 done; 1 model, data or recipe refused; 2 usage; 3 a promise was broken or "
    "training failed; 4 a runtime is missing; 6 cannot read or write; 130 interrupted. "
    "--traceback shows where an error comes from."
)

HELP = {"help_option_names": ["-h", "--help"]}


@click.group(epilog=EPILOG, context_settings=HELP, invoke_without_command=True)
@click.version_option(package_name="gpusq-compiler", prog_name="gpusq")
@click.pass_context
def gpusq(ctx: click.Context) -> None:
    """Turn an ONNX model into a 2:4 sparse INT8 one."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@gpusq.command("compile", epilog=EPILOG, context_settings=HELP)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--passes", metavar="LIST", help="Passes by name: prune,qat")
@click.option("--recipe", metavar="FILE|PRESET", help="TOML recipe in place of --passes")
@click.option("--data", metavar="D", help=".npz, folder of .npz or images, module.py:function")
@click.option("--eval-data", metavar="D", help="The same; only ever reported")
@click.option("--metric", metavar="M", help="accuracy, topk, psnr, cosine, module.py:function")
@click.option("--teacher", metavar="ONNX", help="Distil from this model, not from MODEL")
@click.option("-o", "--out", metavar="OUT.onnx", help="Default ./<stem>.gpusq.onnx")
@click.option("--report", metavar="OUT.json", help="Default beside the output")
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
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint")
@click.option("-q", "quiet", is_flag=True, help="Only errors and the output's path")
@click.option("-v", "verbose", is_flag=True, help="Everything that was left alone, and logs")
def compile_command(**given: Any) -> None:
    """Compress MODEL with the passes of a list or recipe."""
    from gpusq_compiler import compile as compiler
    from gpusq_compiler.recipe import Overrides, plan_of
    from gpusq_compiler.request import Request

    _log(verbose=given["verbose"])
    overrides = Overrides(
        steps=given["steps"],
        batch_size=given["batch_size"],
        learning_rate=given["lr"],
        settings=given["settings"],
    )
    plan = plan_of(given["passes"], given["recipe"], seed=given["seed"], overrides=overrides)
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
        workdir=Path(given["workdir"]),
        budget=given["budget"],
        threads=given["threads"],
        device=given["device"],
        resume=given["resume"],
        events=_events(quiet=given["quiet"]),
    )
    if given["dry_run"]:
        for line in compiler.preview(plan, request):
            click.echo(line)
        return
    report = compiler.run(plan, request)
    if not given["quiet"]:
        report.show(_console(), verbose=given["verbose"])
    click.echo(report.output.path)


@gpusq.group("passes", invoke_without_command=True)
@click.pass_context
def passes_command(ctx: click.Context) -> None:
    """List the passes, or show one: gpusq passes show NAME."""
    if ctx.invoked_subcommand is not None:
        return
    from gpusq_compiler.passes import registry

    rows = [
        (name, _first_paragraph(registry.find(name)), owner)
        for name, owner in registry.names().items()
    ]
    _print_table(("pass", "what it does", "from"), rows)


@passes_command.command("show")
@click.argument("name")
def show_command(name: str) -> None:
    """Options, defaults and facts of one pass."""
    from gpusq_compiler.passes import options, registry

    step = registry.find(name)
    click.echo(f"{step.name}: {_first_paragraph(step)}")
    for word, facts in (
        ("needs", step.needs),
        ("refuses", step.refuses),
        ("gives", step.gives),
        ("breaks", step.breaks),
    ):
        if facts:
            click.echo(f"  {word}: {', '.join(sorted(fact.value for fact in facts))}")
    rows = [
        (
            option.name,
            option.type_name,
            _default(options.dump_value(option.default)),
            option.help,
        )
        for option in options.options_of(step)
    ]
    _print_table(("option", "type", "default", "meaning"), rows)


@gpusq.command("check")
@click.argument("model", type=click.Path(path_type=Path))
def check_command(model: Path) -> None:
    """Verify everything that MODEL claims about itself, on its values."""
    from gpusq_compiler.ir import claims, io
    from gpusq_compiler.passes import facts
    from gpusq_compiler.passes.base import Fact

    loaded = io.load(model)
    broken = facts.broken_claims(loaded)
    if broken:
        _fail_with(broken, model)
    present = facts.present(loaded)
    for fact in Fact:
        click.echo(f"{fact.value:10} {'holds' if fact in present else 'not claimed'}")
    claimed = len(list(claims.sparse_values(loaded)))
    click.echo(f"{claimed} tensors hold the pattern that they claim; ONNX checker: valid")


@gpusq.command("compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--data", metavar="D", help="As for compile; none: synthesised inputs")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of synthesised inputs")
def compare_command(first: Path, second: Path, data: str | None, seed: int) -> None:
    """How far the outputs of SECOND are from those of FIRST."""
    import tempfile

    from gpusq_compiler.context import samples_of
    from gpusq_compiler.ir import io
    from gpusq_compiler.runtime.compare import compare

    reference, model = io.load(first), io.load(second)
    with tempfile.TemporaryDirectory(prefix="gpusq-") as folder:
        samples = samples_of(data, reference, Path(folder), seed)
        found = compare(reference, model, samples, events=_events(quiet=False))
    rows = [
        (
            name,
            f"{d.cosine:.6f}",
            f"{d.sqnr:.1f} dB",
            f"{d.max_error:.3g}",
            "" if d.agreement is None else f"{100 * d.agreement:.1f} %",
        )
        for name, d in found.items()
    ]
    _print_table(("output", "cosine", "SQNR", "max error", "same argmax"), rows)


@gpusq.command("doctor")
def doctor_command() -> None:
    """What this machine can do, what is missing, and the line that installs it."""
    from gpusq_compiler.doctor import examine

    _print_table(("feature", "state", "to get it"), examine())


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point ``gpusq``."""
    _run("gpusq", gpusq, arguments)


def compile_main(arguments: Sequence[str] | None = None) -> None:
    """Entry point ``gpusq-compile``."""
    _run("gpusq-compile", compile_command, arguments)


def _run(name: str, command: click.Command, arguments: Sequence[str] | None) -> None:
    """Run a command; every error becomes one line and an exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in given
    try:
        # Not command.main(), which prints an empty line of its own when interrupted.
        with command.make_context(name, [a for a in given if a != "--traceback"]) as ctx:
            command.invoke(ctx)
    except BaseException as error:
        if traceback and not isinstance(error, SystemExit | click.exceptions.Exit):
            raise
        sys.exit(_explain(error))


def _explain(error: BaseException) -> int:
    """Print one line for a person and choose the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError):
        # Nobody reads on; the interpreter's own flush at the end must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, KeyboardInterrupt):
        click.echo(
            "gpusq: interrupted; repeat the command with --resume to continue", err=True
        )
        return INTERRUPTED
    if isinstance(error, GpusqError):
        line, code = str(error), error.exit_code
    elif isinstance(error, click.UsageError):
        help_line = f"{error.ctx.command_path} --help" if error.ctx else "gpusq --help"
        line, code = f"{error.format_message()} See: {help_line}", OptionError.exit_code
    elif isinstance(error, OSError):
        line, code = f"{error.filename or 'a file'}: {error.strerror}", CANNOT_WRITE
    else:
        kind = f"{type(error).__name__}: {first_line(error)}"
        line, code = f"internal error: {kind}. Repeat with --traceback and report it", BUG
    click.echo(f"gpusq: error: {' '.join(line.split())}", err=True)
    return code


def _fail_with(broken: Sequence[Finding], model: Path) -> None:
    from gpusq_compiler.errors import PostconditionError

    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    raise PostconditionError(
        f"{broken[0].where}: {broken[0].reason}{more}",
        where=str(model),
        remedy="Compile the dense model again",
    )


def _events(*, quiet: bool) -> Events:
    from gpusq_compiler.progress import TerminalEvents
    from gpusq_compiler.runtime.events import Silent

    return Silent() if quiet else TerminalEvents()


def _log(*, verbose: bool) -> None:
    import logging

    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table()
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    _console().print(table, markup=False)


def _first_paragraph(thing: Callable[..., object]) -> str:
    return (thing.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def _default(value: object) -> str:
    if isinstance(value, dict):
        rest = ", ".join(f"{k}={v}" for k, v in value.items() if k != "use")
        return f"{value['use']}({rest})" if rest else str(value["use"])
    if isinstance(value, list):
        return ", ".join(map(_default, value)) or "empty"
    return "none" if value is None else str(value)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)

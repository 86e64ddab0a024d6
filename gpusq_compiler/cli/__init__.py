"""The command line: one verb, one file. The only place that catches errors for people."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

import click

import gpusq_compiler
from gpusq_compiler.cli.bench import bench_command
from gpusq_compiler.cli.build import build_command
from gpusq_compiler.cli.check import check_command
from gpusq_compiler.cli.compare import compare_command
from gpusq_compiler.cli.compile import compile_command
from gpusq_compiler.cli.doctor import doctor_command
from gpusq_compiler.cli.extract import extract_command
from gpusq_compiler.cli.inspect import inspect_command
from gpusq_compiler.cli.lazily import import_lazily
from gpusq_compiler.cli.lint import lint_command
from gpusq_compiler.cli.pack import pack_command
from gpusq_compiler.cli.passes import passes_command
from gpusq_compiler.cli.plan import plan_command
from gpusq_compiler.cli.report import report_command
from gpusq_compiler.cli.terminal import EPILOG, HELP, wants_json
from gpusq_compiler.cli.unpack import unpack_command
from gpusq_compiler.errors import GpusqError, OptionError, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED, BUG, CANNOT_WRITE = 130, 3, 6
YOUNG = 50_000
"""Objects after which garbage is looked for: those of a graph live as long as the run."""


def _show_version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"gpusq, version {gpusq_compiler.__version__}")
        ctx.exit()


@click.group(epilog=EPILOG, context_settings=HELP, invoke_without_command=True)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def gpusq(ctx: click.Context) -> None:
    """Turn an ONNX model into a 2:4 sparse INT8 one."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for verb in (
    compile_command,
    plan_command,
    inspect_command,
    passes_command,
    check_command,
    compare_command,
    extract_command,
    lint_command,
    pack_command,
    unpack_command,
    bench_command,
    build_command,
    report_command,
    doctor_command,
):
    gpusq.add_command(verb)


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
        words = [word for word in given if word != "--traceback"]
        import_lazily()
        gc.set_threshold(YOUNG)
        with command.make_context(name, list(words), obj=words) as ctx:
            command.invoke(ctx)
    except BaseException as error:
        if traceback and not isinstance(error, SystemExit | click.exceptions.Exit):
            raise
        line, code = _explained(error)
        if line:
            _tell(line, code, as_json=wants_json(given))
        sys.exit(code)


def _tell(line: str, code: int, *, as_json: bool) -> None:
    """Print one line for a person, or for a program."""
    line = " ".join(line.split())
    if as_json:
        from gpusq_compiler.progress import json_line

        click.echo(json_line("error", exit_code=code, message=line), err=True)
        return
    click.echo(f"gpusq: {line}" if code == INTERRUPTED else f"gpusq: error: {line}", err=True)


def _explained(error: BaseException) -> tuple[str, int]:
    """One line for a person, empty where nothing is to be said, and the exit code."""
    if isinstance(error, click.exceptions.Exit | SystemExit | BrokenPipeError):
        return "", _left(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; repeat the command with --resume to continue", INTERRUPTED
    if isinstance(error, GpusqError):
        return str(error), error.exit_code
    if isinstance(error, click.UsageError):
        help_line = f"{error.ctx.command_path} --help" if error.ctx else "gpusq --help"
        return f"{error.format_message()} See: {help_line}", OptionError.exit_code
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror}", CANNOT_WRITE
    kind = f"{type(error).__name__}: {first_line(error)}"
    return f"internal error: {kind}. Repeat with --traceback and report it", BUG


def _left(error: click.exceptions.Exit | SystemExit | BrokenPipeError) -> int:
    """The exit code of what is no error."""
    if isinstance(error, BrokenPipeError):
        # Nobody reads on; the interpreter's own flush at the end must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    return error.code if isinstance(error.code, int) else 1

"""``gpusq bench FILE [FILE ...]``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from gpusq_compiler.cli.terminal import console, events_for, print_table
from gpusq_compiler.errors import OptionError


@click.command("bench")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--twins",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the dense and FP16 twins of FILE",
)
@click.option("--batch-sizes", metavar="LIST", default="1,8,32", help="Default 1,8,32")
@click.option("--seconds", type=click.FloatRange(0), default=2.0, help="Of a cell; default 2")
@click.option(
    "--iterations", type=click.IntRange(1), help="End a cell after so many runs, too"
)
@click.option("--warm-up", type=click.FloatRange(0), default=0.5, help="Seconds; default 0.5")
@click.option("--threads", type=click.IntRange(1), help="Of ONNX Runtime")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    help="Of ONNX Runtime; engines always run on the GPU",
)
@click.option("--data", metavar="D", help="As for compile; none: synthesised inputs")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of synthesised inputs")
@click.option(
    "--host-code", is_flag=True, help="Let version-compatible engines run their code"
)
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON on stdout")
def bench_command(files: tuple[Path, ...], twins: Path | None, **given: Any) -> None:
    """Time ONNX files and TensorRT engines (.engine, .plan) side by side."""
    from gpusq_compiler.analysis.bench import Settings, bench
    from gpusq_compiler.analysis.figures import HEADINGS
    from gpusq_compiler.manifest import versions

    settings = Settings(
        batch_sizes=_sizes(given["batch_sizes"]),
        seconds=given["seconds"],
        runs=given["iterations"],
        warm_up=given["warm_up"],
        threads=given["threads"],
        device=given["device"],
        data=given["data"],
        seed=given["seed"],
        host_code=given["host_code"],
    )
    named = {} if twins is None else _twins(files, twins)
    found = bench(
        list(named.values()) or files,
        settings,
        twins=list(named),
        events=events_for(quiet=False),
    )
    if given["as_json"]:
        click.echo(json.dumps({**found.as_json(), "versions": versions()}, indent=1))
        return
    console().print(found.title, markup=False, highlight=False)
    print_table(HEADINGS, list(found.rows()))
    for line in found.lines():
        click.echo(line)


def _twins(files: tuple[Path, ...], folder: Path) -> dict[str, Path]:
    from gpusq_compiler.analysis.twins import twins_of

    if len(files) > 1:
        raise OptionError(
            "the twins are those of one file",
            where="--twins",
            remedy="Give one FILE, the sparse INT8 one",
        )
    return dict(twins_of(files[0], folder))


def _sizes(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise OptionError(
            f"'{text}' is no list of batch sizes",
            where="--batch-sizes",
            remedy="Give positive numbers: 1,8,32",
        )
    return [int(word) for word in words]

"""``gpusq build MODEL``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpusq_compiler.cli.shapes import shape_options, shapes_of
from gpusq_compiler.cli.terminal import events_for, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.trt.engines.evidence import Evidence
    from gpusq_compiler.trt.engines.options import EngineOptions

MODES = ("predict", "check", "on_device", "log")


@click.command("build")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="OUT.engine",
              help="Default ./<stem>.engine")  # fmt: skip
@shape_options
@click.option("--sparse/--dense", default=True, help="Whether sparse tactics are tried")
@click.option("--timing-cache", type=click.Path(path_type=Path), metavar="DIR",
              help="Keeps timings by version, GPU and options")  # fmt: skip
@click.option("--workspace", type=int, metavar="MIB", help="Memory that one layer may use")
@click.option("--hardware", default="none", metavar="H",
              help="Other GPUs: none, ampere+, same-compute-capability")  # fmt: skip
@click.option("--version-compatible", is_flag=True, help="Newer TensorRT may load it")
@click.option("--optimization-level", type=int, metavar="0-5", help="How long to search")
@click.option("--plugin", "plugins", multiple=True, type=click.Path(path_type=Path),
              metavar="LIB", help="A library of plugins")  # fmt: skip
@click.option("--fp16/--no-fp16", default=None, help="8.6 only; default as the model has it")
@click.option("--int8/--no-int8", default=None, help="8.6 only; default as the model has it")
@click.option("--tensorrt", default="11", metavar="V",
              help="8.6, 10 or 11, of --predict and of the device  [default: 11]")  # fmt: skip
@click.option("--predict", is_flag=True, help="Which layers may be sparse; builds nothing")
@click.option("--check", is_flag=True, help="Ask TensorRT for RTX, which needs no GPU")
@click.option("--on-device", is_flag=True, help="Only write what builds it on the device")
@click.option("--log", type=click.Path(path_type=Path), metavar="LOG",
              help="Evidence from the log of a build elsewhere")  # fmt: skip
@click.option("--layers", type=click.Path(path_type=Path), metavar="JSON",
              help="With --log: what trtexec --exportLayerInfo wrote")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables")
def build_command(model: Path, **given: Any) -> None:
    """Build a TensorRT engine of MODEL and show which of its layers are sparse."""
    from gpusq_compiler.errors import OptionError

    modes = [mode for mode in MODES if given[mode]]
    if len(modes) > 1 or (given["layers"] and modes != ["log"]):
        raise OptionError(
            "these options do not go together",
            where="build",
            remedy="Give one of --predict, --check, --on-device, --log; --layers needs --log",
        )
    _require_sense(given)
    handlers = {
        "predict": _predict,
        "check": _check,
        "on_device": _on_device,
        "log": _read,
        "build": _build,
    }
    handlers[modes[0] if modes else "build"](model, given)


def _build(model: Path, given: Mapping[str, Any]) -> None:
    from gpusq_compiler.trt.engines.deploy import deploy
    from gpusq_compiler.trt.legality.rules import Version

    info = deploy(
        model,
        _engine(model, given),
        _options(given),
        version=Version.parse(given["tensorrt"]),
        events=events_for(quiet=given["as_json"]),
    )
    if given["as_json"]:
        print_json(info.as_json())
        return
    _show(info.evidence)
    click.echo(
        f"{info.tensorrt} on {info.device}: {info.size / 1e6:.2f} MB in {info.seconds:.1f} s"
    )
    click.echo(info.path)


def _predict(model: Path, given: Mapping[str, Any]) -> None:
    from gpusq_compiler.ir import io
    from gpusq_compiler.trt.engines.evidence import predicted
    from gpusq_compiler.trt.legality.rules import Version
    from gpusq_compiler.trt.legality.taken import as_taken

    version = Version.parse(given["tensorrt"])
    _report(predicted(as_taken(io.load(model)), version), given)


def _read(model: Path, given: Mapping[str, Any]) -> None:
    from gpusq_compiler.trt.engines.elsewhere import evidence_of
    from gpusq_compiler.trt.legality.rules import Version

    version = Version.parse(given["tensorrt"])
    _report(evidence_of(model, given["log"], given["layers"], version), given)


def _on_device(model: Path, given: Mapping[str, Any]) -> None:
    from gpusq_compiler.trt.engines.deploy import prepare
    from gpusq_compiler.trt.legality.rules import Version

    version = Version.parse(given["tensorrt"])
    for path in prepare(model, _engine(model, given), _options(given), version):
        click.echo(path)


def _check(model: Path, given: Mapping[str, Any]) -> None:
    import dataclasses

    from gpusq_compiler.errors import GateError
    from gpusq_compiler.trt.engines.check import HEADINGS, check

    found = check(model, shapes_of(given))
    if found.refusal is not None:
        refusal = found.refusal
        raise GateError(refusal.what, where=refusal.where, remedy=refusal.remedy) from refusal
    if given["as_json"]:
        products = [dataclasses.asdict(one) for one in found.products]
        print_json({"tool": found.tool, "products": products})
    else:
        print_table(HEADINGS, found.rows())
        click.echo(found.summary())
    found.require_integers(model)


def _require_sense(given: Mapping[str, Any]) -> None:
    """Refuse values that mean nothing, also in a mode that has no use for them."""
    from gpusq_compiler.trt.legality.rules import Version

    _options(given)
    Version.parse(given["tensorrt"])


def _engine(model: Path, given: Mapping[str, Any]) -> Path:
    return given["out"] or Path(f"{model.stem}.engine")


def _options(given: Mapping[str, Any]) -> EngineOptions:
    from gpusq_compiler.trt.engines.options import EngineOptions

    return EngineOptions(
        sparse_weights=given["sparse"],
        shapes=shapes_of(given),
        timing_cache=given["timing_cache"],
        workspace=given["workspace"],
        hardware=given["hardware"],
        version_compatible=given["version_compatible"],
        optimization_level=given["optimization_level"],
        plugins=given["plugins"],
        fp16=given["fp16"],
        int8=given["int8"],
    )


def _report(evidence: Evidence, given: Mapping[str, Any]) -> None:
    import dataclasses

    if given["as_json"]:
        print_json(dataclasses.asdict(evidence))
    else:
        _show(evidence)


def _show(evidence: Evidence) -> None:
    from gpusq_compiler.trt.engines.evidence import HEADINGS

    print_table(HEADINGS, evidence.rows())
    click.echo(evidence.summary())

"""What one compile was asked, where its files go, and the folder it works in."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.calibration import batches
from gpusq_compiler.calibration.functions import split_spec
from gpusq_compiler.errors import FileError, OptionError
from gpusq_compiler.ir import io
from gpusq_compiler.runtime.events import Events, Silent
from gpusq_compiler.trt.engines.options import EngineOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir

    from gpusq_compiler.passes.base import Pass
    from gpusq_compiler.recipe import Plan

TARGETS = ("onnxruntime", "tensorrt")
DEVICES = ("cpu", "cuda", "auto")
CHECKPOINTS = "checkpoints"
PAGES = (".html", ".htm")


def file_of(model: object, where: str) -> Path:
    """The path of a model file.

    Raises:
        OptionError: It is something else, as a model in memory.
    """
    if isinstance(model, str | os.PathLike):
        return Path(model)
    raise OptionError(
        f"a {type(model).__name__} is no path of a file",
        where=where,
        remedy="Save the model first, or call passes on it, with open_context",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of `compile.compile_model`, which explains them.

    Attributes:
        command: The command line, where there was one; for the report.
    """

    source: Path
    recipe: Path | None = None
    data: object = None
    eval_data: object = None
    metric: str | None = None
    teacher: Path | None = None
    target: str = "onnxruntime"
    out: Path | None = None
    report: Path | None = None
    engine: Path | None = None
    engine_options: EngineOptions = EngineOptions()
    twins: Path | None = None
    workdir: Path = Path(".gpusq")
    budget: float | None = None
    threads: int | None = None
    device: str = "cpu"
    resume: bool = False
    measure: bool | None = None
    events: Events = Silent()
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that no choice allows."""
        require_choices(target=self.target, device=self.device)
        if self.engine is not None and self.target != "tensorrt":
            raise OptionError(
                f"an engine is built for TensorRT, and the target is {self.target}",
                where="--engine",
                remedy="Add --target tensorrt",
            )
        if self.engine is None and self.engine_options != EngineOptions():
            raise OptionError(
                "shapes are for the engine, and none is asked for",
                where="--opt-shapes",
                remedy="Add --engine FILE, or leave the option out",
            )
        if self.measure is False and (self.eval_data is not None or self.metric is not None):
            raise OptionError(
                "data for evaluation and a metric are for what is measured, and nothing is",
                where="--no-measure",
                remedy="Leave it out, or --eval-data and --metric",
            )
        for name, number in (("--budget", self.budget), ("--threads", self.threads)):
            if number is not None and not 0 < number < float("inf"):
                raise OptionError(
                    f"{number} is not a positive number",
                    where=name,
                    remedy="Give one above 0, or leave the option out",
                )

    @property
    def output(self) -> Path:
        """The model that is written."""
        return self.out or Path(f"{self.source.stem}.gpusq.onnx")

    @property
    def report_file(self) -> Path:
        """The report as it was asked for: a page or JSON."""
        return self.report or self.output.with_suffix(".json")

    def twin_file(self, name: str) -> Path:
        """Where a twin of the model goes."""
        assert self.twins is not None, "asked for"
        return self.twins / f"{self.output.stem}.{name}.onnx"

    @property
    def verified(self) -> bool:
        """Whether any real data vouch for the figures."""
        return self.data is not None or self.eval_data is not None

    def measures(self, passes: Sequence[Pass]) -> bool:
        """Whether the models are run to compare them: by default where there are samples."""
        if self.measure is None:
            return self.verified or any(step.wants_samples() for step in passes)
        return self.measure

    def has_samples(self, passes: Sequence[Pass]) -> bool:
        """Whether samples are there: given, or made up for who wants them."""
        wanted = self.measures(passes) or any(step.wants_samples() for step in passes)
        return wanted or self.data is not None

    def require_outputs(self, model: ir.Model, twins: Sequence[str] = ()) -> None:
        """All outputs must be writable, none a file that is read, no two the same.

        Args:
            model: Its files are read.
            twins: Names of twins that are written, too.

        Raises:
            FileError: One is not.
            OptionError: Shapes for the engine do not fit the model.
        """
        read = (self.source, self.teacher, self.data, self.eval_data, self.metric, self.recipe)
        inputs = {file.resolve() for source in read for file in _files(source)}
        _require_output(self.output, model, inputs)
        for file in report_files(self.report_file):
            _require_output(file, model, inputs)
            if file.resolve() == self.output.resolve():
                raise FileError(
                    "model and report would be one file",
                    where=str(self.output),
                    remedy="Choose another with --report",
                )
        if self.engine is not None:
            self._require_engine(self.engine, model, inputs)
        if self.twins is not None:
            self._require_twins(self.twins, model, inputs, twins)

    def _require_engine(self, engine: Path, model: ir.Model, inputs: set[Path]) -> None:
        from gpusq_compiler.trt.engines import outputs

        written = {self.output, *report_files(self.report_file)}
        others = inputs | {file.resolve() for file in written}
        for file in outputs.files_of(engine):
            if file.resolve() in others:
                raise FileError(
                    "is written for the engine, and is another input or output too",
                    where=str(file),
                    remedy="Choose another with --engine",
                )
        outputs.require(model, engine, self.engine_options)

    def _require_twins(
        self, folder: Path, model: ir.Model, inputs: set[Path], names: Sequence[str]
    ) -> None:
        if not folder.exists():
            io.require_writable(folder)
        elif not folder.is_dir():
            raise FileError(
                "a file, not a folder", where=str(folder), remedy="Name one with --twins"
            )
        for path in map(self.twin_file, names):
            if folder.exists():
                _require_output(path, model, inputs)
            if path.resolve() in {self.output.resolve(), self.report_file.resolve()}:
                raise FileError(
                    "twin and result would be one file",
                    where=str(path),
                    remedy="Choose another folder with --twins",
                )


def require_choices(*, target: str, device: str) -> None:
    """Refuse a target or a device that nobody knows.

    Raises:
        OptionError: One is not known.
    """
    for name, value, allowed in (("--target", target, TARGETS), ("--device", device, DEVICES)):
        if value not in allowed:
            raise OptionError(
                f"'{value}' is not known",
                where=name,
                remedy=f"Known: {', '.join(allowed)}",
            )


def report_files(report: Path) -> tuple[Path, ...]:
    """What is written for ``--report``, in order: a page comes with its data beside it."""
    return (report.with_suffix(".json"), report) if is_page(report) else (report,)


def is_page(report: Path) -> bool:
    """Whether this is the name of an HTML page; everything else holds JSON."""
    return report.suffix.lower() in PAGES


def _require_output(path: Path, model: ir.Model, inputs: set[Path]) -> None:
    io.require_writable(path, model)
    if path.resolve() in inputs:
        raise FileError(
            "is an input and would be overwritten",
            where=str(path),
            remedy="Choose another output with -o or --report",
        )


@contextlib.contextmanager
def workdir_of(plan: Plan, request: Request) -> Iterator[Path]:
    """The folder of this very request.

    Emptied at the start unless the request resumes; removed at the end, but kept when a run
    that has checkpoints does not reach its end.

    Raises:
        FileError: It cannot be made, or another run works in it.
    """
    folder = request.workdir / _key(plan, request)
    try:
        known = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"the working folder cannot be made: {error.strerror}",
            where=str(folder),
            remedy="Choose another with --workdir",
        ) from error
    with _locked(folder):
        if known and not request.resume:
            _empty(folder)
        elif request.resume and not known:
            request.events.note("nothing to resume: starting from the beginning")
        finished = False
        try:
            yield folder
            finished = True
        finally:
            if finished or not (folder / CHECKPOINTS).exists():
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):
                    request.workdir.rmdir()


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder against a second run; the system lets go of it when a run is killed.

    Raises:
        FileError: Another run works in it.
    """
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise FileError(
            "another run works in this folder",
            where=str(folder),
            remedy="Wait for it, or choose another with --workdir",
        ) from error
    try:
        yield
    finally:
        os.close(handle)


def _key(plan: Plan, request: Request) -> str:
    digest = hashlib.sha256(plan.text().encode())
    digest.update(io.file_hash(request.source).encode())
    for source in (request.data, request.teacher, request.budget):
        digest.update(_fingerprint(source).encode())
    return digest.hexdigest()[:16]


def _fingerprint(source: object) -> str:
    """Identity of an input: path, size and time of files, content of arrays in memory."""
    if isinstance(source, Mapping):
        return arrays_hash(source)
    if not isinstance(source, str | Path):
        return repr(source) if isinstance(source, float | None) else type(source).__name__
    found = [(file.name, file.stat()) for file in _files(source) if file.exists()]
    return f"{source}:{[(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]}"


def arrays_hash(arrays: Mapping[str, object]) -> str:
    """SHA-256 of arrays in memory, names, types and shapes included."""
    digest = hashlib.sha256()
    for name, values in arrays.items():
        array = np.ascontiguousarray(values)
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _files(source: object) -> list[Path]:
    """What is read: the file, the data in a folder, the module of ``module.py:function``."""
    if not isinstance(source, str | Path):
        return []
    function = split_spec(str(source))
    path = Path(source) if function is None else function[0]
    return batches.data_in(path) if path.is_dir() else [path]

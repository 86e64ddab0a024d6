"""The installed TensorRT: found, loaded and asked what it can do.

Versions differ in what they have, so callers ask for a name (`Bindings.member`) and never
compare numbers. Whatever is missing or broken is a `MissingRuntime`: one line that says what
to install. Without a GPU some versions end the process when a Runtime is made, so the driver
is asked before that.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any

from gpusq_compiler.errors import MissingRuntime, first_line
from gpusq_compiler.trt.engines.messages import Messages, captured
from gpusq_compiler.trt.legality.rules import MAJORS, Version

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST = (8, 6)
INSTALL = "Type: pip install 'gpusq-compiler[tensorrt]'; on a Jetson it comes with JetPack"
INSTALL_RTX = "Type: pip install 'gpusq-compiler[rtx]'"
NEEDS_GPU = "Run it on the machine that the engine is for, with an NVIDIA GPU and its driver"
_MAJOR_CAPABILITY, _MINOR_CAPABILITY = 75, 76  # of CUdevice_attribute


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU.

    Attributes:
        name: As its driver calls it.
        capability: Its compute capability.
    """

    name: str
    capability: tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bindings:
    """A Python module of TensorRT, or of TensorRT for RTX, and its version.

    Attributes:
        name: ``TensorRT`` or ``TensorRT for RTX``.
        api: The module.
        version: As the module says it, ``10.14.1.48``.
    """

    name: str
    api: Any
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def member(self, path: str) -> Any:
        """What a dotted name stands for, as ``BuilderFlag.INT8``; None where there is none."""
        found = self.api
        for name in path.split("."):
            found = getattr(found, name, None)
            if found is None:
                return None
        return found

    @property
    def rules(self) -> Version:
        """The version whose rules of `legal` fit best; those of RTX are the newest."""
        major, minor = _pair(self.version)
        known = max((m for m in MAJORS if m <= major), default=MAJORS[-1])
        return Version(known, minor) if known == major else Version(known)

    @property
    def logger(self) -> Any:
        """The logger of this process: TensorRT keeps the first that it is given."""
        return _logger_of(self.api)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Messages]:
        """Collect what is logged in this block, and what goes past the logger."""
        heard = Messages()
        self.logger.listeners.append(heard)
        try:
            with captured(heard):
                yield heard
        finally:
            self.logger.listeners.remove(heard)

    def builder(self) -> Any:
        """A new Builder.

        Raises:
            MissingRuntime: It cannot be made, as when the driver is too old.
        """
        return self._made("Builder")

    def runtime(self) -> Any:
        """A new Runtime, once the driver has said that there is a GPU.

        Raises:
            MissingRuntime: There is none, or the Runtime cannot be made.
        """
        require_gpu()
        return self._made("Runtime")

    def _made(self, kind: str) -> Any:
        with self.listening() as heard:
            try:
                made = getattr(self.api, kind)(self.logger)
            except (TypeError, RuntimeError) as error:
                raise self._not_made(kind, heard, error) from error
        if made is None:
            raise self._not_made(kind, heard)
        return made

    def _not_made(
        self, kind: str, heard: Messages, error: Exception | None = None
    ) -> MissingRuntime:
        reason = heard.first_error or (first_line(error) if error else "no reason given")
        return MissingRuntime(
            f"{self} cannot make a {kind}: {reason}",
            remedy="Check that the driver is new enough for it: gpusq doctor",
        )


def tensorrt() -> Bindings:
    """The installed TensorRT; no GPU is needed to load it.

    Raises:
        MissingRuntime: It is not there, cannot be loaded, or is older than 8.6.
    """
    found = _loaded("tensorrt", "TensorRT", INSTALL)
    if _pair(found.version) < OLDEST:
        raise MissingRuntime(
            f"{found} is older than 8.6", remedy="Type: pip install 'tensorrt>=8.6'"
        )
    return found


def tensorrt_rtx() -> Bindings:
    """The installed TensorRT for RTX, whose parser and builder need no GPU.

    Raises:
        MissingRuntime: It is not there or cannot be loaded.
    """
    return _loaded("tensorrt_rtx", "TensorRT for RTX", INSTALL_RTX)


def _loaded(package: str, name: str, install: str) -> Bindings:
    try:
        api = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise MissingRuntime(f"{name} is not installed", remedy=install) from error
        raise _broken(name, error, f"Install it again. {install}") from error
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        remedy = "Install the library that it names, or the package again: gpusq doctor"
        raise _broken(name, error, remedy) from error
    if not hasattr(api, "Builder") or not hasattr(api, "OnnxParser"):
        raise MissingRuntime(
            f"the package '{package}' has no builder (a runtime alone?)", remedy=install
        )
    return Bindings(name=name, api=api, version=str(getattr(api, "__version__", "0")))


def _broken(name: str, error: BaseException, remedy: str) -> MissingRuntime:
    return MissingRuntime(f"{name} cannot be loaded: {first_line(error)}", remedy=remedy)


def _pair(version: str) -> tuple[int, int]:
    numbers = [int(part) if part.isdigit() else 0 for part in version.split(".")]
    return (numbers[0], numbers[1]) if len(numbers) > 1 else (numbers[0], 0)


@functools.cache
def _logger_of(api: Any) -> Any:
    class Logger(api.ILogger):  # type: ignore[misc]
        """Hands every message to whoever listens."""

        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.listeners: list[Messages] = []

        def log(self, severity: Any, text: str) -> None:
            for listener in self.listeners:
                listener.hear(severity.name, text)

    return Logger()


def require_gpu() -> Device:
    """The first GPU that the driver shows to this process.

    Raises:
        MissingRuntime: There is no driver or no GPU.
    """
    try:
        driver = cuda_driver()
    except OSError as error:
        raise MissingRuntime("there is no NVIDIA driver here", remedy=NEEDS_GPU) from error
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        reason = f" (CUDA error {status})" if status else ""
        raise MissingRuntime(f"the driver finds no NVIDIA GPU{reason}", remedy=NEEDS_GPU)
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, len(name), device)
    return Device(
        name=name.value.decode(errors="replace"),
        capability=(
            _attribute(driver, device, _MAJOR_CAPABILITY),
            _attribute(driver, device, _MINOR_CAPABILITY),
        ),
    )


def _attribute(driver: Any, device: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int(0)
    driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return value.value


def cuda_driver() -> Any:
    """The library of the NVIDIA driver.

    Raises:
        OSError: There is none.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    return ctypes.CDLL(name)

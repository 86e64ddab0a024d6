"""Everything that can go wrong, as types that know their exit code.

Each error is one line for a person: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class GpusqError(Exception):
    """Base of every error that this program raises on purpose.

    Args:
        what: One sentence: what is wrong.
        where: The node, tensor, file or option concerned.
        remedy: One sentence: what to do.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        located = f"{self.where}: {self.what}" if self.where else self.what
        line = f"{located.rstrip('.')}. {self.remedy}" if self.remedy else located
        return " ".join(line.split())


class OptionError(GpusqError):
    """An option, pass or value that does not exist or does not fit (exit code 2)."""

    exit_code = 2


class RecipeError(OptionError):
    """The content of a recipe file is refused (exit code 1)."""

    exit_code = 1


class ModelError(GpusqError):
    """A model cannot be read, expressed or run (exit code 1)."""

    exit_code = 1


class DataError(GpusqError):
    """Calibration, training or evaluation data do not fit the model (exit code 1)."""

    exit_code = 1


class ReportError(GpusqError):
    """A file is no report of this program (exit code 1)."""

    exit_code = 1


class PreconditionError(GpusqError):
    """A pass cannot run here: something it needs is missing (exit code 1)."""

    exit_code = 1


class PostconditionError(GpusqError):
    """A pass did not keep its promise (exit code 3)."""


class PassBug(GpusqError):
    """A pass left an invalid model or a claim that does not hold (exit code 3)."""


class TrainingError(GpusqError):
    """Training failed: a loss that is not finite, a backend failure, a native crash."""


class MissingRuntime(GpusqError):
    """An optional package or device is absent (exit code 4)."""

    exit_code = 4


class GateError(GpusqError):
    """The answer is no: something that was asked about does not hold (exit code 5)."""

    exit_code = 5


class FileError(GpusqError):
    """A file cannot be read or written (exit code 6)."""

    exit_code = 6


def first_line(error: BaseException) -> str:
    """The first line of a foreign error's message, for use inside one of ours."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__

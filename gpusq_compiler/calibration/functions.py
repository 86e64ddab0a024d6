"""The user's own Python: ``module.py:function``, run so that its failures are one line."""

from __future__ import annotations

import contextlib
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gpusq_compiler.errors import DataError, FileError, GpusqError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def split_spec(spec: str) -> tuple[Path, str] | None:
    """File and function of ``module.py:function``; None when the text is something else."""
    file, _, function = spec.rpartition(":")
    return (Path(file), function) if file.endswith(".py") else None


def load_function(file: Path, name: str) -> Callable[..., object]:
    """Run a Python file and take one function out of it.

    Raises:
        FileError: There is no such file.
        DataError: The file fails, or has no such function.
    """
    if not file.is_file():
        raise FileError(
            "there is no such file", where=str(file), remedy="Give module.py:function"
        )
    with neighbours(file), user_code(str(file)):
        namespace = runpy.run_path(str(file), run_name=file.stem)
    found = namespace.get(name)
    if found is None:
        raise DataError(
            f"has no function '{name}'",
            where=str(file),
            remedy=f"It defines: {', '.join(_functions(namespace)) or 'none'}",
        )
    if not callable(found):
        raise DataError(
            f"'{name}' is of type {type(found).__name__}, not a function",
            where=str(file),
            remedy="Name a function",
        )
    function: Callable[..., object] = found
    return function


@contextlib.contextmanager
def user_code(where: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a DataError."""
    try:
        yield
    except GpusqError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(
            f"raised {type(error).__name__}: {first_line(error)}",
            where=where,
            remedy="Call it alone in Python to see where",
        ) from error


@contextlib.contextmanager
def neighbours(file: Path) -> Iterator[None]:
    """Let code import the modules beside ``file``, as Python does for a script."""
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _functions(namespace: dict[str, object]) -> list[str]:
    return sorted(k for k, v in namespace.items() if callable(v) and not k.startswith("_"))

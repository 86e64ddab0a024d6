"""What TensorRT says, through its logger and past it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Messages:
    """What TensorRT logged, in order.

    Attributes:
        lines: The texts of all severities.
        errors: The texts of errors alone.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []

    def hear(self, severity: str, text: str) -> None:
        """Keep one message."""
        self.lines.append(text)
        if severity.endswith("ERROR"):
            self.errors.append(text)

    @property
    def first_error(self) -> str:
        """The first line of the first error; empty where there is none."""
        return next((text.strip().splitlines()[0] for text in self.errors if text.strip()), "")


@contextlib.contextmanager
def captured(heard: Messages) -> Iterator[None]:
    """Keep what native code prints itself off the terminal, as one error is one line."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        try:
            for descriptor in saved:
                os.dup2(file.fileno(), descriptor)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in saved.items():
                os.dup2(original, descriptor)
                os.close(original)
            file.seek(0)
            heard.lines += file.read().decode(errors="replace").splitlines()

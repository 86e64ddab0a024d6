"""Checkpoints: named sets of arrays with a little state, written whole or not at all."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gpusq_compiler.runtime.samples import Array

STATE = "__state__"


class CheckpointStore(Protocol):
    """Keeps the newest checkpoint of each name."""

    def save(
        self, name: str, arrays: Mapping[str, Array], state: Mapping[str, object]
    ) -> None:
        """Replace the checkpoint ``name``; ``state`` must be expressible in JSON."""
        ...

    def load(self, name: str) -> tuple[dict[str, Array], dict[str, object]] | None:
        """The newest complete checkpoint of that name, or None."""
        ...


class FolderCheckpoints:
    """Checkpoints as ``.npz`` files in a folder.

    Args:
        folder: Created when first needed.
        resume: Whether checkpoints already there count.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        self._folder = folder
        self._resume = resume

    def save(
        self, name: str, arrays: Mapping[str, Array], state: Mapping[str, object]
    ) -> None:
        """Write to a temporary file, then rename: a kill leaves the old one whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(name)
        temporary = path.with_suffix(".tmp")
        text = np.frombuffer(json.dumps(dict(state)).encode(), dtype=np.uint8)
        with temporary.open("wb") as file:
            everything: dict[str, Any] = {STATE: text, **arrays}
            np.savez(file, **everything)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._resume = True

    def load(self, name: str) -> tuple[dict[str, Array], dict[str, object]] | None:
        """Read a checkpoint; None without one or when this run does not resume."""
        path = self._path(name)
        if not self._resume or not path.exists():
            return None
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        state = json.loads(arrays.pop(STATE).tobytes().decode())
        return arrays, state

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"

"""Pruned INT8 layers as `gemms.npz` holds them, in NumPy alone."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BLOCK = 32
"""cuSPARSELt takes INT8 matrices whose sides are multiples of it (16 for FP16)."""

Codes = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One product: its node, operator, rows per sample (0: not known), and codes."""

    name: str
    operator: str
    rows: int
    codes: Codes


def load(path: Path) -> tuple[dict[str, Any], list[Layer]]:
    """Read what the exporter wrote: about the model, and its layers."""
    try:
        with np.load(path) as stored:
            about = json.loads(str(stored["about"]))
            layers = [
                Layer(codes=stored[f"codes_{i}"], **described)
                for i, described in enumerate(about.pop("gemms"))
            ]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{path}: no archive of gemms.py: {error}") from error
    for layer in layers:
        if layer.codes.dtype != np.int8 or not is_sparse(layer.codes):
            raise SystemExit(f"{path}: {layer.name} is no 2:4 matrix of int8")
    return about, layers


def is_sparse(codes: Codes) -> bool:
    """Whether of every four consecutive values of a row at most two are not zero."""
    if codes.shape[1] % 4:
        return False
    groups = codes.reshape(len(codes), -1, 4)
    return bool(np.all(np.count_nonzero(groups, axis=2) <= 2))


def padded(codes: Codes) -> Codes:
    """Zeros behind rows and columns, up to the next multiples of 32; it stays 2:4."""
    behind = [(0, -size % BLOCK) for size in codes.shape]
    return np.pad(codes, behind)


def activations(tokens: int, width: int, seed: int) -> Codes:
    """Random codes without a zero: zeros draw less power and time too fast."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 128, (tokens, width))
    return np.asarray(size * rng.choice([-1, 1], size.shape), np.int8)


def reference(codes: Codes, x: Codes) -> Sums:
    """The integer product, exact: sums of doubles below 2^53 are."""
    assert codes.shape[1] * 128 * 128 < 2**31
    return np.asarray(codes.astype(np.float64) @ x.T.astype(np.float64), np.int32)


def dense_like(codes: Codes, seed: int) -> Codes:
    """A matrix of the same shape without a zero: the negative control."""
    return activations(codes.shape[0], codes.shape[1], seed)


def shapes(layers: Sequence[Layer]) -> dict[tuple[int, int], list[Layer]]:
    """Layers by the shape that is run, so that each is timed once."""
    found: dict[tuple[int, int], list[Layer]] = {}
    for layer in layers:
        rows, columns = padded(layer.codes).shape
        found.setdefault((rows, columns), []).append(layer)
    return found

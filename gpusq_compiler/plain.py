"""From our objects to what JSON can hold, in one way for everything that is written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

FORMAT = 1
"""Of what ``--json`` prints; grows when a key goes or means something else."""


def plain(value: object) -> object:
    """Dataclasses and mappings as objects, sequences as arrays, what is not finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

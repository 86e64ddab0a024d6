"""What TensorRT's builder says of sparsity while it builds, in the wordings of 8.x and later.

8.x     (Sparsity) Layers eligible for sparse math: a, b
        (Sparsity) TRT inference plan picked sparse implementation for layers: b
later   (Sparsity) Found 2 layer(s) eligible to use sparse tactics: a, b
        (Sparsity) Chose 1 layer(s) using sparse tactics: b

The names may be missing. A log can hold several such pairs: one for every part that is
compiled on its own, and again where the builder tries anew.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ELIGIBLE = re.compile(
    r"\(Sparsity\) (?:Layers eligible for sparse math"
    r"|Found (\d+) layer\(s\) eligible to use sparse tactics)(?::[ \t]*(.*))?"
)
_CHOSEN = re.compile(
    r"\(Sparsity\) (?:TRT inference plan picked sparse implementation for layers"
    r"|Chose (\d+) layer\(s\) using sparse tactics)(?::[ \t]*(.*))?"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
    """One line about sparsity.

    Attributes:
        count: How many layers.
        text: Their names as they stand there; None where the line has only a number.
    """

    count: int
    text: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """What could be sparse in one part of a network, and what became sparse.

    Attributes:
        eligible: Layers whose weights have the pattern.
        chosen: Layers for which a sparse tactic was taken; None where the log ends before.
    """

    eligible: Said
    chosen: Said | None = None


def sparsity_pairs(lines: Iterable[str]) -> tuple[Pair, ...]:
    """Every pair in a log, in order; a prefix of date and severity does no harm."""
    pairs: list[Pair] = []
    for line in lines:
        eligible, chosen = _ELIGIBLE.search(line), _CHOSEN.search(line)
        if eligible is not None:
            pairs.append(Pair(eligible=_said(eligible)))
        elif chosen is not None and pairs and pairs[-1].chosen is None:
            pairs[-1] = dataclasses.replace(pairs[-1], chosen=_said(chosen))
        elif chosen is not None:
            pairs.append(Pair(eligible=Said(count=0, text=None), chosen=_said(chosen)))
    return tuple(pairs)


def _said(found: re.Match[str]) -> Said:
    """A line of 8.x always lists names, so nothing behind its colon means none."""
    count, names = found.groups()
    text = (names or "").strip()
    if count is None:
        return Said(count=len(text.split(", ")) if text else 0, text=text)
    return Said(count=int(count), text=text or (None if int(count) else ""))

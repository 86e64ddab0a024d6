"""A picture of where two models part."""

from __future__ import annotations

import importlib.util
import io as memory
import math
from typing import TYPE_CHECKING

from gpusq_compiler.errors import MissingRuntime, OptionError
from gpusq_compiler.ir import io

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from gpusq_compiler.analysis.divergence import Divergence, TensorDifference

OPTION = "--picture"
FORMATS = (".svg", ".png")
HIGHEST = 100.0
"""Decibels that stand for everything above, no error at all included."""
NAMED = 60
"""Up to so many tensors all have their names below; of more, every few."""


def require_drawable(path: Path) -> None:
    """Say before any work that a picture cannot be made.

    Raises:
        OptionError: Its name ends otherwise than in .svg or .png.
        MissingRuntime: matplotlib is not installed.
        FileError: It cannot be written there.
    """
    if path.suffix.lower() not in FORMATS:
        raise OptionError(
            f"'{path.name}' is no picture's name",
            where=OPTION,
            remedy=f"End it in {' or '.join(FORMATS)}",
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingRuntime(
            "matplotlib is not installed",
            where=OPTION,
            remedy="Type: pip install 'gpusq-compiler[report]'",
        )
    io.require_writable(path)


def draw(found: Divergence, path: Path, title: str) -> None:
    """Draw SQNR and cosine of every tensor in order, and write the picture whole.

    Args:
        found: What is drawn.
        path: Ends in .svg or .png.
        title: Above it.

    Raises:
        FileError: It cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    tensors = found.tensors
    with matplotlib.rc_context({"svg.hashsalt": "gpusq"}):
        figure = Figure(
            figsize=(min(24, max(8, 0.18 * len(tensors))), 7), layout="constrained"
        )
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        figure.suptitle(title)
        _decibels(above, found)
        below.plot([one.cosine for one in tensors], ".-", color="tab:green")
        below.set_ylabel("cosine")
        below.margins(x=0.01)
        _names(below, tensors)
        content = memory.BytesIO()
        kind = path.suffix.lower().removeprefix(".")
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(content, format=kind, metadata=metadata)
    io.write_whole(path, content.getvalue(), option=OPTION)


def _decibels(axes: Axes, found: Divergence) -> None:
    heights = [_height(one.sqnr) for one in found.tensors]
    axes.plot(heights, ".-")
    axes.axhline(found.limit, color="tab:red", linestyle=":", label=f"{found.limit:g} dB")
    if found.parts is not None:
        place = found.tensors.index(found.parts)
        axes.axvline(place, color="tab:red", alpha=0.4, label=f"part at {found.parts.name}")
    axes.set_ylabel(f"SQNR in dB, at most {HIGHEST:g}")
    axes.legend(loc="upper right")


def _height(sqnr: float) -> float:
    return min(sqnr, HIGHEST) if not math.isnan(sqnr) else math.nan


def _names(axes: Axes, tensors: Sequence[TensorDifference]) -> None:
    places = range(0, len(tensors), 1 + len(tensors) // NAMED)
    names = [tensors[place].name for place in places]
    axes.set_xticks(list(places), names, rotation=90, fontsize=6)

"""Numbers as people read them; a dash stands for what is not known."""

from __future__ import annotations

NOTHING = "–"  # noqa: RUF001  an en dash
SHARES = frozenset({"accuracy", "topk"})
UNITS = (("bytes", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9))


def size(count: float | None) -> str:
    """Bytes in a unit that leaves at most three digits before the point."""
    if count is None:
        return NOTHING
    unit = next((u for u, most in UNITS if abs(count) < 1000 * most), UNITS[-1][0])
    value = count / dict(UNITS)[unit]
    if unit == "bytes":
        return f"{value:.0f} bytes"
    return f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}"


def score(metric: str, value: float | None) -> str:
    """A metric: shares in per cent, the rest with four digits behind the point."""
    if value is None:
        return NOTHING
    return f"{value:.2%}".replace("%", " %") if metric in SHARES else f"{value:.4f}"


def gain(metric: str, before: float, after: float) -> str:
    """How a metric moved, with its sign."""
    moved = after - before
    return f"{100 * moved:+.2f} points" if metric in SHARES else f"{moved:+.4f}"


def share(value: float | None) -> str:
    """A part of a whole in per cent."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def rare(value: float | None) -> str:
    """A part of a whole that may be tiny."""
    if value is None:
        return NOTHING
    return "below 0.001 %" if 0 < value < 1e-5 else f"{100 * value:.2g} %"


def short(value: float | None) -> str:
    """Three significant digits."""
    return NOTHING if value is None else f"{value:.3g}"


def whole(value: float | None) -> str:
    """A count, in groups of three digits."""
    return NOTHING if value is None else f"{value:,.0f}".replace(",", "\u202f")


def decibel(value: float | None) -> str:
    """A ratio of energies."""
    return NOTHING if value is None else f"{value:.1f} dB"


def cosine(value: float | None) -> str:
    """A cosine, whose digits count where it is close to one."""
    return NOTHING if value is None else f"{value:.4f}"


def milliseconds(value: float | None) -> str:
    """A latency."""
    return NOTHING if value is None else f"{value:.3f} ms"


def seconds(value: float | None) -> str:
    """A duration: seconds, from two minutes on minutes."""
    if value is None:
        return NOTHING
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def times(before: float | None, after: float | None) -> str:
    """How many times smaller the second is."""
    if before is None or not after:
        return NOTHING
    return f"{before / after:.2f}×"  # noqa: RUF001

"""Numbers as people read them."""

from __future__ import annotations


def digits(number: float) -> str:
    """Three digits or the whole part, whichever is more: ``0.147``, ``57.8``, ``12582``."""
    return f"{number:.3g}" if number < 999.5 else f"{number:.0f}"


def count(number: int) -> str:
    """``512``, ``11.68 M``, ``4241 M``."""
    return str(number) if number < 1e5 else f"{number / 1e6:.4g} M"


def size(number: int) -> str:
    """Bytes: ``0.59 kB``, ``46.75 MB``."""
    return f"{number / 1e3:.4g} kB" if number < 1e6 else f"{number / 1e6:.4g} MB"


def share(part: float, whole: float) -> str:
    """``93.5%``; of nothing it is all."""
    return f"{part / whole if whole else 1:.1%}"


def plural(number: int, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{number} {noun}{'s' * (number != 1)}"

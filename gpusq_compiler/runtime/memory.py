"""How much memory this process holds, as far as the system tells."""

from __future__ import annotations

import os
import sys
from pathlib import Path

STATM = Path("/proc/self/statm")


def resident() -> int | None:
    """Bytes held now; where only the peak is known that, and None where nothing is."""
    try:
        pages = int(STATM.read_text(encoding="ascii").split()[1])
    except OSError:  # a system without /proc
        return peak()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak() -> int | None:
    """The most bytes that this process has held so far; None where nobody keeps count."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""Tables of the documentation, which stand between two comments of a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

END = "<!-- end -->"


def fill(page: Path, name: str, content: str) -> None:
    """Replace what stands between the comment of that name and the next end."""
    begin = f"<!-- {name} -->\n"
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}{content}{END}{rest.partition(END)[2]}")

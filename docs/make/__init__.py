"""What of the documentation is made from the code, so that it cannot say anything else.

``python -m docs.make`` writes it; a test fails while a file differs. Whole files are made
where nothing is left to say by hand; elsewhere the part between two comments,
``<!-- made: NAME -->`` and ``<!-- end -->``, is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
MADE = re.compile(r"(?<=<!-- made: )(\S+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def files() -> dict[Path, str]:
    """Every file that is made, wholly or in part, with the text that it should have."""
    from docs.make import api, commands, components, messages, passes, pictures, rules

    whole = {
        **commands.pages(),
        **pictures.files(),
        "api.md": api.page(),
        "components.md": components.page(),
        "lint.md": rules.page(),
        "messages.md": messages.page(),
    }
    parts = passes.parts()
    texts = {DOCS / name: text for name, text in whole.items()}
    for path in sorted((DOCS / "passes").glob("*.md")):
        texts[path] = filled(path.read_text(encoding="utf-8"), parts)
    return texts


def filled(text: str, parts: Mapping[str, str]) -> str:
    """A page with its marked parts made anew."""
    return MADE.sub(lambda found: f"{found[1]}{found[2]}\n{parts[found[1]]}\n", text)


def table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [headings, ("---",) * len(headings), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    """Text of a cell; angle brackets outside of code would be read as HTML."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(
        part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts)
    )

"""Docstrings in Markdown: Google's sections become lists, drawings and formulas stay."""

from __future__ import annotations

import re
import textwrap

SECTIONS = ("Args", "Attributes", "Class attributes", "Returns", "Raises", "Yields")
HEADING = re.compile(rf"^({'|'.join(SECTIONS)}):$")
ENTRY = re.compile(r"^(\w[\w., ]*?): +(.*)$", re.DOTALL)


def markdown(doc: str) -> str:
    """A docstring that was cleaned of its indentation."""
    blocks = re.split(r"\n\n+", doc.replace("``", "`").strip())
    return "\n\n".join(_block(block) for block in blocks)


def _block(block: str) -> str:
    lines = block.splitlines()
    heading = HEADING.match(lines[0])
    if heading is not None:
        return f"**{heading[1]}**\n\n{_list(lines[1:], named=heading[1] != 'Returns')}"
    if all(line.startswith("    ") for line in lines):
        return "```text\n" + textwrap.dedent(block) + "\n```"
    return block


def _list(lines: list[str], *, named: bool) -> str:
    entries: list[str] = []
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        if line.startswith(" ") and entries:
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line.strip())
    if not named:
        return " ".join(entries)
    return "\n".join(f"- {_entry(entry)}" for entry in entries)


def _entry(entry: str) -> str:
    found = ENTRY.match(entry)
    return f"`{found[1]}`: {found[2]}" if found else entry

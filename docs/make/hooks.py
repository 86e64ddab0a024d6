"""What MkDocs does beyond its own: root pages join the site, and no page is left out of it.

Pages are written for the code host, where links lead to files anywhere in the repository. On
the site CONTRIBUTING, CHANGELOG and the models' page are pages, too, and links follow them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "models/README.md": "models.md",
}
"""Pages outside of ``docs/`` and what they are on the site; the README is told again by its
first pages."""
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(#[^)\s]*)?(?=\))")
REST = "More"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Let the root pages in, and pages that the navigation does not name."""
    from mkdocs.structure.files import File

    for place, page in PAGES.items():
        if page != "index.md":
            text = (ROOT / place).read_text(encoding="utf-8")
            made = File.generated(
                config, page, content=followed(text, posixpath.dirname(place))
            )
            files.append(made)
    assert config.nav is not None
    config.nav = completed(config.nav, [file.src_uri for file in files.documentation_pages()])
    return files


def completed(nav: list[Any], pages: Iterable[str]) -> list[Any]:
    """A navigation with the pages that it does not name at its end."""
    rest = sorted(set(pages) - set(_pages(nav)))
    return [*nav, {REST: rest}] if rest else nav


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Let links out of ``docs/`` follow the pages that they lead to."""
    home = posixpath.join("docs", posixpath.dirname(page.file.src_uri))
    return followed(markdown, home) if page.file.abs_src_path else markdown


def followed(text: str, home: str) -> str:
    """A page with its links as the site has them.

    Args:
        text: Markdown.
        home: The folder of its file, from the root of the repository.
    """
    site = home.removeprefix("docs").strip("/") if home.startswith("docs") else ""

    def led(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(home, found[1]))
        place = PAGES.get(target, target.removeprefix("docs/"))
        if place == target:
            return found[0]
        return posixpath.relpath(place, site or ".") + (found[2] or "")

    return LINK.sub(led, text)


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    inner = nav.values() if isinstance(nav, dict) else nav
    return [page for part in inner for page in _pages(part)]

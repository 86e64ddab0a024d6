"""The documentation as a site: it builds, it fetches nothing, and its links lead somewhere."""

from __future__ import annotations

import html.parser
import posixpath
import re
import subprocess
import sys
import urllib.parse
from typing import TYPE_CHECKING

import pytest

from docs.make import hooks
from tests import shell

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("mkdocs", reason="needs MkDocs: pip install 'gpusq-compiler[docs]'")
pytest.importorskip("material", reason="needs mkdocs-material: pip install .[docs]")

FETCHED = {"script": "src", "link": "href", "img": "src", "source": "srcset", "iframe": "src"}
"""What a browser asks for by itself, and where it stands."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = shell.spawn(words, shell.ROOT, stdout=subprocess.PIPE)
    assert done.code == 0, done.err
    return folder


class Reader(html.parser.HTMLParser):
    """Collects what a page fetches, where it links to, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Sort one element's addresses."""
        values = dict(attrs)
        if values.get("id"):
            self.anchors.add(str(values["id"]))
        if tag in FETCHED and values.get(FETCHED[tag]):
            self.fetched.append(str(values[FETCHED[tag]]))
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        self.fetched += re.findall(r"url\(([^)]*)\)", values.get("style") or "")


def remote(address: str) -> bool:
    return address.strip("\"' ").startswith(("http:", "https:", "//"))


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 45
    for page in pages:
        text = page.read_text(encoding="utf-8")
        found = [*Reader(text).fetched, *re.findall(r"@import[^;]*|url\([^)]*\)", text)]
        assert not [one for one in found if remote(re.sub(r"^url\(|@import", "", one))], page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        found = re.findall(r"(?:@import\s*|url\()([^)\s;]*)", text)
        assert not [one for one in found if remote(one)], sheet


def test_links_and_anchors_lead_somewhere(site: Path) -> None:
    readers = {
        page.relative_to(site).as_posix(): Reader(page.read_text(encoding="utf-8"))
        for page in site.rglob("*.html")
    }
    for name, reader in readers.items():
        if name == "404.html":  # its addresses are those of the server's root
            continue
        for address in {*reader.links, *reader.fetched}:
            parts = urllib.parse.urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            place = posixpath.normpath(posixpath.join(posixpath.dirname(name), parts.path))
            target = name if not parts.path else urllib.parse.unquote(place)
            if target == ".":
                target = "index.html"
            assert (site / target).exists(), f"{name}: {address}"
            if parts.fragment and target in readers and parts.fragment != "__skip":
                assert parts.fragment in readers[target].anchors, f"{name}: {address}"


def test_every_page_can_be_reached_from_the_first(site: Path) -> None:
    first = set(Reader((site / "index.html").read_text(encoding="utf-8")).links)
    pages = (page.relative_to(site).as_posix() for page in site.rglob("*.html"))
    assert set(pages) - first <= {"index.html", "404.html"}


def test_links_follow_pages_to_the_site() -> None:
    text = "[a](docs/trt.md#lint) [b](models/README.md) [c](https://x.y/z.md) [d](#here)"
    assert hooks.followed(text, "") == (
        "[a](trt.md#lint) [b](models.md) [c](https://x.y/z.md) [d](#here)"
    )
    text = "[a](../../CONTRIBUTING.md) [b](../trt.md) [c](../../CHANGELOG.md#x)"
    assert hooks.followed(text, "docs/passes") == (
        "[a](../contributing.md) [b](../trt.md) [c](../changelog.md#x)"
    )
    assert hooks.followed("[a](../README.md)", "docs") == "[a](index.md)"


def test_pages_that_nobody_names_come_last() -> None:
    nav = [{"Start": ["index.md", {"Deep": ["a/b.md"]}]}]
    assert hooks.completed(nav, ["index.md", "a/b.md"]) == nav
    assert hooks.completed(nav, ["new.md", "index.md"]) == [*nav, {"More": ["new.md"]}]

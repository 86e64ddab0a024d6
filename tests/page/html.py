"""Reading a page as a browser would, without one."""

from __future__ import annotations

import dataclasses
import html.parser
from typing import TypeAlias

VOID = frozenset({"br", "meta", "link", "img", "input", "hr"})
Attributes: TypeAlias = "dict[str, str | None]"


@dataclasses.dataclass
class Tag:
    """An element: its name, its attributes, the text in it and its children's."""

    name: str
    attributes: Attributes
    parts: list[str] = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.parts)


class Page(html.parser.HTMLParser):
    """All elements of a page; every one must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[Tag] = []
        self.declarations: list[str] = []
        self._open: list[Tag] = []
        self.feed(text)
        self.close()
        assert not self._open, [tag.name for tag in self._open]

    def handle_decl(self, decl: str) -> None:
        self.declarations.append(decl)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice: {names}"
        self.tags.append(Tag(tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(self.tags[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            tag.parts.append(data)

    def all(self, name: str) -> list[Tag]:
        """Every element of this name, in order."""
        return [tag for tag in self.tags if tag.name == name]

    def section(self, name: str) -> str:
        """The text of a section, spaces made equal."""
        (found,) = (tag for tag in self.all("section") if tag.attributes["id"] == name)
        return " ".join(found.text.split())

    @property
    def sections(self) -> list[str | None]:
        """Names of all sections, in order."""
        return [tag.attributes["id"] for tag in self.all("section")]

"""Shapes of SVG that take the reader's light or dark, and no font of their own."""

from __future__ import annotations

import dataclasses
from html import escape

STYLE = """
text{font:14px system-ui,sans-serif;fill:#22272e}
.small{font-size:12px}.bold{font-weight:600}.faint{fill:#6a737d}
.mid{text-anchor:middle}.end{text-anchor:end}
.box{fill:#f3f5f7;stroke:#8c959f}.main{fill:#d3eeea;stroke:#00796b}
.keep{fill:#00897b;stroke:#fff}.zero{fill:#eef0f2;stroke:#fff}.bad{fill:#f6d5d0;stroke:#b3261e}
.on{fill:#fff}.line{fill:none;stroke:#57606a;stroke-width:1.5}.ours{stroke:#00897b;stroke-width:2.5}
.wrong{stroke:#b3261e}.dash{stroke-dasharray:5 4}.tip{fill:#57606a}
.red{fill:#b3261e}.green{fill:#00695c}
@media(prefers-color-scheme:dark){
text{fill:#e6e9ec}.faint{fill:#9aa4ae}.box{fill:#2d333b;stroke:#768390}
.main{fill:#0f3d38;stroke:#4db6ac}.keep{fill:#26a69a;stroke:#1e2129}
.zero{fill:#373e47;stroke:#1e2129}.bad{fill:#5c2521;stroke:#f2938c}.on{fill:#06201d}
.line{stroke:#adbac7}.ours{stroke:#4db6ac}.wrong{stroke:#f2938c}.tip{fill:#adbac7}
.red{fill:#f2938c}.green{fill:#80cbc4}}
"""
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    'markerUnits="userSpaceOnUse" orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker>'
)


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A picture that grows shape by shape.

    Attributes:
        width: In pixels, as is all else.
        height: Likewise.
        title: What readers hear who cannot see it.
        shapes: What was drawn, as SVG.
    """

    width: int
    height: int
    title: str
    shapes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        size = f'width="{self.width}" height="{self.height}"'
        view = f'viewBox="0 0 {self.width} {self.height}"'
        body = "\n".join(self.shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {view} {size} role="img">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n"
            f"<defs>{TIP}</defs>\n{body}\n</svg>\n"
        )

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """Words whose baseline is at ``y``; ``mid`` and ``end`` say where ``x`` is."""
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>')

    def box(self, x: float, y: float, size: tuple[float, float], kind: str = "box") -> None:
        """A rectangle with round corners."""
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{size[0]:g}" height="{size[1]:g}" rx="4" '
            f'class="{kind}"/>'
        )

    def named(
        self, x: float, y: float, size: tuple[float, float], words: str, kind: str = "box"
    ) -> None:
        """A box with words in its middle."""
        self.box(x, y, size, kind)
        self.text(x + size[0] / 2, y + size[1] / 2 + 5, words, "mid")

    def cell(self, x: float, y: float, side: float, kind: str, words: str = "") -> None:
        """A square of a matrix."""
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" class="{kind}"/>'
        )
        if words:
            inside = "on" if kind == "keep" else "faint"
            self.text(x + side / 2, y + side / 2 + 4, words, f"small mid {inside}")

    def path(self, points: str, kind: str = "", *, arrow: bool = False) -> None:
        """A line along the points of an SVG path."""
        tip = ' marker-end="url(#tip)"' if arrow else ""
        self.shapes.append(f'<path d="{points}" class="line {kind}"{tip}/>')

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], kind: str = ""
    ) -> None:
        """A straight arrow."""
        self.path(f"M{start[0]:g} {start[1]:g}L{end[0]:g} {end[1]:g}", kind, arrow=True)

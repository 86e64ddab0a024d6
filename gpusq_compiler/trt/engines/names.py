"""Which nodes of a model stand behind the name of an engine's layer.

An engine's layer is called after what was fused into it:

a + b                      both, also with ``||`` for what runs side by side
PWN(a, b)                  elementwise operators in one kernel
{ForeignNode[a...b]}       everything from a to b, or what the log says of it
__myl_..., a_myl0_3        a name of the compiler behind; then its metadata says
[ONNX Layer: a]            metadata

A node without a name goes by ``node_of_`` and the name of its output.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

UNNAMED = "node_of_"
_FOREIGN = re.compile(r"\{ForeignNode\[(.*?)\.\.\.(.*?)\]\}")
_FOREIGN_METADATA = re.compile(r"ForeignNode (\{ForeignNode\[.*?\]\}) metadata: (.*)")
_METADATA = re.compile(
    r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]|\[ONNX Layer: |\s*$)", re.MULTILINE
)
_JOINTS = re.compile(r" \+ | \|\| ")
_FINE_JOINTS = re.compile(r"\bPWN\(|, |[(){}\[\]]")


class NodeNames:
    """The nodes of a model by the names that TensorRT knows them by.

    Args:
        model: The one that the engine was built from.
        lines: The builder's log, which may say what a ForeignNode consists of.
    """

    def __init__(self, model: ir.Model, lines: Iterable[str] = ()) -> None:
        self._places: dict[str, int] = {}
        nodes = ir.traversal.RecursiveGraphIterator(model.graph)
        for place, node in enumerate(nodes):
            self._places.setdefault(name_of(node), place)
            for value in node.outputs[:1]:
                self._places.setdefault(f"{UNNAMED}{value.name}", place)
        self._names = {place: name for name, place in reversed(self._places.items())}
        self._foreign = foreign_nodes(lines)

    def listed(self, text: str) -> tuple[frozenset[str], bool]:
        """Nodes that a list of layers names one by one, and whether it names no others.

        A ForeignNode counts as another: not all that is in it need be meant.
        """
        places: set[int] = set()
        complete = True
        for item in filter(None, text.split(", ")):
            found = [place for part in _JOINTS.split(item) for place in self._pieces(part)]
            complete = complete and bool(found)
            places.update(found)
        return self._called(places), complete

    def within(self, text: str) -> frozenset[str]:
        """Nodes behind the name of a layer, called as `name_of` does."""
        if text in self._places:
            return self._called([self._places[text]])
        places: list[int] = []
        for found in _FOREIGN.finditer(text):
            places += self._inside(*found.group(0, 1, 2))
        for part in _JOINTS.split(_FOREIGN.sub("", text)):
            places += self._pieces(part)
        return self._called(places)

    def _called(self, places: Iterable[int]) -> frozenset[str]:
        return frozenset(self._names[place] for place in places)

    def _pieces(self, part: str) -> Iterator[int]:
        pieces = [part] if part in self._places else _FINE_JOINTS.split(part)
        yield from (self._places[piece] for piece in pieces if piece in self._places)

    def _inside(self, whole: str, first: str, last: str) -> Iterable[int]:
        """What the log says; else from one end to the other; else the end that is known."""
        if whole in self._foreign:
            return (self._places[n] for n in self._foreign[whole] if n in self._places)
        ends = [self._places[name] for name in (first, last) if name in self._places]
        return range(min(ends), max(ends) + 1) if ends else ()


def name_of(node: ir.Node) -> str:
    """The name of a node; one without is called after its first output, as elsewhere here."""
    return node.name or (node.outputs[0].name if node.outputs else "") or ""


def metadata_names(text: str) -> tuple[str, ...]:
    """Names in the metadata of a layer, without the properties that may follow them."""
    return tuple(found.split(" | ")[0] for found in _METADATA.findall(text))


def foreign_nodes(lines: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """What a log says of the nodes that were handed to the compiler behind."""
    found = {}
    for line in lines:
        said = _FOREIGN_METADATA.search(line)
        if said is not None:
            found[said[1]] = metadata_names(said[2])
    return found

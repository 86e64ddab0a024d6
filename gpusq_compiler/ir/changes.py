"""What a pass touched: computed from before and after, never believed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import onnx_ir as ir

from gpusq_compiler.ir.claims import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changes:
    """Names of what differs between two moments of one model, in graph order."""

    tensors: tuple[str, ...]
    nodes: tuple[str, ...]
    metadata: tuple[str, ...]
    interface: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.tensors or self.nodes or self.metadata or self.interface)


class Snapshot:
    """The identity of every tensor, node and claim of a model at one moment.

    Tensors count by object: weights change only through `edit.replace_weight`, which makes a
    new one, so nothing has to be read or hashed. The snapshot keeps the objects alive.
    """

    def __init__(self, model: ir.Model) -> None:
        self._tensors: dict[str, object] = {}
        self._nodes: dict[str, tuple[object, ...]] = {}
        self._metadata: dict[str, str] = {}
        for graph in model.graphs():
            for name, value in graph.initializers.items():
                self._tensors[name] = value.const_value
                self._remember(name, value.metadata_props)
            for node in graph:
                self._nodes[node.name or ""] = _form(node)
                self._remember(node.name or "", node.metadata_props)
        self._remember("", model.metadata_props)
        ends = (*model.graph.inputs, *model.graph.outputs)
        self._interface = {value.name or "": str(value.dtype) for value in ends}

    def _remember(self, owner: str, properties: dict[str, str]) -> None:
        for key, text in properties.items():
            if key.startswith(PREFIX):
                self._metadata[f"{owner}:{key}"] = text

    def until(self, after: Snapshot) -> Changes:
        """What changed between this snapshot and a later one."""
        return Changes(
            tensors=_differences(self._tensors, after._tensors),
            nodes=_differences(self._nodes, after._nodes),
            metadata=_differences(self._metadata, after._metadata),
            interface=_differences(self._interface, after._interface),
        )


def _form(node: ir.Node) -> tuple[object, ...]:
    attributes = tuple(
        (key, _content(node.attributes[key])) for key in sorted(node.attributes)
    )
    reads = tuple(value.name if value is not None else "" for value in node.inputs)
    writes = tuple(value.name for value in node.outputs)
    return node.domain, node.op_type, attributes, reads, writes


def _content(attribute: ir.Attr) -> object:
    """The value of an attribute; the bodies of If and Loop are visited on their own."""
    if attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
        return attribute.type
    return attribute.value


def _differences(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[str, ...]:
    missing = object()
    changed = [key for key in before if not _same(before[key], after.get(key, missing))]
    return (*changed, *(key for key in after if key not in before))


def _same(left: object, right: object) -> bool:
    return left is right or (isinstance(left, tuple | str) and left == right)

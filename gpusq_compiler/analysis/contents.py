"""What is in a model file: interface, operators, constants, notes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

import onnx_ir as ir
import tomlkit
import tomlkit.exceptions

from gpusq_compiler.ir import claims, io, query

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """An input or output; ``?`` and names stand for free sizes, None for an unknown rank."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        sizes = (
            "of unknown rank" if self.shape is None else f"[{', '.join(map(str, self.shape))}]"
        )
        return f"{self.name} {self.dtype} {sizes}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """All constants of one type."""

    dtype: str
    tensors: int
    values: int
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file holds.

    Attributes:
        bytes: Of all its files.
        data_files: Those beside the model, with weights.
        ir_version: Of ONNX.
        opsets: By domain; the default domain is ``ai.onnx``.
        producer: What wrote it, with its version.
        complaint: Why it cannot be worked on; None where nothing speaks against it.
        inputs: Of the graph, defaults included.
        outputs: Of the graph.
        operators: How often each stands in the graph and in the bodies of If and Loop.
        functions: Nodes of each function of the model.
        constants: By type, those in Constant nodes and functions included.
        metadata: Notes on the model.
        recipe: Passes that the notes say were run on it.
        packed: Weights that the file holds without their zeros; here they are unpacked.
    """

    bytes: int
    data_files: tuple[str, ...]
    ir_version: int
    opsets: Mapping[str, int]
    producer: str
    complaint: str | None
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    operators: Mapping[str, int]
    functions: Mapping[str, int]
    constants: tuple[Constants, ...]
    metadata: Mapping[str, str]
    recipe: tuple[str, ...]
    packed: tuple[str, ...]


def contents_of(model: ir.Model, *, complaint: str | None = None) -> Contents:
    """Look into a model that was loaded from a file.

    Args:
        model: Left as it is.
        complaint: What `ir.soundness` says against it.
    """
    files = sorted({path.name for path in io.data_files(model)})
    written_by = (model.producer_name, model.producer_version)
    return Contents(
        bytes=io.source_size(model),
        data_files=tuple(files),
        ir_version=model.ir_version or 0,
        opsets={domain or "ai.onnx": number for domain, number in model.opset_imports.items()},
        producer=" ".join(word for word in written_by if word),
        complaint=complaint,
        inputs=tuple(map(_end, model.graph.inputs)),
        outputs=tuple(map(_end, model.graph.outputs)),
        operators=_counted(_nodes(model.graph)),
        functions={
            f"{function.domain}.{function.name}": len(list(_nodes(function)))
            for function in model.functions.values()
        },
        constants=_constants(model),
        metadata=dict(model.metadata_props),
        recipe=_recipe(model.metadata_props.get(claims.PREFIX + "recipe", "")),
        packed=io.packed_weights(model),
    )


def _end(value: ir.Value) -> End:
    kind = "unknown type" if value.type is None else str(value.type)
    if value.dtype is not None and isinstance(value.type, ir.TensorType):
        kind = value.dtype.name.lower()
    shape = None if value.shape is None else tuple(map(_size, value.shape))
    return End(name=value.name or "", dtype=kind, shape=shape)


def _size(size: int | ir.SymbolicDim) -> int | str:
    return size if isinstance(size, int) else str(size.value or "?")


def _nodes(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    return iter(ir.traversal.RecursiveGraphIterator(graph))


def _counted(nodes: Iterator[ir.Node]) -> dict[str, int]:
    names = Counter(
        node.op_type
        if node.domain in query.DEFAULT_DOMAIN
        else f"{node.domain}.{node.op_type}"
        for node in nodes
    )
    return dict(names.most_common())


def constants(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every constant of a model, those in nodes and functions included."""
    for graph in model.graphs():
        held = (value.const_value for value in graph.initializers.values())
        yield from (tensor for tensor in held if tensor is not None)
    owners: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for owner in owners:
        for node in _nodes(owner):
            attribute = node.attributes.get("value") if query.is_op(node, "Constant") else None
            if attribute is not None and attribute.type == ir.AttributeType.TENSOR:
                yield attribute.as_tensor()


def _constants(model: ir.Model) -> tuple[Constants, ...]:
    tensors: dict[str, list[ir.TensorProtocol]] = {}
    for tensor in constants(model):
        tensors.setdefault(tensor.dtype.name.lower(), []).append(tensor)
    found = (
        Constants(
            dtype=dtype,
            tensors=len(held),
            values=sum(int(tensor.size) for tensor in held),
            bytes=sum(int(tensor.nbytes) for tensor in held),
        )
        for dtype, held in tensors.items()
    )
    return tuple(sorted(found, key=lambda one: one.bytes, reverse=True))


def _recipe(text: str) -> tuple[str, ...]:
    """Names of the passes of a recipe; none where it cannot be read."""
    try:
        document = tomlkit.parse(text).unwrap()
    except tomlkit.exceptions.TOMLKitError:
        return ()
    steps = document.get("pass", [])
    if not isinstance(steps, list):
        return ()
    return tuple(str(step.get("use")) for step in steps if isinstance(step, dict))

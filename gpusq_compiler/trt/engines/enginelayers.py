"""The layers of an engine, as its inspector writes them and as the builder logs them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpusq_compiler.errors import ModelError
from gpusq_compiler.trt.engines.names import metadata_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gpusq_compiler.trt.engines.names import NodeNames

TYPES = (
    (r"\bint8\b", "int8"),
    (r"\b(?:bf16|bfloat16)\b", "bfloat16"),
    (r"\b(?:fp16|half)\b", "float16"),
    (r"\bfp8\b|\bfloat8", "float8"),
    (r"\bint4\b", "int4"),
    (r"\bfp4\b", "float4"),
    (r"\b(?:fp32|float)\b", "float32"),
    (r"\bint32\b", "int32"),
    (r"\bint64\b", "int64"),
    (r"\bbool\b", "bool"),
    (r"\buint8\b", "uint8"),
)
"""What the words of a format mean; the first that matches wins."""

PRODUCT = re.compile(
    r"gemm|conv(?!er)|correlation|matrix_?multiply|fully_?connected", re.IGNORECASE
)
FUSION = re.compile(r"fusion", re.I)
"""Several operators in one kernel, which may be a product among them."""
CAST = re.compile(r"Cast\w*(?:Fc|Conv|Bmm)")
"""In the name of a fused kernel: what is multiplied was made float before."""
SPARSE = re.compile(r"sparse|spmma|sptensor", re.IGNORECASE)
HIDDEN = re.compile(r"stub|^(0x[0-9a-f]*)?$", re.IGNORECASE)
"""Tactics that say nothing: bare numbers, and placeholders as in TensorRT for RTX."""

_LISTED = re.compile(r"^Name: (.*?), LayerType: (\S+?), (.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineLayer:
    """One layer of an engine.

    Attributes:
        name: As the engine calls it.
        kind: Its type, of which there are different ones in every version.
        nodes: Nodes of the model that went into it.
        factors: Types of what it reads, its weights behind its inputs.
        outputs: Types of what it writes.
        tactic: The kernel; empty where it is not told.
        sparse_weights: Whether the engine says that its weights have the pattern.
    """

    name: str
    kind: str
    nodes: frozenset[str]
    factors: tuple[str, ...]
    outputs: tuple[str, ...]
    tactic: str = ""
    sparse_weights: bool | None = None

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices or convolves."""
        return PRODUCT.search(self.kind) is not None

    @property
    def is_foreign(self) -> bool:
        """Whether it holds a whole part of the model."""
        return "ForeignNode" in self.name or "myelin" in self.kind.lower()

    @property
    def is_fusion(self) -> bool:
        """Whether it is a kernel of several operators; then a product may be one of them."""
        return FUSION.search(self.kind) is not None

    @property
    def is_integer(self) -> bool | None:
        """Whether it multiplies INT8 with INT8; None where that cannot be seen.

        A fused kernel reads codes also where it casts them before it multiplies.
        """
        if self.is_product:
            return self.factors[:2] == ("int8", "int8")
        return False if self.is_fusion and CAST.search(self.name) else None

    @property
    def is_sparse(self) -> bool | None:
        """Whether its tactic is a sparse one; None where the tactic is not told."""
        if SPARSE.search(self.tactic):
            return True
        return None if self.is_foreign or HIDDEN.search(self.tactic) else False


def from_inspector(text: str, names: NodeNames) -> tuple[EngineLayer, ...]:
    """The layers in the inspector's JSON, or in what ``trtexec --exportLayerInfo`` wrote.

    Raises:
        ModelError: It is no such JSON, or without details.
    """
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    found = parsed.get("Layers") if isinstance(parsed, Mapping) else None
    if not isinstance(found, list):
        raise ModelError(
            "not the layers of an engine as JSON",
            remedy="Give what trtexec --exportLayerInfo wrote",
        )
    if not all(isinstance(layer, Mapping) for layer in found):
        raise ModelError(
            "the engine tells the names of its layers alone",
            remedy="Build it with --profilingVerbosity=detailed",
        )
    return tuple(_inspected(layer, names) for layer in found)


def from_log(lines: Iterable[str], names: NodeNames) -> tuple[EngineLayer, ...]:
    """The layers that the builder lists at the end of a verbose log."""
    lists = [text for text in lines if text.startswith("Layers:")]
    found = _LISTED.findall("\n".join(lists))
    return tuple(_listed(name, kind, rest, names) for name, kind, rest in found)


def type_of(words: str) -> str:
    """The element type in the description of a format; the words where it is none of ours."""
    known = (name for pattern, name in TYPES if re.search(pattern, words, re.IGNORECASE))
    return next(known, words)


def _inspected(layer: Mapping[str, Any], names: NodeNames) -> EngineLayer:
    name, metadata = str(layer.get("Name", "")), str(layer.get("Metadata", ""))
    weights = layer.get("Weights")
    factors = [*_types(layer.get("Inputs")), *_types(layer.get("Constants"))]
    if isinstance(weights, Mapping) and weights.get("Count"):
        factors.insert(1, type_of(str(weights.get("Type", ""))))
    marks = [layer[key] for key in ("HasSparseWeights", "AllowSparse") if key in layer]
    tactic = layer.get("TacticName") or layer.get("TacticValue") or ""
    return EngineLayer(
        name=name,
        kind=str(layer.get("LayerType", "")),
        nodes=_nodes(name, metadata, names),
        factors=tuple(factors),
        outputs=tuple(_types(layer.get("Outputs"))),
        tactic=str(tactic),
        sparse_weights=str(marks[0]).lower() in {"1", "true"} if marks else None,
    )


def _types(tensors: object) -> Iterator[str]:
    for tensor in tensors if isinstance(tensors, list) else ():
        words = tensor.get("Datatype") or tensor.get("Format/Datatype") or ""
        yield type_of(str(words))


def _listed(name: str, kind: str, rest: str, names: NodeNames) -> EngineLayer:
    read, _, written = rest.partition("Outputs: ")
    written, _, end = written.partition("TacticName: ")
    tactic, _, metadata = end.partition(", StreamId")
    return EngineLayer(
        name=name,
        kind=kind,
        nodes=_nodes(name, metadata.partition("Metadata: ")[2], names),
        factors=tuple(map(type_of, re.findall(r"Datatype: (\w+)", read))),
        outputs=tuple(map(type_of, re.findall(r"Datatype: (\w+)", written))),
        tactic=tactic,
    )


def _nodes(name: str, metadata: str, names: NodeNames) -> frozenset[str]:
    told = metadata_names(metadata)
    return (
        frozenset().union(*(names.within(one) for one in told)) if told else names.within(name)
    )
